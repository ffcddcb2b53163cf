"""Trainers: each turns files of a training run into one model file; the only home of LightFM."""
