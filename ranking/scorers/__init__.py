"""Scorers: feature columns in, one score a candidate out; same length, same order."""
