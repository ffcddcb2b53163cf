"""Judging: rankings on the past, two of them against each other, what another would have earned.

rankings               metrics with intervals over users; bootstrap: where those come from
comparison             which of two is better, by how much, and for whom
counterfactual         IPS, SNIPS and DR on arrays; counterfactual_slates: on exported slates
report                 what was found; report_details, report_plots, report_pages: for people
"""
