"""How regret falls as events grow: models that learn from ever more days of one community.

All of them are judged at the same visits, those after the last day, so that nothing differs between
them but what they had to learn from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from feeds.events import EngagementKind
from feeds.model import position_of
from ranking.bundle import ModelBundle
from ranking.candidates import Candidates
from ranking.config import RankingConfig
from ranking.features import FEATURES, FeatureSpec, build
from ranking.metrics import bootstrap_interval, mean_by_user
from training.config import RequestConfig, SplitConfig, TrainingConfig
from training.errors import SimulationError, TooFewEvents
from training.events.log import EventLog
from training.flow import train_tenant
from training.simulation.community import Community, Visit
from training.simulation.config import SimulationConfig
from training.simulation.judge import Judge, JudgedVisit
from training.simulation.platform import LocalPlatform
from training.simulation.policy import Arm
from training.sources.base import Progress, no_progress
from training.testing import write_export
from training.trainers.heads import HeadsTrainer
from training.trainers.rows import POSITION, Examples, RowTrainer

__all__ = [
    "KINDS",
    "TRAINING",
    "LearningPoint",
    "LoggedSlates",
    "Taught",
    "learning_curve",
    "trained_arm",
]

KINDS: tuple[EngagementKind, ...] = ("click", "like", "hide")
"""What members do, and models learn to foretell."""

NAMES = tuple(
    name for name, feature in FEATURES.items() if name != POSITION and feature.family != "factors"
)
"""The features that models read: all that need no factors."""

VALIDATION_SHARE = 0.2
"""Share of the slates, the last ones, on which a model is calibrated and stopped."""

TRAINING = TrainingConfig(
    split=SplitConfig(factors=0.25, ranker=0.45, validation=0.15, test=0.15),
    requests=RequestConfig(shown_requests_min=20),
)
"""How a model of a community is trained: as a tenant's, from what was shown. A few requests are
enough, and the ranker has more of the days than factors, which need a long log."""

UNTRAINED = "newest"
"""What ranks before there is a model, as the platform does: newest first."""


class LearningPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was trained on the first `days` of a community, `events` of them.

    `regret` is the mean over the judged visits of the true worth that its slates lack to the best
    ones, `interval` its 95 % interval over members, `model` what ranks.
    """

    days: int
    events: int
    model: str
    regret: float
    interval: tuple[float, float]
    regrets: tuple[float, ...] = ()
    """Of each member, in order of name: those of two points can be compared one by one."""


@dataclass(frozen=True, slots=True)
class Taught:
    """A trained arm: which model validation chose, and from how many requests all of them learnt.

    Those were `shown`, or else are first touches.
    """

    arm: Arm
    chosen: str
    requests: int
    shown: bool

    @property
    def sentence(self) -> str:
        """What was learnt from, and what came of it."""
        learnt = (
            f"{self.requests:,} requests as they were shown"
            if self.shown
            else f"{self.requests:,} first touches, for too few requests were shown of which "
            "something was engaged with and something was not (raise train_days or users)"
        )
        return (
            f"Models learnt from {learnt}; validation chose {self.chosen}, which is the arm "
            f"{self.arm.name}."
        )


@dataclass(slots=True)
class LoggedSlates:
    """What a slate log and its events hold of every visit: features, places, reactions."""

    twin: LocalPlatform
    users: list[str] = field(default_factory=list)
    values: list[npt.NDArray[np.float32]] = field(default_factory=list)
    done: list[dict[str, npt.NDArray[np.bool_]]] = field(default_factory=list)

    def watch(self, visit: Visit) -> None:
        """Note a visit's slate, before the twin hears of its reactions."""
        if not visit.slate.activities:
            return
        table = self.twin.table
        rows = table.rows([position_of(each) for each in visit.slate.activities])
        shown = Candidates(rows, np.zeros(len(rows), np.int8), ("shown",))
        query = self.twin.query(visit.user, visit.kind, visit.now_us)
        self.users.append(visit.user)
        self.values.append(build(FeatureSpec(NAMES), query, shown, table).values)
        self.done.append({kind: np.zeros(len(rows), np.bool_) for kind in KINDS})
        for place, kind in visit.reactions:
            self.done[-1][kind][place] = True

    def examples(self) -> tuple[Examples, Examples]:
        """What to learn from, and what to stop on: the first slates, and the last."""
        first = int(len(self.users) * (1 - VALIDATION_SHARE))
        return self._part(slice(None, first)), self._part(slice(first, None))

    def _part(self, part: slice) -> Examples:
        values, done = self.values[part], self.done[part]
        sizes = [len(each) for each in values]
        engaged: dict[str, npt.NDArray[np.bool_]] = {
            kind: _joined([each[kind] for each in done]) for kind in KINDS
        }
        return Examples(
            names=NAMES,
            values=np.concatenate([np.zeros((0, len(NAMES)), np.float32), *values]),
            relevance=engaged["click"].astype(np.int8),
            sizes=np.array(sizes, np.int64),
            users=np.array(self.users[part], np.str_),
            engaged=engaged,
            shown_at=np.concatenate([np.zeros(0, np.int64), *map(np.arange, sizes)]),
        )


def _joined(flags: Sequence[npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
    return np.concatenate([np.zeros(0, np.bool_), *flags])


def trained_arm(
    log: EventLog,
    directory: Path,
    config: TrainingConfig | None = None,
    *,
    name: str = "model",
    ranking: RankingConfig | None = None,
) -> Taught:
    """Train on a community's log as on any tenant's export; the bundle stays in `directory`.

    It learns from the log's impressions, where they are enough. Raises `TooFewEvents`.
    """
    export = write_export(log, directory / "events")
    result = train_tenant(
        export,
        log.tenant,
        out=directory / "training",
        config=config or TRAINING,
        scheduler="inline",
        clock=lambda: log.events[-1].time_us,
    )
    bundle = ModelBundle.load(result.bundle)
    arm = Arm(
        name, ranking or RankingConfig.default(), scorer=bundle.scorer(), factors=bundle.factors()
    )
    (ranker,) = [part for part in result.report.parts if part.name == "ranker"]
    shown = "requests_shown" in result.report.counts
    return Taught(arm, result.report.model, ranker.requests, shown)


def learning_curve(
    config: SimulationConfig,
    serving: Arm,
    days: Sequence[int],
    *,
    judged_days: int = 1,
    trainer: RowTrainer | None = None,
    progress: Progress = no_progress,
) -> list[LearningPoint]:
    """Train on the slates of the first `days` (each of the numbers), and judge on what follows.

    The community lives `max(days)` days on `serving`, then `judged_days` more, whose visits judge.
    A model ranks the candidates of `serving`, without its chance. By default it is a logistic
    regression for each kind of reaction (`HeadsTrainer`), weighed by what the kinds are worth.
    Where a part is too short for a model, newest first stands in; that is also the first point, of
    0 days.
    """
    if not days or min(days) < 1 or judged_days < 1:
        raise SimulationError(f"days are {list(days)} and {judged_days} judged: give at least 1")
    trainer = trainer or HeadsTrainer(kinds=KINDS, classifier="linear")
    twin = LocalPlatform(serving)
    slates = LoggedSlates(twin)
    community = Community(config, twin, slates.watch)
    ranking = _without_chance(serving.config, config)
    arms, events = [Arm("days-0", ranking)], [0]
    for day in range(1, max(days) + 1):
        progress("living and learning", day - 1, max(days))
        community.step()
        if day in days:
            arms.append(_taught(slates, trainer, f"days-{day}", ranking, config.seed))
            events.append(len(twin.events))
    judge = Judge(community.truth, twin, [serving, *arms], serving)
    community.watch = judge.watch
    for number in range(judged_days):
        progress("judging", number, judged_days)
        community.step()
    return [
        _point(day, count, arm, judge.visits, config.seed)
        for day, count, arm in zip((0, *sorted(set(days))), events, arms, strict=True)
    ]


def _without_chance(serving: RankingConfig, config: SimulationConfig) -> RankingConfig:
    """The serving config with what engagements are worth to the members, and no exploration."""
    value = {kind: config.values.get(kind, 0.0) for kind in KINDS}
    change = {"exploration": {"policy": "none"}, "value": value}
    document = serving.to_document()
    return RankingConfig.parse({kind: part | change for kind, part in document.items()})


def _taught(
    slates: LoggedSlates, trainer: RowTrainer, name: str, ranking: RankingConfig, seed: int
) -> Arm:
    try:
        return Arm(name, ranking, scorer=trainer.fit(*slates.examples(), seed=seed).scorer)
    except TooFewEvents:
        return Arm(name, ranking)


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
