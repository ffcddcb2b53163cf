"""How regret falls as events grow: models trained on ever longer parts of one community's log.

All of them are judged at the same visits, those after the longest part, so that nothing differs
between them but what they had to learn from.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from ranking.bundle import ModelBundle
from ranking.config import RankingConfig
from ranking.metrics import bootstrap_interval, mean_by_user
from training.config import TrainingConfig
from training.errors import SimulationError, TooFewEvents
from training.event_log import EventLog
from training.flow import train_tenant
from training.simulation.community import Community
from training.simulation.config import SimulationConfig
from training.simulation.judge import Judge, JudgedVisit
from training.simulation.platform import LocalPlatform
from training.simulation.policy import Arm
from training.sources.base import Progress, no_progress
from training.testing import write_export

__all__ = ["LearningPoint", "learning_curve", "trained_arm"]

UNTRAINED = "newest"
"""What ranks where there were too few events for any model, as the platform does."""


class LearningPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was trained on the first `days` of a community, `events` of them.

    `regret` is the mean over the judged visits of the true worth that its slates lack to the best
    ones, `interval` its 95 % interval over members, `model` what training chose.
    """

    days: int
    events: int
    model: str
    regret: float
    interval: tuple[float, float]
    regrets: tuple[float, ...] = ()
    """Of each member, in order of name: those of two points can be compared one by one."""


def trained_arm(
    log: EventLog,
    directory: Path,
    config: TrainingConfig | None = None,
    *,
    name: str = "model",
    ranking: RankingConfig | None = None,
) -> Arm:
    """Train on a community's log as on any tenant's export; the bundle stays in `directory`.

    Raises `TooFewEvents`.
    """
    export = write_export(log, directory / "events")
    result = train_tenant(
        export,
        log.tenant,
        out=directory / "training",
        config=config,
        scheduler="inline",
        clock=lambda: log.events[-1].time_us,
    )
    bundle = ModelBundle.load(result.bundle)
    return Arm(
        name, ranking or RankingConfig.default(), scorer=bundle.scorer(), factors=bundle.factors()
    )


def learning_curve(
    config: SimulationConfig,
    serving: Arm,
    days: Sequence[int],
    directory: Path,
    *,
    judged_days: int = 1,
    training: TrainingConfig | None = None,
    progress: Progress = no_progress,
) -> list[LearningPoint]:
    """Train on the first `days` of a community (each of the numbers), and judge on what follows.

    The community lives `max(days)` days on `serving`, then `judged_days` more, whose visits judge.
    Where a part is too short for a model, newest first stands in. Bundles stay in `directory`.
    """
    if not days or min(days) < 1 or judged_days < 1:
        raise SimulationError(f"days are {list(days)} and {judged_days} judged: give at least 1")
    twin = LocalPlatform(serving)
    community = Community(config, twin)
    logs: dict[int, EventLog] = {}
    for day in range(1, max(days) + 1):
        progress("the community lives", day - 1, max(days))
        community.step()
        if day in days:
            logs[day] = twin.log()
    arms = []
    for number, (day, log) in enumerate(sorted(logs.items())):
        progress("training", number, len(logs))
        arms.append(_trained_or_newest(log, directory / f"days-{day}", training, f"days-{day}"))
    judge = Judge(community.truth, twin, [serving, *arms], serving)
    community.watch = judge.watch
    for number in range(judged_days):
        progress("judging", number, judged_days)
        community.step()
    return [
        _point(day, len(logs[day]), arm, judge.visits, config.seed)
        for day, arm in zip(sorted(logs), arms, strict=True)
    ]


def _trained_or_newest(
    log: EventLog, directory: Path, training: TrainingConfig | None, name: str
) -> Arm:
    try:
        return trained_arm(log, directory, training, name=name)
    except TooFewEvents:
        return Arm(name)


def _point(
    days: int, events: int, arm: Arm, visits: Sequence[JudgedVisit], seed: int
) -> LearningPoint:
    lacks = [visit.optimum - visit.values[arm.name] for visit in visits]
    _, means = mean_by_user([visit.user for visit in visits], lacks)
    interval = bootstrap_interval(means, seed)
    return LearningPoint(
        days=days,
        events=events,
        model=arm.scorer.name if arm.scorer else UNTRAINED,
        regret=float(np.mean(lacks)),
        interval=(interval.low, interval.high),
        regrets=tuple(means.tolist()),
    )
