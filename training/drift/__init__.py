"""Whether a model still serves what it learnt from: drift, staleness, degraded replies.

histograms   a training set's columns and the model's scores in bins: they go with a version
measure      the last day of slates beside them, as a report
metrics      the report's figures for Prometheus; watch: those of every tenant of a schedule
plots        of a report; pages: the report for people
"""
