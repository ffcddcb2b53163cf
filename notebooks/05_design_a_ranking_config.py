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
# # Design a ranking config and preview it
#
# **The question.** The feed shows too much of one author, and too little of what people care for. What
# would a change of the ranking config do to the feeds of your users, before any of them sees it?
#
# **The data.** The last requests of your users, which a preview ranks again with the new config. Point
# the notebook at your service with `HEADWATER_URL` and a key that may `admin` in `HEADWATER_KEY`; without,
# it starts a service of its own and lets a made-up community live on it for a few days.

# %%
import os
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from ranking import RankingConfig
from training import ServedCommunity, ServedTenant, SimulationConfig

URL, KEY = os.environ.get("HEADWATER_URL"), os.environ.get("HEADWATER_KEY", "")
HOME = Path(os.environ.get("HEADWATER_OUT", ".headwater/notebooks")) / "05_design_a_ranking_config"
USERS = int(os.environ.get("HEADWATER_USERS", "60"))
DAYS = int(os.environ.get("HEADWATER_DAYS", "6"))

plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110})

# %%
community = None
if URL is None:
    shutil.rmtree(HOME, ignore_errors=True)
    community = ServedCommunity(HOME, SimulationConfig(users=USERS))
    community.live(DAYS)
tenant = ServedTenant(URL, KEY) if URL else community.client()

# %% [markdown]
# ## What ranks today
#
# The active config, and how many authors stand behind ten places. Without a model it is newest first.

# %%
active = RankingConfig.parse(tenant.call("GET", "/v2/ranking-config")["document"])
today = tenant.preview(active, mode="fresh")
requests = today.to_frame()
requests.head()

# %% [markdown]
# A preview of the very config that ranks changes nothing, and is how to get the feeds as they are. Here is
# one, as its user sees it:

# %%
user = requests.loc[requests["new_length"].idxmax(), "user"]
tenant.feed(user, limit=10)[["actor", "object", "time", "score", "source", "reason"]]

# %% [markdown]
# ## Designs
#
# Each names what differs from the default. A mistake is told at once, with all the others in the document:

# %%
try:
    RankingConfig.parse({"personalized": {"caps": {"per_autor": 2}, "slate_size": 0}})
except Exception as error:
    print(error)

# %%
taste = {
    "score": "3 * user_tag_rate + engagement_rate + 0.3 * 2 ^ (-age_h / 24)",
    "defaults": {"user_tag_rate": 0},
}
designs = {
    "one author, one in a row": {"caps": {"in_row_author": 1}},
    "by taste": {"fallback": taste},
    "by taste, and wider": {
        "fallback": taste,
        "caps": {"page_size": 10, "per_author": 2},
        "sources": {"topics": {"on": True}, "second_degree": {"on": True}},
    },
}
configs = {name: RankingConfig.parse({"personalized": each}) for name, each in designs.items()}
previews = {name: tenant.preview(config, mode="fresh") for name, config in configs.items()}
summary = pd.DataFrame(
    {
        name: {
            each: preview.document[each]
            for each in ("overlap_at_10", "kendall_tau", "first_changed", "emptied")
        }
        for name, preview in previews.items()
    }
).T.rename_axis("design")
summary.round(2)

# %% [markdown]
# ## How much would change?
#
# A point is the feed of one user. On the right feeds share their first ten places with today's; at the
# top their order is the same. A design that moves everything is an experiment, not a tweak.

# %%
figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
for name, preview in previews.items():
    feeds = preview.to_frame().query("kind == 'personalized'")
    axes.scatter(
        feeds["overlap_at_10"],
        feeds["kendall_tau"],
        alpha=0.6,
        label=f"{name} ({feeds['first_changed'].mean():.0%} get another first place)",
    )
boldest = summary["overlap_at_10"].astype(float).idxmin()
axes.set(
    title=f"'{boldest}' changes most: {1 - summary.loc[boldest, 'overlap_at_10']:.0%} of the first ten places",
    xlabel="share of the first 10 places that stay",
    ylabel="Kendall's tau to today's order",
    xlim=(-0.03, 1.03),
)
axes.axhline(0, color="lightgrey", linewidth=1, zorder=0)
axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2))
plt.show()

# %% [markdown]
# ## What rises, what falls, what is new?
#
# One row a place: where each activity of the new feeds stood before. A design that hardly lifts anything is
# a finding too: what ranks today already does what it asks for (here `adjustments.author_spread`).

# %%
places = pd.concat(
    {name: preview.places() for name, preview in previews.items()},
    names=["design", "request", "position"],
)
first_ten = places.query("kind == 'personalized' and position < 10")
came_from = pd.cut(
    first_ten["was"].astype("float64").fillna(float("inf")),
    [-1, 9, 24, 1e6, float("inf")],
    labels=["first 10", "places 11 to 25", "further down", "not in the feed"],
)
shares = came_from.groupby(level="design").value_counts(normalize=True).unstack().reindex(configs)
shares.round(2)

# %%
colours = ["lightgrey", "tab:blue", "tab:purple", "tab:orange"]
lifted = 1 - shares["first 10"].fillna(0)

figure, axes = plt.subplots(figsize=(9, 2.6), layout="constrained")
shares.plot.barh(stacked=True, ax=axes, color=colours, width=0.7)
axes.set(
    title=f"'{lifted.idxmax()}' lifts {lifted.max():.0%} of its first ten places from further down",
    xlabel="share of the first ten places",
    ylabel="",
    xlim=(0, 1),
)
axes.legend(
    title="where it stood before", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
)
plt.show()

# %% [markdown]
# ## Where do candidates come from?
#
# Sources of the first ten places. A source that brings nothing costs time for nothing.

# %%
everything = pd.concat(
    {"today": today.places()} | {name: preview.places() for name, preview in previews.items()},
    names=["design", "request", "position"],
)
sources = (
    everything.query("kind == 'personalized' and position < 10")
    .groupby("design")["source"]
    .value_counts(normalize=True)
    .unstack(fill_value=0)
    .reindex(["today", *configs])
)
sources.round(2)

# %% [markdown]
# ## Save, activate, look, go back
#
# A version is saved, and ranks once it is activated in place of the version that you saw. Readers see it at
# once; `rollback` is one call. (`docs/ranking-config-versions.md`)

# %%
chosen = "one author, one in a row"
version = tenant.call("POST", "/v2/ranking-configs", configs[chosen].to_document())["version"]
seen = tenant.call("GET", "/v2/ranking-config")["version"]
if community:  # on your own service, decide first
    tenant.call("POST", f"/v2/ranking-configs/{version}/activate", {"expected_version": seen})
    after = tenant.feed(user, limit=10)
    tenant.call("POST", "/v2/ranking-configs/rollback")
    print(after["actor"].to_string())

# %% [markdown]
# ## What follows
#
# A preview says what would change, not whether that is good. Simulate the design (notebook 06), or let
# it explore a little and ask the slate log (notebook 03). Then activate it.

# %%
tenant.close()
if community:
    community.stop()
