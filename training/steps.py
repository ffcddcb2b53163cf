"""The steps of a training run, as functions that any worker can run: paths and configs in and out.

Each step reads its input from files and leaves its output in files of the run's directory; what
travels between processes is small.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from feeds.counters import DAY_US
from feeds.events import Engagement
from feeds.model import TenantId, format_time
from ranking.bundle import ModelBundle
from ranking.features import FEATURES, FeatureMatrix, FeatureParameters, FeatureSpec
from ranking.scorers.factorization import FactorTable
from training.budget import Budget
from training.config import TrainingConfig
from training.errors import TooFewEvents
from training.evaluation.report import PartReport
from training.events.log import EventLog, read_event_log, read_manifest
from training.sets.dataset import TrainingSet, collect
from training.sets.impressions import shown_requests, slate_requests, without_places
from training.sets.replay import Answerable, replay
from training.sets.requests import Request, find_requests, thin_out
from training.sets.splits import PartName, Split, split_by_time
from training.sources.base import Progress, no_progress
from training.trainers.base import Stopwatch
from training.trainers.rows import Examples, Fitted, RowTrainer
from training.worth import Worth

__all__ = [
    "FEATURE_NAMES",
    "Plan",
    "SetFiles",
    "SetName",
    "Trained",
    "answered_requests",
    "build_sets",
    "factor_table",
    "part_report",
    "plan_run",
    "ranker_sets",
    "replayed_sets",
    "save_fitted",
    "train_ranker",
]

SetName = PartName | Literal["explore", "answered", "answered test"]
"""A set of requests: those of a part, those of the test part for the explore feed, or those of the
validation or test part that were answered, with the places of what was shown."""

LEFT_OUT = ("position",)
"""Features that training does not use: where an activity will be shown is not known before."""

FEATURE_NAMES = tuple(name for name in FEATURES if name not in LEFT_OUT)
"""The features of every training set."""

DEFAULT_PARAMETERS = FeatureParameters()
"""The numbers that features are computed with when a model is trained."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run: which events, how they are split, where files go.

    The config's heads have weights, and `worth` says where they are from; `young` says that there
    are too few days, empty where there are enough.
    """

    tenant: str
    export: Path
    scratch: Path
    config: TrainingConfig
    worth: str
    young: str
    split: Split
    counts: dict[str, int]
    fingerprint: str
    seconds: float
    budget: Budget

    def set_path(self, name: SetName) -> Path:
        """Where a set of requests lies."""
        return self.scratch / f"{name}.npz"


@dataclass(frozen=True, slots=True)
class Trained:
    """A model of a run and how it came about: factors in a file, a ranker as a bundle.

    `figures` are numbers by name: seconds, trees, interactions, NDCG on validation; `notes` are
    sentences for the report, `documents` go with the version, `trainer` is who trained a ranker.
    """

    name: str
    path: Path | None
    figures: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    trainer: RowTrainer | None = None
    documents: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SetFiles:
    """The sets of a run lie in its scratch directory, `<name>.npz` each.

    `factors` are those in the features, of all that were `tried`; `rows` are the candidates that
    train the rankers.
    """

    plan: Plan
    factors: Trained
    tried: tuple[Trained, ...]
    parts: tuple[PartReport, ...]
    rows: int
    fingerprint: str
    seconds: float


def plan_run(export: Path, tenant: str, scratch: Path, config: TrainingConfig) -> Plan:
    """Read the events, decide on the split, and make the run's `scratch` directory.

    Raises `ExportDamaged` or `TooFewEvents`.
    """
    watch = Stopwatch()
    started_s = time.time()
    log = read_event_log(export, tenant)
    worth = Worth.of(read_manifest(export, tenant)[1], config)
    split = split_by_time(log.events, config.check().split)
    counts = Counter(type(event).__name__.lower() for event in log.events)
    scratch.mkdir(exist_ok=True)  # Dask runs a step again if its worker ends
    return Plan(
        tenant=tenant,
        export=export,
        scratch=scratch,
        config=worth.within(config),
        worth=worth.sentence,
        young=_young(log, config.evaluation.young_days),
        split=split,
        counts={"events": len(log), **dict(sorted(counts.items()))},
        fingerprint=log.fingerprint,
        seconds=watch.seconds,
        budget=Budget(tenant, config.budget, started_s),
    )


def _young(log: EventLog, days_min: float) -> str:
    times = [event.time_us for event in log.events if isinstance(event, Engagement)]
    days = (max(times) - min(times)) / DAY_US
    if days >= days_min:
        return ""
    return (
        f"The data is too young: its engagements span {days:.1f} days. Of under {days_min:g} days "
        "a model may well be worse than newest first: record more before it ranks."
    )


def build_sets(plan: Plan, factors: Trained, tried: Sequence[Trained] = ()) -> SetFiles:
    """Replay the log once, and leave a set for each part that has requests, and for explore.

    The features of `factors` are those that were chosen of all that were `tried`. The ranker learns
    from requests that were really shown, where enough of them were logged.
    """
    watch = Stopwatch()
    plan.budget.check("the replay")
    limits: dict[PartName, int] = {
        "ranker": plan.config.requests.train_requests_max,
        "validation": plan.config.requests.validation_requests_max,
        "test": plan.config.requests.test_requests_max,
    }
    log = read_event_log(plan.export, plan.tenant)
    table = factor_table(factors.path)
    split, spec = plan.split, FeatureSpec(FEATURE_NAMES, parameters=DEFAULT_PARAMETERS)
    shown = shown_requests(
        log, plan.export, split.ranker_us, split.validation_us, spec, plan.config, table
    )
    answered: list[Request] = []
    if shown is not None:
        for part in ("validation", "test"):
            answered += answered_requests(log, plan.export, split, part, plan.config)
    sets = replayed_sets(log, plan.config, split, limits, table, answered=answered)
    if shown is not None:
        sets |= {"ranker": shown, "validation": without_places(sets["validation"])}
        validated = len([one for one in answered if one.time_us < split.test_us])
        counts = {"requests_shown": len(shown), "requests_answered": validated}
        plan = replace(plan, counts=plan.counts | counts)
    for name, data in sets.items():
        data.save(plan.set_path(name))
    return SetFiles(
        plan=plan,
        factors=factors,
        tried=tuple(tried),
        parts=tuple(part_report(name, sets[name], plan.split) for name in limits),
        rows=len(sets["ranker"].labels),
        fingerprint=sets["ranker"].fingerprint,
        seconds=watch.seconds,
    )


def answered_requests(
    log: EventLog,
    export: Path,
    split: Split,
    part: Literal["validation", "test"],
    config: TrainingConfig,
) -> list[Request]:
    """The requests of a part that were answered, with the places of what was shown."""
    limits = config.requests
    if part == "validation":
        begin_us, end_us, most = split.validation_us, split.test_us, limits.validation_requests_max
    else:
        end_us = max((event.time_us for event in log.events), default=0) + 1
        begin_us, most = split.test_us, limits.test_requests_max
    spec = FeatureSpec(FEATURE_NAMES, parameters=DEFAULT_PARAMETERS)
    return slate_requests(log, export, begin_us, end_us, spec, config, most)


def train_ranker(sets: SetFiles, trainer: RowTrainer) -> Trained:
    """Train one model on the sets of a run, and leave it as a bundle in its directory.

    Where there is too little to learn from, there is no bundle, and a note says why.
    """
    plan = sets.plan
    train, validation = ranker_sets(sets)

    def told(rounds: int, score: float) -> None:
        plan.budget.check(f"{trainer.name}, round {rounds} with {score:.4f}")

    try:
        fitted = trainer.fit(
            Examples.of(train), Examples.of(validation), seed=plan.config.seed, on_round=told
        )
    except TooFewEvents as error:
        return Trained(trainer.name, None, {"seconds": 0.0}, (f"Not trained: {error}.",))
    return replace(save_fitted(sets, trainer.name, fitted, train), trainer=trainer)


def ranker_sets(sets: SetFiles) -> tuple[TrainingSet, TrainingSet]:
    """The requests that train the rankers, and those of validation; the budget is looked at."""
    sets.plan.budget.check("the sets of the rankers")
    return (
        TrainingSet.load(sets.plan.set_path("ranker")),
        TrainingSet.load(sets.plan.set_path("validation")),
    )


def save_fitted(sets: SetFiles, name: str, fitted: Fitted, data: TrainingSet) -> Trained:
    """A model as a bundle in the run's directory, with the first of the data as golden slate."""
    golden = data.columns(fitted.scorer.spec.names).take(np.arange(min(len(data.labels), 100)))
    bundle = ModelBundle(
        TenantId(sets.plan.tenant),
        fitted.scorer,
        FeatureMatrix(golden.names, np.ascontiguousarray(golden.values)),
        trained_us=0,
        training_fingerprint=sets.fingerprint,
        metrics={},
    )
    path = sets.plan.scratch / f"{name}-{bundle.digest[:16]}"
    if not path.exists():  # Dask runs a step again if its worker ends
        bundle.save(path)
    return Trained(name, path, dict(fitted.figures), fitted.notes)


def factor_table(path: Path | None) -> FactorTable | None:
    """The factors in a file, or None where there were too few engagements for any."""
    return None if path is None else FactorTable.parse(path.read_bytes())


def replayed_sets(
    log: EventLog,
    config: TrainingConfig,
    split: Split,
    limits: Mapping[PartName, int],
    factors: FactorTable | None,
    parameters: FeatureParameters = DEFAULT_PARAMETERS,
    progress: Progress = no_progress,
    answered: Sequence[Request] = (),
) -> dict[SetName, TrainingSet]:
    """The set of each part with a limit, explore's, and those `answered`, in one pass over the log.

    The requests that train the ranker are those that teach something, and those for explore those
    that touched something outside of what was followed; the others are all there.
    """
    requests = find_requests(log.events, config.requests, split.boundaries)
    kept = thin_out(requests, split, limits, config.seed)
    chosen = [request for name in limits for request in kept[name]]
    chosen += [*_explored(kept["test"], split, config), *answered]
    chosen.sort(key=lambda request: request.place)
    names: list[SetName] = [*limits, "explore", "answered", "answered test"]
    found: dict[SetName, list[Answerable]] = {name: [] for name in names}
    spec = FeatureSpec(FEATURE_NAMES, parameters=parameters)
    for number, answer in enumerate(replay(log, chosen, spec, config.requests, factors)):
        progress("replay requests", number, len(chosen))
        found[_set_of(answer.request, split)].append(answer)
    return {
        name: collect(found.pop(name), FEATURE_NAMES, teaching=name == "ranker") for name in names
    }


def _set_of(request: Request, split: Split) -> SetName:
    if request.shown:
        return "answered test" if split.part(request.time_us) == "test" else "answered"
    return "explore" if request.kind == "explore" else split.part(request.time_us)


def _explored(test: list[Request], split: Split, config: TrainingConfig) -> list[Request]:
    """Some of the test requests, asked for the explore feed."""
    limit = config.requests.explore_requests_max
    some = thin_out(test, split, {"test": limit}, config.seed)["test"]
    return [replace(request, kind="explore") for request in some]


def part_report(name: PartName, data: TrainingSet, split: Split) -> PartReport:
    """What is in one part after the factors' own."""
    starts = {
        "ranker": split.ranker_us,
        "validation": split.validation_us,
        "test": split.test_us,
    }
    return PartReport(
        name=name,
        start=format_time(starts[name]),
        requests=len(data),
        users=len(set(data.users)),
        candidates_median=float(np.median(data.sizes)) if len(data) else 0.0,
        reach=data.reach,
    )
