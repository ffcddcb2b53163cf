"""How good an order is. Numpy alone.

A query's result is one array: `relevance` in the order that was shown, the best place first. The
metrics of one query take that array, and how many relevant activities there were at all (`total`),
those that were never candidates included, so that reach counts.

Convention: a query without anything relevant has no value, and the metrics return NaN for it;
`mean_defined` leaves such queries out, and `bootstrap_interval` refuses NaN, so that leaving them
out is always a visible step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ranking.errors import InvalidMetricInput

__all__ = [
    "RELATION",
    "Agreement",
    "Interval",
    "Reliability",
    "agreement",
    "average_precision",
    "bootstrap_interval",
    "coverage",
    "gini",
    "mean_by_user",
    "mean_defined",
    "ndcg_at_k",
    "novelty",
    "paired_difference",
    "recall_at_k",
    "reciprocal_rank",
    "reliability",
]

Floats = npt.NDArray[np.float64]
Numbers = Sequence[float] | npt.NDArray[np.generic]

RELATION: Final = {
    "better": "better than",
    "level": "not distinguishable from",
    "worse": "worse than",
}
"""How a sentence puts the verdict of an interval."""

_BLOCK: Final = 1_000_000
"""Draws held at once while bootstrapping: 8 MB."""


def ndcg_at_k(relevance: Numbers, k: int, ideal: Numbers | None = None) -> float:
    """Normalized discounted cumulative gain of the first `k` places, 0 to 1 (Jarvelin, 2002).

    The gain of a place is its relevance (not below 0), its discount `1 / log2(place + 1)` with
    1-based places. `ideal` holds the relevances of everything that could have been shown, in any
    order; by default of what was. NaN if nothing is relevant.

    >>> ndcg_at_k([1, 0, 0], 10)
    1.0
    >>> round(ndcg_at_k([0, 1, 0], 10), 4)
    0.6309
    >>> ndcg_at_k([0, 0], 10)
    nan
    """
    gains = _relevances(relevance, k)
    best = gains if ideal is None else _relevances(ideal, k)
    ideal_gain = _discounted(np.sort(best)[::-1][:k])
    return _discounted(gains[:k]) / ideal_gain if ideal_gain > 0 else float("nan")


def recall_at_k(relevance: Numbers, k: int, total: int | None = None) -> float:
    """The share of all relevant activities that stand in the first `k` places.

    >>> recall_at_k([1, 0, 1], 2)
    0.5
    >>> recall_at_k([1, 0, 1], 2, total=4)
    0.25
    """
    relevant = _relevances(relevance, k) > 0
    return _share(int(relevant[:k].sum()), _total(relevant, total))


def reciprocal_rank(relevance: Numbers, total: int | None = None) -> float:
    """One over the place of the first relevant activity; 0 if none that is relevant was shown.

    >>> reciprocal_rank([0, 0, 1])
    0.3333333333333333
    >>> reciprocal_rank([0, 0], total=1)
    0.0
    """
    relevant = _relevances(relevance, 1) > 0
    if not _total(relevant, total):
        return float("nan")
    return 1 / (int(relevant.argmax()) + 1) if relevant.any() else 0.0


def average_precision(relevance: Numbers, total: int | None = None) -> float:
    """The mean, over all relevant activities, of the precision at their places (0 if not shown).

    >>> average_precision([1, 0, 1])
    0.8333333333333333
    """
    relevant = _relevances(relevance, 1) > 0
    places = np.flatnonzero(relevant) + 1
    precisions = np.arange(1, len(places) + 1) / places
    return _share(float(precisions.sum()), _total(relevant, total))


def coverage(shown: Numbers, catalogue: int) -> float:
    """The share of a catalogue of activities that was shown to anyone.

    `shown` holds the numbers of the activities in all slates, one after another.

    >>> coverage([1, 2, 2, 5], catalogue=10)
    0.3
    """
    if catalogue < 1:
        raise InvalidMetricInput(f"the catalogue has {catalogue} activities: give at least 1")
    return len(np.unique(np.asarray(shown))) / catalogue


def novelty(shown_popularity: Numbers, users: int) -> float:
    """How little known what was shown is: the mean of `-log2(share of users who engaged)`, bits.

    `shown_popularity` holds, for each place of each slate, how many of `users` had engaged with
    its activity; one that nobody engaged with counts as if one had.

    >>> novelty([1, 4], users=4)
    1.0
    """
    counts = np.asarray(shown_popularity, dtype=np.float64)
    if users < 1 or not len(counts):
        return float("nan")
    shares = np.clip(counts, 1, users) / users
    return float(-np.log2(shares).mean())


def gini(shown_counts: Numbers) -> float:
    """How unequally the places go to activities: 0 all alike, towards 1 one has them all.

    `shown_counts` holds how often each activity of the catalogue was shown, zeros included. NaN if
    nothing was shown.

    >>> gini([3, 3, 3])
    0.0
    >>> gini([0, 0, 0, 8])
    0.75
    """
    counts = np.sort(np.asarray(shown_counts, dtype=np.float64))
    total, size = counts.sum(), len(counts)
    if not total:
        return float("nan")
    weights = 2 * np.arange(1, size + 1) - size - 1
    return float((weights @ counts) / (size * total))


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far predicted probabilities are those that came true, in bins of equally many rows.

    Of each bin, float64[bins]: the mean `predicted` probability, the `observed` share, and the
    `share` of all rows that lie in it.
    """

    predicted: Floats
    observed: Floats
    share: Floats

    @property
    def error(self) -> float:
        """The expected calibration error (ECE; Naeini et al., 2015), 0 to 1; NaN without rows."""
        if not len(self.share):
            return float("nan")
        return float(self.share @ np.abs(self.predicted - self.observed))


def reliability(probabilities: Numbers, outcomes: Numbers, bins: int = 10) -> Reliability:
    """Predicted probabilities beside what came true (0 or 1), in order of probability.

    Bins hold equally many rows (Nixon et al., 2019) rather than equal parts of 0 to 1: engagement
    is rare, and nearly all rows would lie in the first. Rows of equal probability share a bin.

    >>> two = reliability([0.1, 0.1, 0.6, 0.6], [0, 0, 1, 0], bins=2)
    >>> two.observed.tolist(), round(two.error, 4)
    ([0.0, 0.5], 0.1)
    """
    predicted = np.asarray(probabilities, dtype=np.float64)
    observed = np.asarray(outcomes, dtype=np.float64)
    if predicted.shape != observed.shape or bins < 1:
        raise InvalidMetricInput(
            f"{len(predicted)} probabilities, {len(observed)} outcomes, {bins} bins: give one "
            "outcome each, and 1 bin at least"
        )
    if not (np.isin(observed, (0, 1)).all() and ((predicted >= 0) & (predicted <= 1)).all()):
        raise InvalidMetricInput("a probability lies from 0 to 1, and an outcome is 0 or 1")
    _, place, counts = np.unique(predicted, return_inverse=True, return_counts=True)
    before = np.cumsum(counts) - counts
    of_bin = (before * min(bins, len(predicted)) // max(len(predicted), 1))[place]
    rows = np.bincount(of_bin, minlength=1)
    filled = np.flatnonzero(rows)
    sums = [np.bincount(of_bin, column)[filled] for column in (predicted, observed)]
    return Reliability(
        sums[0] / rows[filled], sums[1] / rows[filled], rows[filled] / len(predicted)
    )


def mean_defined(values: Numbers) -> float:
    """The mean of the queries that have a value; NaN if none has.

    >>> mean_defined([1.0, float("nan"), 0.0])
    0.5
    """
    numbers = np.asarray(values, dtype=np.float64)
    defined = numbers[~np.isnan(numbers)]
    return float(defined.mean()) if len(defined) else float("nan")


def mean_by_user(users: Sequence[str], values: Numbers) -> tuple[list[str], Floats]:
    """The mean of each user's queries that have a value: users in order of name, float64[users].

    Users none of whose queries has a value are left out.

    >>> mean_by_user(["bob", "ann", "bob", "cid"], [1.0, 0.5, 0.0, float("nan")])
    (['ann', 'bob'], array([0.5, 0.5]))
    """
    numbers = np.asarray(values, dtype=np.float64)
    if len(users) != len(numbers):
        raise InvalidMetricInput(f"{len(users)} users but {len(numbers)} values: give one each")
    defined = ~np.isnan(numbers)
    names, place = np.unique(np.asarray(users, dtype=np.str_)[defined], return_inverse=True)
    sums = np.bincount(place, weights=numbers[defined])
    return names.tolist(), sums / np.bincount(place)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over users, and the interval that holds the true one with probability `level`."""

    mean: float
    low: float
    high: float
    level: float
    users: int

    def verdict(self) -> str:
        """For a difference to a baseline: `better`, `worse`, or `level` where 0 lies inside.

        >>> Interval(0.1, 0.02, 0.2, 0.95, 50).verdict()
        'better'
        """
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "level"


def bootstrap_interval(
    by_user: Numbers, seed: int, *, level: float = 0.95, draws: int = 2000
) -> Interval:
    """The percentile bootstrap of the mean over users (Efron, 1979): one value a user.

    Users are drawn, not queries, since the queries of one user are not independent. The same seed
    gives the same interval. Without users everything is NaN; with one, the interval is its value.
    Raises `InvalidMetricInput` for a value that is not finite: leave such users out before.
    """
    values = np.asarray(by_user, dtype=np.float64)
    if not np.isfinite(values).all():
        raise InvalidMetricInput(
            "a user's value is not a finite number: leave out users without a defined query "
            "(mean_by_user does)"
        )
    if not (0 < level < 1 and draws >= 1):
        raise InvalidMetricInput(f"level {level}, draws {draws}: give 0 to 1, and at least 1 draw")
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"), level, 0)
    means = _resampled_means(values, np.random.default_rng(seed), draws)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), level, len(values))


def paired_difference(
    by_user: Numbers, baseline_by_user: Numbers, seed: int, *, draws: int = 2000
) -> Interval:
    """The 95 % interval of the mean difference to a baseline, over the same users in one order.

    >>> difference = paired_difference([0.5, 0.7, 0.6], [0.4, 0.5, 0.5], seed=1)
    >>> round(difference.mean, 4), difference.verdict()
    (0.1333, 'better')
    """
    ours = np.asarray(by_user, dtype=np.float64)
    theirs = np.asarray(baseline_by_user, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise InvalidMetricInput(
            f"{len(ours)} users against {len(theirs)}: pair the same users, in the same order"
        )
    return bootstrap_interval(ours - theirs, seed, draws=draws)


def _resampled_means(values: Floats, random: np.random.Generator, draws: int) -> Floats:
    """The means of `draws` samples of as many users as there are, with replacement."""
    rows = max(1, _BLOCK // len(values))
    blocks = [
        values[random.integers(0, len(values), (min(rows, draws - done), len(values)))].mean(axis=1)
        for done in range(0, draws, rows)
    ]
    return np.concatenate(blocks)


def _relevances(relevance: Numbers, k: int) -> Floats:
    values = np.asarray(relevance, dtype=np.float64)
    if k < 1:
        raise InvalidMetricInput(f"k is {k}: look at 1 place at least")
    if values.ndim != 1 or not (np.isfinite(values).all() and (values >= 0).all()):
        raise InvalidMetricInput("relevance is one finite number, not below 0, for each place")
    return values


def _discounted(gains: Floats) -> float:
    return float(gains @ (1 / np.log2(np.arange(2, len(gains) + 2))))


def _total(relevant: npt.NDArray[np.bool_], total: int | None) -> int:
    shown = int(relevant.sum())
    if total is not None and total < shown:
        raise InvalidMetricInput(f"{shown} relevant activities were shown, but total is {total}")
    return shown if total is None else total


def _share(part: float, whole: int) -> float:
    return part / whole if whole else float("nan")


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike two orders are: of two slates for one request, say.

    `overlap` is the share of the first `k` places of the shorter order that both have there, 0 to
    1; `rank_correlation` Spearman's, -1 to 1, over what both hold, NaN where that is less than two.
    """

    same_top: bool
    overlap: float
    rank_correlation: float


def agreement(first: Sequence[str], second: Sequence[str], k: int = 10) -> Agreement:
    """How alike two orders of distinct names are; NaN where one is empty.

    >>> agreement(["a", "b", "c"], ["a", "c", "b"])
    Agreement(same_top=True, overlap=1.0, rank_correlation=0.5)
    >>> agreement(["a", "b"], ["c", "a"], k=1)
    Agreement(same_top=False, overlap=0.0, rank_correlation=nan)
    """
    depth = min(k, len(first), len(second))
    if not depth:
        return Agreement(len(first) == len(second), float("nan"), float("nan"))
    shared = set(first[:k]) & set(second[:k])
    return Agreement(first[0] == second[0], len(shared) / depth, _spearman(first, second))


def _spearman(first: Sequence[str], second: Sequence[str]) -> float:
    """Of the places that what is in both has among what is in both: without ties."""
    known = set(second)
    places = {name: place for place, name in enumerate(name for name in first if name in known)}
    others = np.array([places[name] for name in second if name in places], np.float64)
    count = len(others)
    if count < 2:  # noqa: PLR2004 - one place has no order
        return float("nan")
    squares = float(np.square(others - np.arange(count)).sum())
    return 1 - 6 * squares / (count * (count * count - 1))
