"""Ranking: candidates, features, scorers, slates, the model bundle; one code for both sides."""
