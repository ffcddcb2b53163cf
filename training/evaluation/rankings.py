"""Judging rankings by what users then did, with intervals over users.

Every ranking orders the same candidates of the same requests. NDCG, reciprocal rank and recall of a
request are those of `ranking.metrics`. The figure of a ranking is the mean over requests: each read
of a feed counts the same, as in the figures that others publish for these data. Requests of one
user resemble each other, so the bootstrap draws users, each with all of the user's requests, and
two rankings are compared on the same draws. Beside it stands the mean over users, each the mean of
the user's requests: where few users read most, the two differ, and a report that shows one of them
hides something.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from ranking.metrics import (
    RELATION,
    Interval,
    coverage,
    gini,
    mean_by_user,
    mean_defined,
    ndcg_at_k,
    novelty,
    paired_difference,
    recall_at_k,
    reciprocal_rank,
)
from training.config import EvaluationConfig
from training.errors import TooFewEvents
from training.evaluation.bootstrap import clustered_interval
from training.sets.dataset import NEGATIVES, TrainingSet

__all__ = [
    "BASELINES",
    "CHOSEN",
    "CHOSEN_BY_NDCG",
    "CHOSEN_BY_SHOWN",
    "CHRONOLOGICAL",
    "CONVENTIONS",
    "POPULAR",
    "RANDOM",
    "Comparison",
    "RankerResult",
    "Scores",
    "baseline_scores",
    "judge",
    "mean_ndcg",
    "most_popular_column",
    "not_better",
    "request_ndcg",
]

Scores = npt.NDArray[np.float32]
"""float32[n]: a score for each row of a training set, higher is better, NaN for no opinion."""

RANDOM = "random"
CHRONOLOGICAL = "chronological"
LATEST_ACTIVITY = "latest activity"
POPULAR = "popular"
BASELINES = (RANDOM, CHRONOLOGICAL, LATEST_ACTIVITY, POPULAR)
"""What always stands beside the models."""

COMPARED = (CHRONOLOGICAL, POPULAR, LATEST_ACTIVITY)
"""The baselines that every ranking is compared with."""

POPULAR_COLUMNS = ("engagements_1d", "engagements_7d", "engagements_total")
"""What popular can mean; validation says which is strongest."""

ENGAGEMENTS = "engagements_total"
"""The column by which novelty is told."""

CONVENTIONS = (
    (
        "A request is placed just before a user's first touch of an activity, or before the first "
        "impression that the touch came from where impressions are logged; further first touches "
        "of the next hour, ten in all at most, belong to it."
    ),
    (
        "Relevant is what the user touched in the request; candidates are what the service would "
        "have had at that moment."
    ),
    NEGATIVES,
    (
        "Requests of which no touched activity was a candidate have no NDCG: they are left out of "
        "it and count against reach. The ideal order is that of the candidates."
    ),
    (
        "A figure is the mean over requests; intervals are 95 %, from a bootstrap that draws users "
        "with all their requests, and differences are paired. The mean over users stands beside it."
    ),
    (
        "Equal scores stand newest first, activities without a score last, as in serving. Author "
        "spread and exploration are not applied."
    ),
    "The popular baseline counts engagements with the half-life that did best on validation.",
    (
        "The design of the training (request weights, training again with validation, limits of "
        "the trees, the mean over requests as headline) was settled while validation and test "
        "figures of the two public data sets were in view: on those, the intervals are optimistic "
        "for the design."
    ),
    (
        "Explore is judged apart: some of the test requests, asked for that feed. Relevant is what "
        "was touched of what the user did not follow then, reach is the share of it that was a "
        "candidate. The model is the same one, not trained for explore."
    ),
)
"""How the figures came about, one sentence each."""

CHOSEN = (
    "The model was chosen on validation; a boosted one was then trained again on its window "
    "and validation together, and this run looked at the test part once."
)
"""How a training run came to its model: a sentence for its report."""

CHOSEN_BY_NDCG = "Validation chose by NDCG among all candidates."
CHOSEN_BY_SHOWN = (
    "Validation chose by engagements with what each model would show of what was really shown, "
    "places weighed against each other; NDCG among all candidates leans to the order that served, "
    "here as in the tables of the test part."
)
"""By which of two measures it was chosen: a sentence for its report."""


class Comparison(msgspec.Struct, frozen=True):
    """A ranking against a baseline: the mean difference of NDCG, and what it means.

    Verdicts are `better`, `worse`, or `level` where the interval holds 0.
    """

    baseline: str
    difference: float
    interval: tuple[float, float]
    verdict: str
    sentence: str
    by_user: float
    by_user_interval: tuple[float, float]
    by_user_verdict: str


class RankerResult(msgspec.Struct, frozen=True):
    """How one ranking did: means over requests; `ndcg_by_user` is the mean over users."""

    name: str
    ndcg: float
    interval: tuple[float, float]
    ndcg_by_user: float
    mrr: float
    recall: float
    coverage: float
    comparisons: tuple[Comparison, ...] = ()
    novelty: float | None = None
    """Bits: how little known what was shown was, see `ranking.metrics.novelty`; counted are the
    engagements before, of as many users as the test part has."""
    gini: float | None = None
    """How unequally places go to activities, 0 to 1; None where nothing was shown."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """float64[q] each, NaN for requests without a relevant candidate; activities in the top k."""

    ndcg: npt.NDArray[np.float64]
    mrr: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    shown: npt.NDArray[np.int64]
    shown_rows: npt.NDArray[np.int64]


def baseline_scores(data: TrainingSet, popular: str, seed: int) -> dict[str, Scores]:
    """The scores of every baseline; `popular` is the column that means popular."""
    random = np.random.default_rng(seed)
    matrix = data.matrix
    return {
        RANDOM: random.random(len(data.labels), dtype=np.float32),
        CHRONOLOGICAL: -matrix.column("age_h"),
        LATEST_ACTIVITY: -matrix.column("hours_since_active"),
        POPULAR: matrix.column(popular),
    }


def most_popular_column(validation: TrainingSet, k: int) -> str:
    """The column of `POPULAR_COLUMNS` that ranks validation best; the first of equals."""
    matrix = validation.matrix
    return max(POPULAR_COLUMNS, key=lambda column: mean_ndcg(validation, matrix.column(column), k))


def mean_ndcg(data: TrainingSet, scores: Scores, k: int) -> float:
    """NDCG at k, mean over requests; 0 where no request has a relevant candidate."""
    return float(np.nan_to_num(mean_defined(_measure(data, scores, k).ndcg)))


def request_ndcg(data: TrainingSet, scores: Scores, k: int) -> npt.NDArray[np.float64]:
    """float64[q]: NDCG at k of each request, NaN where none of its candidates is relevant."""
    return _measure(data, scores, k).ndcg


def judge(
    data: TrainingSet, rankings: Mapping[str, Scores], config: EvaluationConfig, seed: int
) -> tuple[RankerResult, ...]:
    """How each ranking did on all requests, each compared with chronological and popular.

    Raises `TooFewEvents` where no request has a relevant candidate.
    """
    measured = {name: _measure(data, scores, config.k) for name, scores in rankings.items()}
    if not data.relevant.any():
        raise TooFewEvents(
            f"none of the {len(data)} test requests has a candidate that the user then touched: "
            "there is nothing to judge by; record more engagements, or widen the test share"
        )
    catalogue = len(np.unique(data.activities))
    return tuple(
        RankerResult(
            name=name,
            ndcg=interval.mean,
            interval=(interval.low, interval.high),
            ndcg_by_user=float(mean_by_user(data.users, one.ndcg)[1].mean()),
            mrr=mean_defined(one.mrr),
            recall=mean_defined(one.recall),
            coverage=coverage(one.shown, catalogue),
            novelty=_novelty(data, one.shown_rows),
            gini=_gini(data, one.shown),
            comparisons=tuple(
                _compare(name, baseline, measured, data.users, config, seed)
                for baseline in COMPARED
                if baseline != name
            ),
        )
        for name, one in measured.items()
        for interval in [clustered_interval(data.users, one.ndcg, seed, config.draws)]
    )


def _compare(
    name: str,
    baseline: str,
    measured: Mapping[str, _Measured],
    users: Sequence[str],
    config: EvaluationConfig,
    seed: int,
) -> Comparison:
    ours, theirs = measured[name].ndcg, measured[baseline].ndcg
    interval = clustered_interval(users, ours - theirs, seed, config.draws)
    by_user = paired_difference(
        mean_by_user(users, ours)[1], mean_by_user(users, theirs)[1], seed, draws=config.draws
    )
    return Comparison(
        baseline=baseline,
        difference=interval.mean,
        interval=(interval.low, interval.high),
        verdict=interval.verdict(),
        sentence=_sentence(name, baseline, interval, by_user, config.k),
        by_user=by_user.mean,
        by_user_interval=(by_user.low, by_user.high),
        by_user_verdict=by_user.verdict(),
    )


def not_better(result: RankerResult, k: int) -> tuple[str, ...]:
    """A sentence for each baseline and mean by which the ranking is level or worse."""
    return tuple(
        f"{result.name} is {RELATION[verdict]} {one.baseline} when every {unit} counts alike: "
        f"NDCG@{k} {difference:+.3f} [{low:+.3f}, {high:+.3f}]."
        for one in result.comparisons
        for unit, verdict, difference, (low, high) in (
            ("request", one.verdict, one.difference, one.interval),
            ("user", one.by_user_verdict, one.by_user, one.by_user_interval),
        )
        if verdict != "better"
    )


def _sentence(name: str, baseline: str, interval: Interval, by_user: Interval, k: int) -> str:
    return (
        f"{name} is {RELATION[interval.verdict()]} {baseline}: NDCG@{k} {_figures(interval)}, "
        f"95 % interval over {interval.users} users; counting every user alike it is "
        f"{RELATION[by_user.verdict()]} it: {_figures(by_user)}."
    )


def _figures(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _measure(data: TrainingSet, scores: Scores, k: int) -> _Measured:
    ndcg, mrr, recall = (np.full(len(data), np.nan) for _ in range(3))
    shown = [np.zeros(0, np.int64)]
    starts, relevant = data.starts.tolist(), data.relevant.tolist()
    # Non-finite last; a stable sort leaves ties in the set's order, which is that of positions.
    falling = np.where(np.isfinite(scores), -scores, np.inf)
    for request in range(len(data)):
        rows = slice(starts[request], starts[request + 1])
        order = np.argsort(falling[rows], kind="stable")
        shown.append(starts[request] + order[:k])
        if relevant[request]:
            labels = data.labels[rows][order]
            ndcg[request] = ndcg_at_k(labels, k)
            mrr[request] = reciprocal_rank(labels)
            recall[request] = recall_at_k(labels, k)
    shown_rows = np.concatenate(shown)
    return _Measured(ndcg, mrr, recall, data.activities[shown_rows], shown_rows)


def _novelty(data: TrainingSet, shown_rows: npt.NDArray[np.int64]) -> float | None:
    """None where the set has no engagements of activities."""
    if ENGAGEMENTS not in data.names or not len(shown_rows):
        return None
    engagements = data.matrix.column(ENGAGEMENTS)[shown_rows]
    return novelty(engagements, users=len(set(data.users)))


def _gini(data: TrainingSet, shown: npt.NDArray[np.int64]) -> float | None:
    if not len(shown):
        return None
    every = np.unique(data.activities)
    return gini(np.bincount(np.searchsorted(every, shown), minlength=len(every)))
