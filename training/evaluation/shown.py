"""Judging rankings by what was really shown, whatever order showed it.

What was touched had been shown, so the share of touches that a ranking finds among all candidates
leans to the order that served. Here a ranking is judged by the engagements with those of its
candidates that were shown: sum(d y / e) / sum(d) over them, where d is the discount of NDCG at the
rank among all candidates, y whether it was engaged with, and e how much sooner its place is looked
at than another. What a ranking would show and nobody saw counts neither for nor against it.

That is the self-normalized estimate of Swaminathan and Joachims (2015, "The Self-Normalized
Estimator for Counterfactual Learning") with the weights of the position-based model of Joachims,
Swaminathan and Schnabel (2017, "Unbiased Learning-to-Rank with Biased Feedback"). The curve of
examination is a power of the place, (1 + place) ** -power, and its power is the coefficient of a
Poisson regression of engagement on the features and the logarithm of the place: by its logarithmic
link examination is a factor, as it is in that model.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.evaluation.rankings import Scores
from training.sets.dataset import TrainingSet

__all__ = ["ShownShare", "can_judge", "examination_power", "shown_share"]

POWER_MAX = 2.0
"""Power of the place beyond which a click far below would decide alone."""

PENALTY = 50.0
"""Strength of the ridge on all standardized features; the place has none to speak of."""

_PLACE_SCALE = 10.0


def can_judge(answered: TrainingSet) -> bool:
    """Whether anything was engaged with in a place that is known."""
    return bool(((_positions(answered) >= 0) & (answered.labels > 0)).any())


def examination_power(answered: TrainingSet) -> float:
    """How fast looks fall with the place, 0 (not at all) to `POWER_MAX`.

    Features are held constant, so that what stands above for a reason does not count as looked at
    more. 0 where all, or nothing, was engaged with.
    """
    from sklearn.linear_model import PoissonRegressor  # noqa: PLC0415 - a second to import

    positions = _positions(answered)
    rows = positions >= 0
    engaged = answered.labels[rows] > 0
    if not engaged.any() or engaged.all():
        return 0.0
    columns = np.nan_to_num(answered.matrix.values[rows].astype(np.float64), posinf=0, neginf=0)
    columns = np.sign(columns) * np.log1p(np.abs(columns))
    spread = columns.std(axis=0)
    columns = (columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1)
    place = np.log1p(positions[rows]) * _PLACE_SCALE
    model = PoissonRegressor(alpha=PENALTY / len(engaged), solver="newton-cholesky", max_iter=1_000)
    model.fit(np.column_stack([columns, place]), engaged)
    return float(np.clip(-model.coef_[-1] * _PLACE_SCALE, 0, POWER_MAX))


@dataclass(frozen=True, slots=True)
class ShownShare:
    """What a ranking gained of what was possible, by request: float64[q] each."""

    gained: npt.NDArray[np.float64]
    possible: npt.NDArray[np.float64]

    @property
    def whole(self) -> float:
        """The share over all requests; 0 where nothing was shown."""
        return float(self.gained.sum() / max(self.possible.sum(), np.finfo(np.float64).tiny))

    def of(self, requests: npt.NDArray[np.integer]) -> "ShownShare":
        """The same of some requests alone."""
        return ShownShare(self.gained[requests], self.possible[requests])

    def by_request(self) -> npt.NDArray[np.float64]:
        """float64[q] whose mean is the share: what a bootstrap of means may draw.

        The linearization of a ratio of means (Särndal, Swensson and Wretman, 1992, "Model Assisted
        Survey Sampling", section 5.6).
        """
        whole, mean = self.whole, max(self.possible.mean(), np.finfo(np.float64).tiny)
        each: npt.NDArray[np.float64] = whole + (self.gained - whole * self.possible) / mean
        return each


def shown_share(answered: TrainingSet, scores: Scores, power: float) -> ShownShare:
    """Engagements with what a ranking would show of what was shown, as if all stood first.

    Higher is better; what it is of is the rankings of the same requests.
    """
    positions = _positions(answered)
    shown = positions >= 0
    discount = 1 / np.log2(_ranks(answered, scores)[shown] + 2)
    engaged = answered.labels[shown] > 0
    worth = engaged * (1.0 + positions[shown]) ** power
    request, count = answered.request_of_row[shown], len(answered)
    gained = np.bincount(request, discount * worth, count).astype(np.float64)
    possible = np.bincount(request, discount, count).astype(np.float64)
    return ShownShare(gained, possible)


def _ranks(data: TrainingSet, scores: Scores) -> npt.NDArray[np.int64]:
    """int64[n]: the 0-based rank of each candidate in its request; ties in the set's order."""
    falling = np.where(np.isfinite(scores), -scores, np.inf)
    request = data.request_of_row
    order = np.lexsort((np.arange(len(request)), falling, request))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - data.starts[request]
    return ranks


def _positions(data: TrainingSet) -> npt.NDArray[np.int32]:
    return np.full(len(data.labels), -1, np.int32) if data.positions is None else data.positions
