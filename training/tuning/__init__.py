"""Hyperparameters within a time budget: the search (Optuna), its spaces, and its step in a run."""
