"""What a report says beside its table: for whom, how far scores are probabilities, and why."""

from collections.abc import Mapping
from dataclasses import replace

import msgspec
import numpy as np
import numpy.typing as npt

from ranking.metrics import reliability
from ranking.scorers.base import ExplainingScorer, Scorer
from training.config import EvaluationConfig
from training.evaluation.rankings import RankerResult, Scores, judge
from training.sets.dataset import TrainingSet
from training.trainers.calibration import calibrate

__all__ = [
    "BAND_EDGES",
    "BandReport",
    "Details",
    "ReliabilityReport",
    "detail",
    "requests_of",
]

BAND_EDGES = (0, 10, 100)
"""Engagements before the request at which a band of users begins."""

ACTIVITY = "user_engagements"
"""The column that tells a user's band."""

RELIABILITY_BINS = 10
"""Bins of equally many candidates in a reliability diagram."""

EXPLAINED_ROWS_MAX = 2_000
"""Candidates, spread evenly over the test part, whose scores are taken apart."""

CALIBRATED = (
    "Scores became probabilities of an engagement by isotonic regression on the validation part; "
    "the diagram is of the test part."
)


class BandReport(msgspec.Struct, frozen=True):
    """The requests of users with so many engagements before them, judged apart."""

    name: str
    requests: int
    users: int
    rankers: tuple[RankerResult, ...]


class ReliabilityReport(msgspec.Struct, frozen=True):
    """Predicted probabilities beside what came true, in bins; `error` is the ECE."""

    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    candidates: int
    error: float
    basis: str
    """How scores became probabilities."""


class Details(msgspec.Struct, frozen=True):
    """All of it; what could not be told is empty or None."""

    bands: tuple[BandReport, ...] = ()
    reliability: ReliabilityReport | None = None
    importance: dict[str, float] = {}
    """Mean absolute contribution of each feature to a score, the largest first."""


def detail(
    test: TrainingSet,
    rankings: Mapping[str, Scores],
    scorer: Scorer,
    validation: TrainingSet,
    config: EvaluationConfig,
    seed: int,
) -> Details:
    """Bands of users for every ranking; reliability and importance of the scorer."""
    return Details(
        bands=_bands(test, rankings, config, seed),
        reliability=_reliability(test, validation, scorer),
        importance=_importance(test, scorer),
    )


def requests_of(data: TrainingSet, chosen: npt.NDArray[np.bool_]) -> TrainingSet:
    """Some of the requests, bool[q], with their candidates."""
    rows = np.repeat(chosen, data.sizes)
    return replace(
        data,
        values=data.values[rows],
        labels=data.labels[rows],
        activities=data.activities[rows],
        sizes=data.sizes[chosen],
        wanted=data.wanted[chosen],
        times_us=data.times_us[chosen],
        users=tuple(user for user, kept in zip(data.users, chosen.tolist(), strict=True) if kept),
    )


def _bands(
    data: TrainingSet, rankings: Mapping[str, Scores], config: EvaluationConfig, seed: int
) -> tuple[BandReport, ...]:
    if ACTIVITY not in data.names:
        return ()
    asked = data.sizes > 0
    before = np.zeros(len(data))
    before[asked] = data.matrix.column(ACTIVITY)[data.starts[:-1][asked]]
    band = np.searchsorted(BAND_EDGES, before, side="right") - 1
    found = []
    for number in range(len(BAND_EDGES)):
        chosen = asked & (band == number)
        if not data.relevant[chosen].any():
            continue
        some, rows = requests_of(data, chosen), np.repeat(chosen, data.sizes)
        scores = {name: each[rows] for name, each in rankings.items()}
        results = judge(some, scores, config, seed)
        found.append(BandReport(_band_name(number), len(some), len(set(some.users)), results))
    return tuple(found)


def _band_name(number: int) -> str:
    low = BAND_EDGES[number]
    if number + 1 == len(BAND_EDGES):
        return f"{low} or more engagements"
    return f"{low} to {BAND_EDGES[number + 1] - 1} engagements"


def _reliability(
    test: TrainingSet, validation: TrainingSet, scorer: Scorer
) -> ReliabilityReport | None:
    """None where validation has no engagement, or nothing else."""
    known, happened = _told(validation, scorer)
    judged, came_true = _told(test, scorer)
    if happened.all() or not happened.any() or not len(judged):
        return None
    probabilities = calibrate("isotonic", known, happened).probability(judged)
    found = reliability(np.clip(probabilities, 0, 1), came_true, RELIABILITY_BINS)
    return ReliabilityReport(
        predicted=tuple(found.predicted.tolist()),
        observed=tuple(found.observed.tolist()),
        candidates=len(judged),
        error=found.error,
        basis=CALIBRATED,
    )


def _told(
    data: TrainingSet, scorer: Scorer
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The scores that are numbers, and whether their candidates were engaged with."""
    scores = scorer.score(data.columns(scorer.spec.names)).astype(np.float64)
    finite = np.isfinite(scores)
    return scores[finite], data.labels[finite] > 0


def _importance(data: TrainingSet, scorer: Scorer) -> dict[str, float]:
    if not isinstance(scorer, ExplainingScorer) or not len(data.labels):
        return {}
    matrix = data.columns(scorer.spec.names)
    step = max(1, -(-len(matrix) // EXPLAINED_ROWS_MAX))
    added = scorer.contributions(matrix.take(np.arange(0, len(matrix), step)))
    if added is None:
        return {}
    sizes = np.nan_to_num(np.abs(added[:, :-1]).mean(axis=0, dtype=np.float64))
    order = np.argsort(-sizes, kind="stable").tolist()
    return {scorer.spec.names[place]: float(sizes[place]) for place in order if sizes[place] > 0}
