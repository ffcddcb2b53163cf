"""From a head's scores to probabilities: two calibrations, each a few numbers of a manifest.

They are evaluated here alone, in float64, so that training, serving and an explanation of last
week's slate get the same bits.
"""

from functools import cached_property
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = ["KNOTS_MAX", "Calibration", "Isotonic", "Platt"]

Floats = npt.NDArray[np.float64]

KNOTS_MAX: Final = 1_000
"""Knots of an isotonic calibration."""


class Platt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="platt", tag_field="by"):
    """A calibration of log odds: probability = logistic(slope * score + offset).

    Platt (1999). Slope 1 and offset 0 are those of a model trained on log loss. A slope above 0
    keeps the order.
    """

    slope: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what would turn the order round, or is no number."""
        if not (np.isfinite(self.slope) and self.slope > 0 and np.isfinite(self.offset)):
            raise ValueError(
                f"a calibration has slope {self.slope} and offset {self.offset}: give a slope "
                "above 0 and two finite numbers"
            )

    def probability(self, scores: Floats) -> Floats:
        """Probabilities of scores, float64[n]; NaN stays NaN.

        >>> Platt().probability(np.array([0.0, 1000.0, -1000.0])).tolist()
        [0.5, 1.0, 0.0]
        """
        # Through the absolute value, so that no exponential overflows.
        moved = self.slope * scores + self.offset
        small = np.exp(-np.abs(moved))
        likely: Floats = np.where(moved >= 0, 1.0, small) / (1.0 + small)
        return likely


class Isotonic(
    msgspec.Struct,
    frozen=True,
    dict=True,
    forbid_unknown_fields=True,
    tag="isotonic",
    tag_field="by",
):
    """A calibration by a rising curve: straight lines between the knots, level outside of them.

    Zadrozny and Elkan (2002). `x` are scores, rising strictly; `y` are the probabilities there, 0
    to 1, never falling; as many of one as of the other (`X_thresholds_` and `y_thresholds_` of
    scikit-learn's `IsotonicRegression`, each score once).
    """

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what is no rising curve of probabilities."""
        x, y = self._knots
        if not 1 <= len(x) <= KNOTS_MAX or len(x) != len(y):
            raise ValueError(
                f"an isotonic calibration has {len(x)} scores and {len(y)} probabilities: give as "
                f"many of both, 1 to {KNOTS_MAX}"
            )
        if not np.isfinite(x).all() or not (np.diff(x) > 0).all():
            raise ValueError("the scores of an isotonic calibration must be finite and rise")
        if not ((y >= 0) & (y <= 1)).all() or not (np.diff(y) >= 0).all():
            raise ValueError(
                "the probabilities of an isotonic calibration must lie in 0 to 1 and never fall"
            )

    def probability(self, scores: Floats) -> Floats:
        """Probabilities of scores, float64[n]; NaN stays NaN.

        >>> Isotonic((0.0, 2.0), (0.125, 0.375)).probability(np.array([-3.0, 1.0, 9.0])).tolist()
        [0.125, 0.25, 0.375]
        """
        likely = np.interp(scores, *self._knots)
        return np.where(np.isnan(scores), np.nan, likely)  # with one knot it would be lost

    @cached_property
    def _knots(self) -> tuple[Floats, Floats]:
        return np.array(self.x, np.float64), np.array(self.y, np.float64)


Calibration = Platt | Isotonic
"""How a head's scores become probabilities."""
