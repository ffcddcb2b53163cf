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
# # Quickstart: a tenant's model, from events to the registry
#
# You need an export of a tenant's events. `make demo` leaves one in `.headwater/demo/movielens/events`;
# `headwater export --tenant NAME --out DIR` makes one of your own. This notebook loads it, looks at
# it, trains, judges what came out beside the baselines, and registers it.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt

from training import load_events, train_tenant

EVENTS = Path(os.environ.get("HEADWATER_EVENTS", ".headwater/demo/movielens/events"))
TENANT = os.environ.get("HEADWATER_TENANT", "demo")
OUT = Path(os.environ.get("HEADWATER_OUT", ".headwater/notebooks/01_quickstart"))

# %% [markdown]
# ## The events
#
# One row for each fact, in the order of the log: activities posted, follows, impressions,
# engagements. A column is null where a type has no such field.

# %%
events = load_events(EVENTS, TENANT)
events.sample(min(5, len(events)), random_state=0).sort_values("time")

# %%
by_day = events.groupby([events["time"].dt.floor("D"), "type"]).size().unstack(fill_value=0)

figure, axes = plt.subplots(figsize=(9, 3.2))
by_day.plot(ax=axes, linewidth=1.4)
axes.set(title=f"Events of tenant {TENANT} by day", xlabel="", ylabel="events")
axes.legend(title="", frameon=False)
axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# ## Train
#
# The events are replayed through the same reducers that count online, so that each feature is what
# it was when the request was made. LightFM's factors come from the earliest part, XGBoost's
# training requests from the part after it; validation chooses among the models, and the test part
# is looked at once. The steps run as Dask tasks; `scheduler="tcp://…"` sends them to a cluster.

# %%
registry = f"mlflow+sqlite:///{(OUT / 'mlflow.db').resolve()}"
OUT.mkdir(parents=True, exist_ok=True)
result = train_tenant(EVENTS, TENANT, out=OUT, registry=registry, promote=False)
result.report.to_frame().round(3)

# %% [markdown]
# ## Is it better?
#
# A point is the mean NDCG@10 over requests, the line its 95 % interval from a bootstrap that draws
# whole users. Where the interval of a difference holds 0, the sentence says *level*: no luck is sold
# as skill. The mean over users (`by_user` above) stands beside it, and may say something else.

# %%
frame = result.report.to_frame().sort_values("ndcg@10")

figure, axes = plt.subplots(figsize=(9, 0.4 * len(frame) + 1))
colours = ["tab:orange" if chosen else "tab:blue" for chosen in frame["chosen"]]
axes.hlines(frame.index, frame["low"], frame["high"], color=colours, linewidth=2)
axes.scatter(frame["ndcg@10"], frame.index, color=colours, zorder=2)
axes.set(title="NDCG@10 on the test part, 95 % intervals (chosen model in orange)", xlim=(0, None))
axes.grid(axis="x", alpha=0.3)
axes.spines[["top", "right"]].set_visible(False)
plt.show()
print("\n".join(result.report.verdicts))

# %% [markdown]
# ## Register
#
# The version is in MLflow as plain files: a manifest, XGBoost's own format, arrays. `promote` makes
# it `live`; a running service follows that alias and swaps to it without dropping a request. The
# former live version stays as `previous`, and `roll_back` returns to it.

# %%
from ranking import open_registry

models = open_registry(registry)
models.promote(TENANT, result.version)
models.alias(TENANT, "live")

# %%
models.close()
