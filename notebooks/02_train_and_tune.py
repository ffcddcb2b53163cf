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
# # Train and tune a tenant with Dask
#
# **The question.** Is it worth a search for hyperparameters? It costs minutes and always finds something
# that looks better where it searched. Whether it is better elsewhere is another matter.
#
# **The data.** A tenant's exported events, as in notebook 01.

# %%
import os
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt

from ranking import open_registry
from training import (
    ClusterConfig,
    SearchConfig,
    Study,
    TrainingConfig,
    compare_published,
    train_tenant,
)

EVENTS = Path(os.environ.get("HEADWATER_EVENTS", ".headwater/demo/movielens/events"))
TENANT = os.environ.get("HEADWATER_TENANT", "demo")
OUT = Path(os.environ.get("HEADWATER_OUT", ".headwater/notebooks/02_train_and_tune"))
SEARCH_S = float(os.environ.get("HEADWATER_SEARCH_S", "45"))
SCHEDULER = os.environ.get("HEADWATER_SCHEDULER")

OUT.mkdir(parents=True, exist_ok=True)
registry = f"mlflow+sqlite:///{(OUT / 'mlflow.db').resolve()}"
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110})

# %% [markdown]
# ## Train without a search, then with one
#
# The steps of a run are a graph of Dask tasks: read, factors, replay, one task for each ranker, choose,
# judge. Without a `scheduler` a cluster of local processes is made and ended again; `tcp://host:8786`
# sends the same graph to yours (`deploy/` has files for one), `inline` stays in this process.
#
# The search proposes by what it saw (Optuna's TPE), ends what falls behind (median pruning), and sees
# the validation part alone. Its first trial is the default, so it is never worse *there*.

# %%
config = TrainingConfig()
searched = replace(config, search=SearchConfig(seconds=SEARCH_S))
common = {"registry": registry, "scheduler": SCHEDULER, "cluster": ClusterConfig(workers=2)}

plain = train_tenant(EVENTS, TENANT, out=OUT / "plain", config=config, **common)
tuned = train_tenant(EVENTS, TENANT, out=OUT / "tuned", config=searched, **common)
tuned.report.to_frame().round(3)

# %% [markdown]
# ## Where did the time go?
#
# Steps of the two runs by the clock of the worker that did them. Rankers ran side by side, so the sum
# may be more than the whole. More workers help the step that is wide, not the one that is long.

# %%
seconds = {"plain": plain.report.seconds, "with a search": tuned.report.seconds}
steps = sorted(
    {step for each in seconds.values() for step in each} - {"all"},
    key=lambda s: seconds["with a search"].get(s, 0),
)
longest = steps[-1]

figure, axes = plt.subplots(figsize=(9, 0.32 * len(steps) + 1), layout="constrained")
for shift, (run, each) in zip((-0.2, 0.2), seconds.items()):
    axes.barh(
        [n + shift for n in range(len(steps))],
        [each.get(step, 0) for step in steps],
        height=0.38,
        label=f"{run}: {each['all']:.0f} s in all",
    )
axes.set_yticks(range(len(steps)), steps)
axes.set(
    title=f"With a search, {longest} takes longest ({seconds['with a search'][longest]:.0f} s)",
    xlabel="seconds",
)
axes.legend(frameon=False, loc="lower right")
plt.show()

# %% [markdown]
# ## What did the search find?
#
# The study is a document of the version, so the registry remembers what was tried. A point is a finished
# trial, a cross one that was ended early because it fell behind. The line is the best so far: where it is
# flat for long, more time buys nothing. The dotted one is what the run without a search chose.

# %%
models = open_registry(registry)
(version,) = [each for each in models.versions(TENANT) if each.version == tuned.version]
study = Study.from_json(models.documents(version)["study.json"])
models.close()
trials = study.to_frame()
trials.sort_values("score", ascending=False).head(5).round(4)

# %%
best = trials["best_so_far"].dropna().iloc[-1]
unsearched = plain.report.validation[plain.report.model]
spaces = dict(zip(trials["space"].unique(), ["tab:blue", "tab:orange", "tab:green"]))
finished = trials[trials["outcome"] == "finished"]
ended = trials[trials["outcome"] != "finished"]

figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
axes.axhline(unsearched, color="grey", linewidth=1, linestyle=":", label="without a search")
for space, group in finished.groupby("space"):
    axes.scatter(group.index, group["score"], color=spaces[space], label=space)
axes.plot(
    ended.index,
    [0.02] * len(ended),
    "x",
    color="grey",
    transform=axes.get_xaxis_transform(),
    label="ended early",
)
axes.step(
    trials.index,
    trials["best_so_far"],
    where="post",
    color="black",
    linewidth=1.2,
    label="best so far",
)
axes.set(
    title=f"{len(trials)} trials in {study.seconds:.0f} s: {best:.3f} on validation, {unsearched:.3f} without",
    xlabel="trial",
    ylabel=study.metric,
)
axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## Is it better where nobody searched?
#
# The best of many trials on validation flatters itself. The test part is looked at once. Both versions
# rank the same requests there; the interval of their difference draws whole users.

# %%
difference = compare_published(EVENTS, TENANT, tuned.version, plain.version, registry=registry)
print(difference.sentence)

# %%
searched_gain = tuned.report.validation[tuned.report.model] - unsearched
gains = {"validation (where it searched)": searched_gain, "test (unseen)": difference.difference}
low, high = difference.interval

figure, axes = plt.subplots(figsize=(9, 1.9), layout="constrained")
axes.axvline(0, color="grey", linewidth=1)
axes.scatter(list(gains.values()), list(gains), color=["tab:grey", "tab:orange"], zorder=2)
axes.hlines("test (unseen)", low, high, color="tab:orange", linewidth=2)
axes.set(
    title=f"On unseen requests the searched model is {difference.verdict}: {difference.difference:+.3f} [{low:+.3f}, {high:+.3f}]",
    xlabel=f"gain in NDCG@{difference.k} (95 % interval, draws users)",
    ylim=(-0.6, 1.6),
)
plt.show()

# %% [markdown]
# ## What follows
#
# Promote what passes the gates. Where the two are level, keep the simpler one and spend the time on data:
# logged impressions, more tags, more users. Where the search pays, keep its values as the tenant's
# recipe; `headwater train --tune-minutes 10` does the same from a schedule.

# %%
for run in (plain, tuned):
    verdicts = {gate.name: gate.verdict for gate in run.gates.gates}
    print(f"version {run.version} ({run.report.model}): {verdicts}")
