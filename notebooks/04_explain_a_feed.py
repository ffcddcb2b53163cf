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
# # Explain a feed
#
# **The question.** A user asks: why do I see this, and why on top? You want to answer from what happened,
# not from what the code should do.
#
# **The data.** The slate log: every ranked slate with the features, scores and versions that it was made
# from, bit for bit. Point the notebook at your service with `HEADWATER_URL`, `HEADWATER_KEY` and
# `HEADWATER_USER`; without, it starts a service of its own, lets a made-up community live on it, trains
# a model of what they did, and lets them live on with it.

# %%
import os
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from ranking import RankingConfig
from training import ServedCommunity, ServedTenant, SimulationConfig, promote, train_tenant

URL, KEY = os.environ.get("HEADWATER_URL"), os.environ.get("HEADWATER_KEY", "")
USER = os.environ.get("HEADWATER_USER")
HOME = Path(os.environ.get("HEADWATER_OUT", ".headwater/notebooks")) / "04_explain_a_feed"
USERS = int(os.environ.get("HEADWATER_USERS", "80"))
DAYS = int(os.environ.get("HEADWATER_DAYS", "10"))

plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110})

# %%
community = None
if URL is None:
    shutil.rmtree(HOME, ignore_errors=True)
    # Until there is a model, by taste: where newest first serves, newest first is all there is to learn.
    by_taste = {
        "score": "3 * user_tag_rate + engagement_rate + 0.3 * 2 ^ (-age_h / 24)",
        "defaults": {"user_tag_rate": 0},
    }
    explores = {
        "slate_size": 20,
        "exploration": {"policy": "epsilon", "rate": 0.1},
        "fallback": by_taste,
    }
    community = ServedCommunity(
        HOME, SimulationConfig(users=USERS), RankingConfig.parse({"personalized": explores})
    )
    community.live(DAYS - 1)
    events = community.export("events", HOME / "events")
    model = train_tenant(
        events,
        community.tenant,
        out=HOME,
        registry=community.registry,
        promote=True,
        scheduler="inline",
    )
    if not model.promoted:  # a small community convinces no gate; here it is to be explained
        promote(community.tenant, model.version, registry=community.registry, force="to explain it")
    community.live(1, model_version=model.version)
tenant = ServedTenant(URL, KEY) if URL else community.client()

# %% [markdown]
# ## The feed
#
# What the user sees: a row a place. `score` is the scorer's number, `propensity` the probability with which
# just this activity stands in just this place.

# %%
feeds = {user: tenant.feed(user) for user in ([USER] if USER else community.users)}
user = max(feeds, key=lambda each: len(feeds[each]))
feed = feeds[user]
feed.head(10)[["actor", "object", "time", "score", "source", "reason", "propensity"]]

# %% [markdown]
# ## What became of the candidates?
#
# Each step of the ranking, and what the filters took out and why. Scoring the logged features again with
# the version that served them must give the very same bits, or nothing below means anything.

# %%
explained = tenant.explain(feed["slate_id"].iloc[0])
assert explained.bit_identical is not False, explained.document["recomputed"]
explained.stages()

# %%
explained.removed()

# %% [markdown]
# ## Who decided the places: the score, a rule, or chance?
#
# Left to the score alone, the points would fall from left to right. Adjustments multiply scores (here, each
# further activity of an author counts less), rules give places away, and exploration fills some by
# chance, to learn.

# %%
places = explained.to_frame()
multipliers = places.filter(like="multiplier_")
places["decided_by"] = "score"
places.loc[multipliers.lt(1).any(axis=1), "decided_by"] = "score, lowered by an adjustment"
places.loc[places["placed"].notna(), "decided_by"] = "a rule"
places.loc[places["explored"], "decided_by"] = "chance"
by_score_alone = (places["decided_by"] == "score").sum()
colours = {
    "score": "tab:blue",
    "score, lowered by an adjustment": "tab:purple",
    "a rule": "tab:green",
    "chance": "tab:orange",
}

figure, axes = plt.subplots(figsize=(9, 3.4), layout="constrained")
for decided_by, group in places.groupby("decided_by"):
    axes.scatter(
        group.index, group["score"], color=colours[decided_by], label=f"{decided_by} ({len(group)})"
    )
axes.set(
    title=f"The score alone decided {by_score_alone} of {len(places)} places, chance {places['explored'].sum()}",
    xlabel="place in the feed (0 is the top)",
    ylabel="score of the model",
)
axes.xaxis.get_major_locator().set_params(integer=True)
axes.legend(frameon=False, title="decided by", loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## What moves this feed?
#
# A contribution is what a feature added to a score (for trees: exact SHAP values); a row adds up to the
# score. Red lifts, blue lowers. A column of one colour moves the whole feed and orders nothing; look for
# columns that change.

# %%
contributions = explained.contributions()
features = contributions.drop(columns="bias")
spread = features.std().loc[lambda each: each > 0].sort_values(ascending=False)
top = features[spread.index[:8]].head(10)
labels = feed["object"].reindex(top.index).fillna("")
limit = top.abs().to_numpy().max() or 1.0

figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
image = axes.imshow(top, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
axes.set_xticks(range(top.shape[1]), top.columns, rotation=30, ha="right")
axes.set_yticks(range(len(top)), [f"{place}: {label}" for place, label in labels.items()])
axes.set(
    title=f"{spread.index[0]} tells the activities of this feed apart most",
    ylabel="place: activity",
)
figure.colorbar(image, label="added to the score")
plt.show()

# %% [markdown]
# ## Why does this stand above that?
#
# Two activities that the score placed: the difference of their scores, feature by feature, with the
# values that the model read.

# %%
by_score = places.index[~places["explored"]]
first, second = by_score[0], by_score[min(5, len(by_score) - 1)]
difference = (contributions.loc[first] - contributions.loc[second]).drop("bias")
difference = difference[difference != 0]
main = difference.reindex(difference.abs().sort_values(ascending=False).index[:8])
read = explained.features()
names = [
    f"{name}  ({read.loc[first, name]:.3g} and {read.loc[second, name]:.3g})" for name in main.index
]

figure, axes = plt.subplots(figsize=(9, 0.35 * len(main) + 1), layout="constrained")
axes.barh(
    names[::-1], main[::-1], color=["tab:red" if each > 0 else "tab:blue" for each in main[::-1]]
)
axes.axvline(0, color="black", linewidth=1)
axes.set(
    title=f"Place {first} beats place {second} by {difference.sum():+.2f}, mostly by {main.index[0]} ({main.iloc[0]:+.2f})",
    xlabel=f"difference of what a feature added to the score (values at places {first} and {second})",
)
plt.show()

# %% [markdown]
# ## What follows
#
# For the user there is `reason`, a phrase for each place. For you: if the feature that tells most apart
# should not, leave its family out and train again (notebook 02); if a rule decides too much, change it
# and preview (notebook 05); if chance does, lower `exploration.rate`, and know that the log then tells
# less (notebook 03).

# %%
pd.DataFrame(
    {"object": feed["object"], "reason": feed["reason"], "decided_by": places["decided_by"]}
).head(10)

# %%
tenant.close()
if community:
    community.stop()
