"""Logistic regression (scikit-learn), its scaler and imputer folded into the weights.

Columns are scaled to mean 0 and deviation 1, what is missing is the mean and has a weight of its
own. All of that is linear, so that one coefficient and one number for missing say it exactly.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ranking.scorers.linear import LinearScorer
from training.trainers.base import Stopwatch
from training.trainers.rows import (
    Examples,
    Fitted,
    OnRound,
    check_teaching,
    user_weights,
)

__all__ = ["LogisticTrainer", "log_loss"]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LogisticTrainer:
    """Hyperparameters of a logistic regression on whether a candidate was engaged with."""

    strength: float = 1.0
    """Inverse of the L2 penalty (scikit-learn's C), above 0."""
    steps_max: int = 500
    """Steps of L-BFGS, unless it converges earlier."""
    rows_max: int = 500_000
    """Candidates that it learns from; more are thinned out at random. Memory is 18 bytes a cell."""
    user_weight_power: float = 0.5
    """A request weighs `1 / n ** power`, n the requests of its user."""

    @property
    def name(self) -> str:
        """The model's name."""
        return "logistic"

    def fit(
        self,
        train: Examples,
        validation: Examples,
        *,
        seed: int = 0,
        on_round: OnRound | None = None,
    ) -> Fitted:
        """See `RowTrainer.fit`; one round, judged by the log loss on validation, negated."""
        watch = Stopwatch()
        names = train.taught(train.names)
        engaged = train.relevance > 0
        scorer = self.fit_labels(train, names, engaged, np.ones(len(train), np.bool_), seed)
        margins = scorer.score(validation.matrix(names)).astype(np.float64)
        loss = log_loss(margins, validation.relevance > 0)
        if on_round is not None:
            on_round(1, -loss)
        figures = {"rows": float(len(train)), "seconds": watch.seconds}
        return Fitted(scorer, figures | ({"validation_log_loss": loss} if len(margins) else {}))

    def fit_labels(
        self, data: Examples, names: tuple[str, ...], labels: Flags, rows: Flags, seed: int
    ) -> LinearScorer:
        """The regression of bool[n] labels on these features, of the rows that count, bool[n].

        Raises `TooFewEvents` where they do not teach.
        """
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - seconds
        from threadpoolctl import threadpool_limits  # noqa: PLC0415

        check_teaching(data, labels & rows, self.name)
        chosen = _thinned(np.flatnonzero(rows), self.rows_max, seed)
        weights = user_weights(data.users, self.user_weight_power)[data.request_of_row[chosen]]
        values = data.matrix(names).values[chosen].astype(np.float64)
        missing = np.isnan(values)
        scale = _Scale.of(values)
        scale.apply(values, missing)
        sometimes: Flags = np.asarray(missing.any(axis=0) & ~missing.all(axis=0))
        model = LogisticRegression(C=self.strength, max_iter=self.steps_max, random_state=seed)
        with threadpool_limits(1):  # sums of several threads depend on how many there are
            model.fit(np.hstack([values, missing[:, sometimes]]), labels[chosen], weights)
        return _folded(data, names, scale, sometimes, model)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Mean and deviation of each column, of what is there; 0 and 1 where nothing is or varies."""

    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, values: Floats) -> "_Scale":
        there = np.maximum((~np.isnan(values)).sum(axis=0), 1)
        mean = np.nansum(values, axis=0) / there
        deviation = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / there)
        return cls(mean, np.where(deviation > 0, deviation, 1.0))

    def apply(self, values: Floats, missing: Flags) -> None:
        values -= self.mean
        values /= self.deviation
        values[missing] = 0.0


def _folded(
    data: Examples,
    names: tuple[str, ...],
    scale: _Scale,
    sometimes: Flags,
    model: Any,  # Any: scikit-learn has no types
) -> LinearScorer:
    """`w (x - mean) / deviation` as a coefficient, and its constant in the bias and in `missing`.

    The bias takes `-w mean / deviation` of every column; where a column is missing, its number of
    `missing` gives that back, and adds the weight of missing.
    """
    weights = model.coef_[0]
    coefficients = weights[: len(names)] / scale.deviation
    constants = coefficients * scale.mean
    missing = constants.copy()
    missing[sometimes] += weights[len(names) :]
    bias = float(model.intercept_[0] - constants.sum())
    return LinearScorer(data.spec(names), coefficients, missing, bias)


def _thinned(rows: npt.NDArray[np.intp], most: int, seed: int) -> npt.NDArray[np.intp]:
    if len(rows) <= most:
        return rows
    kept: npt.NDArray[np.intp] = np.random.default_rng(seed).choice(rows, most, replace=False)
    kept.sort()
    return kept


def log_loss(margins: Floats, happened: Flags) -> float:
    """The mean log loss of log odds; NaN for no rows."""
    if not len(margins):
        return float("nan")
    return float((np.logaddexp(0.0, margins) - happened * margins).mean())
