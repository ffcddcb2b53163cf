"""simulate: a community lives on a platform, and every arm is judged at the same visits."""

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from feeds.events import Engagement
from training.config import TrainingConfig
from training.errors import SimulationError
from training.evaluation.counterfactual import (
    CounterfactualConfig,
    CounterfactualReport,
    LoggedPlaces,
    folds_of,
)
from training.evaluation.counterfactual import estimate as estimate_places
from training.events.log import EventLog
from training.simulation.community import Community
from training.simulation.config import SimulationConfig
from training.simulation.judge import Judge, JudgedVisit
from training.simulation.learning import Taught, trained_arm
from training.simulation.platform import LocalPlatform, Mirrored, Platform
from training.simulation.policy import Arm, default_arms
from training.simulation.report import ArmReport, DayReport, SimulationReport
from training.simulation.service import service_days
from training.sources.base import Progress, no_progress

if TYPE_CHECKING:
    import pandas as pd

    from training.simulation.preferences import Preferences

__all__ = ["Simulation", "logged_places", "simulate"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MODEL = "model"
"""Name of the arm that is trained."""

STATEMENTS = (
    (
        "The members are made up: what is true of them holds for those who choose topics, authors "
        "and fresh activities by fixed tastes, and look at a feed from the top."
    ),
    (
        "An arm's value is the true worth of the slates that it would have made at the very visits "
        "that another arm served: it has not yet changed what members did before."
    ),
    (
        "The estimates are made from what a slate log holds, by the item-position model, with the "
        "probability of an activity in its place whatever stands above it."
    ),
)


@dataclass(frozen=True, slots=True)
class Simulation:
    """A finished simulation: `visits` are those that were judged, `log` all that happened."""

    report: SimulationReport
    visits: tuple[JudgedVisit, ...]
    log: EventLog
    truth: "Preferences"

    def visits_frame(self) -> "pd.DataFrame":
        """One row a judged visit, in order: who, when, what was served and the best there was.

        Columns `day`, `user`, `kind`, `served`, `observed`, `optimum`, and the true value of each
        arm's slate by the arm's name; values are in the worth of engagements.
        """
        import pandas as pd  # noqa: PLC0415 - half a second that only notebooks pay

        rows = [
            {
                "day": visit.day,
                "user": visit.user,
                "kind": visit.kind,
                "served": visit.served,
                "observed": float(visit.rewards.sum()),
                "optimum": visit.optimum,
                **visit.values,
            }
            for visit in self.visits
        ]
        return pd.DataFrame(rows).rename_axis("visit")


def simulate(
    config: SimulationConfig | None = None,
    arms: Sequence[Arm] | None = None,
    *,
    directory: Path | str | None = None,
    lived: bool = False,
    from_day: int = 0,
    train_days: int = 0,
    training: TrainingConfig | None = None,
    counterfactual: CounterfactualConfig | None = None,
    progress: Progress = no_progress,
) -> Simulation:
    """Live through the days with the first of the `arms` in charge, and judge all of them.

    With a `directory` the community lives on a real service there, over HTTP; without, on the same
    reducers and rankers in this process, some ten times as fast. With `lived`, each other arm also
    gets a community of its own to serve, in this process. Visits before `from_day` are not judged.
    With `train_days`, the first days are lived through beforehand, in this process, and an arm
    named `model`, trained on what was shown on them, is judged on the days after them; without a
    `training` config by `learning.TRAINING`. `progress` is told of
    each day. Raises `SimulationError`, or `TooFewEvents` where nothing can be trained.
    """
    config = (config or SimulationConfig()).check()
    arms = default_arms() if arms is None else arms
    serving = _serving(arms, directory is not None)
    started_s = time.monotonic()
    statements: tuple[str, ...] = STATEMENTS
    if train_days:
        taught = _trained(config, serving, train_days, training, progress)
        arms, statements = [*arms, taught.arm], (*STATEMENTS, taught.sentence)
        from_day = max(from_day, train_days)
    twin = LocalPlatform(serving)
    if directory is None:
        judged = _live(config, twin, twin, arms, from_day, progress, serving.name)
    else:
        with service_days(Path(directory), serving.config) as served:
            platform = Mirrored(served, twin)
            judged = _live(config, platform, twin, arms, from_day, progress, serving.name)
    if not judged.judge.visits:
        raise SimulationError("nobody read a feed: raise users, days or visits_per_day")
    lives = _lives(config, arms[1:], progress) if lived else {}
    report = SimulationReport(
        platform="local" if directory is None else "service",
        serving=serving.name,
        config=asdict(replace(config, values=dict(config.values))),
        counts=_counts(config, twin, judged.judge.visits),
        value=_mean([visit.served for visit in judged.judge.visits]),
        observed=_mean([float(visit.rewards.sum()) for visit in judged.judge.visits]),
        optimum=_mean([visit.optimum for visit in judged.judge.visits]),
        judged=len(judged.judge.visits),
        days=_days(judged),
        arms=_arms(judged.judge, arms, lives, counterfactual or CounterfactualConfig(), config),
        statements=statements,
        seconds=round(time.monotonic() - started_s, 3),
    )
    return Simulation(report, tuple(judged.judge.visits), twin.log(), judged.judge.truth)


def logged_places(
    visits: Sequence[JudgedVisit], arm: str, config: CounterfactualConfig, *, seed: int
) -> LoggedPlaces:
    """What the slate log says for an estimate of one arm: a row for each place that was shown.

    The reward model of DR knows the mean reward of each place, of other users.
    """
    slates = np.repeat(np.arange(len(visits)), [len(visit.rewards) for visit in visits])
    _, user = np.unique([visit.user for visit in visits], return_inverse=True)
    rewards = np.concatenate([visit.rewards for visit in visits])
    users = user[slates].astype(np.int64)
    places = np.concatenate([np.arange(len(visit.rewards)) for visit in visits])
    expected = _place_means(rewards, places, folds_of(users, config.folds, seed))
    return LoggedPlaces(
        rewards=rewards,
        propensities=np.concatenate([visit.logged for visit in visits]),
        targets=np.concatenate([visit.wanted[arm] for visit in visits]),
        slates=slates,
        users=users,
        predicted=expected,
        expected=expected,
    )


@dataclass(frozen=True, slots=True)
class _Judged:
    """A judge after its days, and how many events each day left."""

    judge: Judge
    events: tuple[int, ...]


def _serving(arms: Sequence[Arm], over_http: bool) -> Arm:
    """The first arm; raises `SimulationError` where it cannot be told apart, or served."""
    names = [arm.name for arm in arms]
    if not arms or len(set(names)) < len(names):
        raise SimulationError(
            f"the arms are {', '.join(names) or 'none'}: give at least one, each a name of its own"
        )
    if over_http and arms[0].scorer is not None:
        raise SimulationError(
            f"{arms[0].name} has a model, which a service takes from its registry: let an arm "
            "without one serve, or simulate without a directory"
        )
    return arms[0]


def _trained(
    config: SimulationConfig,
    serving: Arm,
    days: int,
    training: TrainingConfig | None,
    progress: Progress,
) -> Taught:
    """A model of what the community does in its first days, which are the same again later."""
    if days >= config.days:
        raise SimulationError(
            f"train_days is {days} of {config.days} days: leave at least one to judge the model on"
        )
    twin = LocalPlatform(serving)
    community = Community(config, twin)
    for day in range(days):
        progress("living to train", day, days)
        community.step()
    progress("training", 0, 1)
    with tempfile.TemporaryDirectory(prefix="headwater-simulation-") as directory:
        return trained_arm(twin.log(), Path(directory), training, name=MODEL)


def _live(
    config: SimulationConfig,
    platform: Platform,
    twin: LocalPlatform,
    arms: Sequence[Arm],
    from_day: int,
    progress: Progress,
    name: str,
) -> _Judged:
    community = Community(config, platform)
    judge = Judge(community.truth, twin, arms, arms[0], from_day)
    community.watch = judge.watch
    events = []
    for day in range(config.days):
        progress(f"{name} serves", day, config.days)
        before = len(twin.events)
        community.step()
        events.append(len(twin.events) - before)
    progress(f"{name} serves", config.days, config.days)
    return _Judged(judge, tuple(events))


def _lives(
    config: SimulationConfig, arms: Sequence[Arm], progress: Progress
) -> dict[str, tuple[float, ...]]:
    """What each arm would have been worth, day by day, had it served from the start."""
    lives = {}
    for arm in arms:
        twin = LocalPlatform(arm)
        judged = _live(config, twin, twin, [arm], 0, progress, arm.name)
        lives[arm.name] = tuple(day.served for day in _days(judged))
    return lives


def _days(judged: _Judged) -> tuple[DayReport, ...]:
    by_day: dict[int, list[JudgedVisit]] = {day: [] for day in range(len(judged.events))}
    for visit in judged.judge.visits:
        by_day[visit.day].append(visit)
    names = [arm.name for arm in judged.judge.arms]
    return tuple(
        DayReport(
            day=day,
            visits=len(visits),
            events=judged.events[day],
            served=_mean([visit.served for visit in visits]),
            observed=_mean([float(visit.rewards.sum()) for visit in visits]),
            optimum=_mean([visit.optimum for visit in visits]),
            arms={name: _mean([visit.values[name] for visit in visits]) for name in names},
        )
        for day, visits in by_day.items()
        if visits
    )


def _arms(
    judge: Judge,
    arms: Sequence[Arm],
    lives: Mapping[str, tuple[float, ...]],
    counterfactual: CounterfactualConfig,
    config: SimulationConfig,
) -> tuple[ArmReport, ...]:
    optimum = _mean([visit.optimum for visit in judge.visits])
    values = {arm.name: _mean([visit.values[arm.name] for visit in judge.visits]) for arm in arms}
    reports = []
    for arm in arms:
        value, told = values[arm.name], None
        if arm is not judge.serving:
            places = logged_places(judge.visits, arm.name, counterfactual, seed=config.seed)
            told = estimate_places(places, counterfactual, config.seed)
        reports.append(
            ArmReport(
                name=arm.name,
                value=value,
                regret=optimum - value,
                difference=value - values[judge.serving.name],
                estimate=told,
                covered=_covered(told, value),
                lived=lives.get(arm.name, ()),
            )
        )
    return tuple(reports)


def _covered(told: CounterfactualReport | None, value: float) -> dict[str, bool]:
    if told is None:
        return {}
    return {one.name: one.interval[0] <= value <= one.interval[1] for one in told.estimates}


def _place_means(rewards: Floats, places: Integers, folds: Integers) -> Floats:
    """The mean reward of each row's place over the rows of other folds, float64[n]."""
    means = np.zeros(len(rewards))
    for fold in np.unique(folds).tolist():
        others = folds != fold
        count = np.bincount(places[others], minlength=places.max() + 1)
        total = np.bincount(places[others], weights=rewards[others], minlength=len(count))
        means[~others] = (total / np.maximum(count, 1))[places[~others]]
    return means


def _counts(
    config: SimulationConfig, twin: LocalPlatform, visits: Sequence[JudgedVisit]
) -> dict[str, int]:
    """What there was: members, activities, follows, and what was seen and done, by kind."""
    names = {"Posted": "activities", "Followed": "follows", "Impression": "impressions"}
    found = Counter(
        event.kind + "s" if isinstance(event, Engagement) else names[type(event).__name__]
        for event in twin.events
    )
    return {"users": config.users, "visits": len(visits), "events": len(twin.events)} | dict(
        sorted(found.items())
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
