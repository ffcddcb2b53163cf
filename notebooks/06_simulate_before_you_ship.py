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
# # Simulate before you ship
#
# **The question.** You have a ranking config that you believe in. Would it have done better than what
# ranks today, for whom, and would your slate log have told you so?
#
# **The data.** Nobody's. A community is made up whose true preferences are known, so every way to rank
# can be held to the truth. It follows, posts, reads from the top, clicks, likes and hides, and the
# ranking code that it lives on is the one that serves. `docs/simulation.md` has its laws.

# %%
import os

import matplotlib.pyplot as plt
import pandas as pd

from ranking import RankingConfig
from training import Arm, SimulationConfig, simulate

USERS = int(os.environ.get("HEADWATER_USERS", "250"))
DAYS = int(os.environ.get("HEADWATER_DAYS", "14"))
WARM_UP_DAYS = DAYS // 3

plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110})

# %% [markdown]
# ## The arms
#
# An *arm* is a way to rank: a config, with a model or without. The first one serves. It is today's
# newest first, with chance in three of ten places: without chance a log can tell nothing about
# anything else. Beside it stands newest first without chance, the most popular of the week, and the
# candidate: an expression that favours topics whose activities the reader engages with when they
# are shown, liked activities, and fresh ones.

# %%
candidate_score = {
    "score": "3 * user_tag_rate + engagement_rate + 0.3 * 2 ^ (-age_h / 24)",
    "defaults": {"user_tag_rate": 0},
}
chance = {"exploration": {"policy": "epsilon", "rate": 0.3}}
no_chance = {"explore": {"exploration": {"policy": "none"}}}


def config(**personalized):
    return RankingConfig.parse(no_chance | {"personalized": personalized})


arms = [
    Arm("serving", config(**chance)),
    Arm("newest", config()),
    Arm("popular", config(fallback={"score": "engagements_7d"})),
    Arm("candidate", config(fallback=candidate_score)),
]

# %% [markdown]
# ## Live through it
#
# At each visit every arm is asked for the slate that it would have made, and its *value* is the sum
# over places of the probability that the place is looked at times what its activity is worth to this
# member (a click 1, a like 1 more, a hide -1). That is the truth. The *estimates* (IPS, SNIPS, DR) see
# only what your slate log would: what was shown, with which probability, and what came of it. With
# `lived=True` each arm also gets a community of its own. The first days only fill the feeds.

# %%
result = simulate(SimulationConfig(users=USERS, days=DAYS), arms, lived=True, from_day=WARM_UP_DAYS)
report = result.report
frame = report.to_frame()
frame.round(3)

# %%
pd.Series(report.counts, name="count").to_frame().T

# %% [markdown]
# ## Was the candidate better, and would the log have said so?
#
# The bar is the truth, the points are what the log says, with 95 % intervals. Where the intervals
# hold the bar, an estimate from your own slate log can be trusted on a question like this one. Where
# what serves could hardly have shown what an arm would, the log cannot tell, and no number is given:
# more chance, or more visits, would mend that.

# %%
others = frame.drop(index="serving").sort_values("value")
told = [arm for arm in report.arms if arm.estimate and arm.estimate.estimates]
unheard = [arm.name for arm in report.arms if arm.estimate and arm.estimate.refusal]
held = sum(sum(arm.covered.values()) for arm in told)
asked = sum(len(arm.covered) for arm in told)

figure, axes = plt.subplots(figsize=(9, 3.4), layout="constrained")
axes.barh(others.index, others["value"], color="lightgrey", height=0.8, label="truth")
for number, (name, colour) in enumerate(
    {"IPS": "tab:blue", "SNIPS": "tab:green", "DR": "tab:purple"}.items()
):
    points = [(arm.name, arm.estimate.of(name)) for arm in told]
    values = [one.value for _, one in points]
    error = [
        [one.value - one.interval[0] for _, one in points],
        [one.interval[1] - one.value for _, one in points],
    ]
    heights = [others.index.get_loc(arm) + 0.25 * (number - 1) for arm, _ in points]
    axes.errorbar(values, heights, xerr=error, fmt="o", color=colour, capsize=3, label=name)
for arm in unheard:
    axes.text(0.01, others.index.get_loc(arm), "  the log cannot tell", va="center", style="italic")
axes.axvline(report.value, color="black", linestyle=":", label="what was served")
axes.set(
    title=f"{frame['value'].idxmax()} is worth most; {held} of {asked} intervals from the log hold the truth",
    xlabel="value of a visit (engagements, weighted)",
    xlim=(0, None),
)
axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
for arm in report.arms:
    if arm.estimate:
        print(f"{arm.name}: {arm.estimate.verdict}")

# %% [markdown]
# ## Does it last?
#
# The same visits are one question, the long run is another. What an arm shows today is what members
# engage with, follow and have seen tomorrow. An arm that shows the same favourites again looks fine
# at another arm's visits, and wears out on its own.

# %%
lived = pd.DataFrame({arm.name: arm.lived for arm in report.arms if arm.lived}).rename_axis("day")
lived.insert(0, "serving", report.days_frame()["served"])
by_day = lived.loc[WARM_UP_DAYS:].rolling(3, min_periods=1).mean()
last = lived.loc[DAYS // 2 :].mean()

figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
colours = {
    "candidate": "tab:orange",
    "serving": "black",
    "newest": "tab:blue",
    "popular": "tab:red",
}
for arm in by_day:
    axes.plot(by_day.index, by_day[arm], color=colours[arm], linewidth=2, label=arm)
axes.set(
    title=f"Left to serve, {last.idxmax()} is worth most in the second half: {last.max():.2f} a visit; "
    f"{last.idxmin()} least, {last.min():.2f}",
    xlabel="day",
    ylabel="true value of a visit, mean of 3 days",
    ylim=(0, None),
)
axes.legend(frameon=False, ncols=len(by_day.columns))
plt.show()

# %% [markdown]
# ## Who gains, who loses?
#
# A mean hides people. One point is a member: what a visit is worth under what serves today, and under
# the candidate. Below the line it does worse by that member.

# %%
visits = result.visits_frame()
members = visits.groupby("user")[["serving", "candidate", "optimum"]].mean()
gain = members["candidate"] - members["serving"]

figure, axes = plt.subplots(figsize=(5.2, 5), layout="constrained")
axes.scatter(
    members["serving"],
    members["candidate"],
    c=gain.gt(0).map({True: "tab:orange", False: "tab:blue"}),
)
top = members.to_numpy().max()
axes.plot([0, top], [0, top], color="black", linewidth=1)
axes.set(
    title=f"The candidate is better for {(gain > 0).mean():.0%} of {len(members)} members",
    xlabel="value of a visit today",
    ylabel="value of a visit with the candidate",
    aspect="equal",
)
plt.show()
members.assign(gain=gain).sort_values("gain").round(3).head()

# %% [markdown]
# ## What follows
#
# The members are made up. What holds here holds for people who choose by topic, author and
# freshness, and look from the top; it says which ideas are worth the next step, not what your users
# will do. The next steps: preview the config on your own users' last requests (notebook 05), let it
# explore a little, and ask your own slate log (notebook 03). `simulate(..., directory="somewhere")` lives
# the same days on a real service over HTTP; `headwater simulate` is this notebook as a command.

# %%
for sentence in report.statements:
    print(f"* {sentence}")
