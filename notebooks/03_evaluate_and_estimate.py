# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Is it better? Offline, and from what was shown
#
# **The question.** A model looks better on past events. Is it, for whom, and would it have earned more on
# what was really shown? Two kinds of evidence, each blind where the other sees:
#
# * *Offline*: past requests are ranked again, and what people touched should be on top. It knows nothing
#   of what would have been touched had it been shown.
# * *Counterfactual*: the slate log has the probability of everything that was shown. What came of it is
#   weighed by how likely another ranking would have shown the same. It says nothing where the log could not
#   have shown it.
#
# **The data.** Events and slates. Exports of your own in `HEADWATER_EVENTS` and `HEADWATER_SLATES` with their
# model in `HEADWATER_REGISTRY`; without, a made-up community on a service of its own.

# %%
import os
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from ranking import ExpressionScorer, RankingConfig
from training import (
    ServedCommunity,
    SimulationConfig,
    compare_with_served,
    evaluate,
    parity_of,
    promote,
    published_bundle,
    train_tenant,
)

SLATES = os.environ.get("HEADWATER_SLATES")
HOME = Path(os.environ.get("HEADWATER_OUT", ".headwater/notebooks")) / "03_evaluate_and_estimate"
USERS = int(os.environ.get("HEADWATER_USERS", "120"))
DAYS = int(os.environ.get("HEADWATER_DAYS", "14"))

plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110})

# %% [markdown]
# The community lives on newest first for a while; a model is trained of that, and then serves, with chance in
# three of ten places, so that its log can tell of other rankings. Candidates that were not shown are logged too:
# without them nobody knows what else could have been. Authors are not spread, since a candidate is judged by its
# scores alone.

# %%
if SLATES:
    events, slates = os.environ["HEADWATER_EVENTS"], SLATES
    tenant, registry = os.environ["HEADWATER_TENANT"], os.environ["HEADWATER_REGISTRY"]
    version = int(os.environ["HEADWATER_VERSION"])
else:
    shutil.rmtree(HOME, ignore_errors=True)
    explores = {
        "slate_size": 10,
        "exploration": {"policy": "epsilon", "rate": 0.3},
        "adjustments": {"author_spread": {"on": False}},
    }
    config = RankingConfig.parse({"personalized": explores})
    with ServedCommunity(HOME, SimulationConfig(users=USERS), config) as community:
        tenant, registry = community.tenant, community.registry
        community.live(DAYS // 2)
        before = community.export("events", HOME / "before")
        model = train_tenant(
            before, tenant, out=HOME, registry=registry, promote=True, scheduler="inline"
        )
        version = model.version
        if not model.promoted:  # a small community convinces no gate
            promote(tenant, version, registry=registry, force="to learn from its slates")
        community.live(DAYS - DAYS // 2, model_version=version)
        events = community.export("events", HOME / "events")
        slates = community.export("slates", HOME / "slates")

# %% [markdown]
# ## Offline: beside the baselines, for all and for whom
#
# The version on the test part, the last events. A point is the mean NDCG@10 over requests, the line its 95 %
# interval over users.

# %%
report = evaluate(events, tenant, registry=registry, version=version)
frame = report.to_frame().sort_values("ndcg@10")
print("\n".join(report.verdicts))
frame.round(3)

# %%
chosen = report.result
colours = ["tab:orange" if name == report.model else "tab:blue" for name in frame.index]

figure, axes = plt.subplots(figsize=(9, 0.4 * len(frame) + 1), layout="constrained")
axes.hlines(frame.index, frame["low"], frame["high"], color=colours, linewidth=2)
axes.scatter(frame["ndcg@10"], frame.index, color=colours, zorder=2)
axes.set(
    title=f"{frame.index[-1]} ranks past requests best; the model's NDCG@10 is {chosen.ndcg:.2f}",
    xlabel="NDCG@10 (mean over requests, 95 % interval over users)",
    xlim=(0, None),
)
axes.grid(axis="x", alpha=0.3)
plt.show()

# %%
bands = report.bands_frame()
bands.round(3)

# %% [markdown]
# ## Is what is judged here what is served there?
#
# The logged features are scored again with this version. If not the very same bits come out, stop: no figure
# below is about the model that serves.

# %%
_, bundle = published_bundle(tenant, version, registry=registry)
scorer = bundle.scorer()
parity = parity_of(slates, tenant, scorer, version)
print(parity.sentence)
assert parity.identical is not False

# %% [markdown]
# ## Counterfactual: what would other rankings have earned?
#
# Candidates on the same slates: the model without chance, newest first, and a formula. They can read what was
# logged, the features of the model that served; a candidate that reads more is left out. IPS weighs, SNIPS
# divides by the mean weight, DR adds a reward model. Where the log cannot tell, there is no number but a reason.

# %%
rankings = {
    "the model, no chance": scorer,
    "newest first": ExpressionScorer.of({"score": "-age_h"}),
    "engaged with when shown": ExpressionScorer.of({"score": "engagement_rate - 0.01 * age_h"}),
}
logged = set(scorer.spec.names)
candidates = {name: each for name, each in rankings.items() if logged.issuperset(each.spec.names)}
estimates = {
    name: compare_with_served(slates, events, tenant, each) for name, each in candidates.items()
}
told = pd.concat(
    {name: each.to_frame() for name, each in estimates.items()}, names=["candidate", "estimator"]
)
for name, each in estimates.items():
    print(f"{name}: {each.verdict}")
told.round(3)

# %%
served = next(iter(estimates.values()))
shifts = {"IPS": -0.25, "SNIPS": 0.0, "DR": 0.25}
tints = {"IPS": "tab:blue", "SNIPS": "tab:green", "DR": "tab:purple"}
rows = {name: row for row, name in enumerate(estimates)}
refused = [name for name, each in estimates.items() if each.refusal]

figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
axes.axvline(0, color="black", linestyle=":", label=f"served ({served.served:.2f} a slate)")
for estimator, group in told.groupby(level="estimator", sort=False):
    heights = [rows[name] + shifts[estimator] for name in group.index.get_level_values("candidate")]
    axes.hlines(
        heights,
        group["difference_low"],
        group["difference_high"],
        color=tints[estimator],
        linewidth=2,
    )
    axes.scatter(group["difference"], heights, color=tints[estimator], label=estimator)
for name in refused:
    axes.text(0, rows[name], "  the log cannot tell", va="center", style="italic")
better = [
    name
    for name, each in estimates.items()
    if each.estimates and each.estimates[-1].verdict == "better"
]
axes.set_yticks(list(rows.values()), list(rows))
axes.set(
    title=f"{len(better)} of {len(rows) - len(refused)} candidates would have earned more than what was served"
    if len(rows) > len(refused)
    else "Too little was shown of what the candidates would show",
    xlabel="engagements a slate, more than what was served (95 % interval)",
    ylim=(-0.6, len(rows) - 0.4),
)
axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## How much does the log know?
#
# Places that count in effect (Kish) and support, the share of what the candidate would show that the log could
# have shown. Below 50 places or a support of 0.8 nothing is said. More chance or more days raise both.

# %%
pd.DataFrame(
    {
        name: {
            "slates": each.slates,
            "places": each.places,
            "effective_places": each.effective_places,
            "support": each.support,
            "rewarded": each.rewarded,
        }
        for name, each in estimates.items()
    }
).T.rename_axis("candidate").round(2)

# %% [markdown]
# ## What follows
#
# Where both agree, promote: the gates of a training run ask the same questions (`docs/models.md`). Where offline says
# better and the slate log level, people touch what they are shown: trust the log. Where the log cannot tell, let the
# service explore a little more, or simulate first (notebook 06).
