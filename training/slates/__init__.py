"""Exported slates: one by one (logged), and as arrays with propensities and features (served)."""
