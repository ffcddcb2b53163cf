"""Calibrations, learnt on the validation part; and how far probabilities are from what happened."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from ranking.metrics import reliability
from ranking.scorers.calibration import KNOTS_MAX, Calibration, Isotonic, Platt

__all__ = ["Method", "calibrate", "expected_calibration_error", "held_out_error"]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Method = Literal["platt", "isotonic"]

BINS = 10
"""Bins of equally many rows over which the calibration error is a mean."""


def calibrate(method: Method, scores: Floats, happened: Flags) -> Calibration:
    """The calibration of scores (log odds), float64[n], by what happened; both outcomes occur.

    Platt scaling with the prior-corrected targets of Platt (1999), which keep it from certainty;
    isotonic regression as Zadrozny and Elkan (2002). Where the scores do not rise with what
    happened, Platt's slope would turn the order round: it is held just above 0.
    """
    if method == "isotonic":
        return _isotonic(scores, happened)
    return _platt(scores, happened)


def _isotonic(scores: Floats, happened: Flags) -> Isotonic:
    from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415 - a second, only in training

    curve = IsotonicRegression(y_min=0.0, y_max=1.0).fit(scores, happened.astype(np.float64))
    x, first = np.unique(curve.X_thresholds_, return_index=True)
    y = np.maximum.accumulate(np.clip(curve.y_thresholds_[first], 0.0, 1.0))
    if len(x) > KNOTS_MAX:
        kept = np.unique(np.linspace(0, len(x) - 1, KNOTS_MAX).astype(np.intp))
        x, y = x[kept], y[kept]
    return Isotonic(tuple(x.tolist()), tuple(y.tolist()))


def _platt(scores: Floats, happened: Flags) -> Platt:
    """Newton's method on the log loss of two numbers, as Lin, Lin and Weng (2007) do it."""
    positive, negative = int(happened.sum()), int((~happened).sum())
    targets = np.where(happened, (positive + 1) / (positive + 2), 1 / (negative + 2))
    slope, offset = 1.0, 0.0
    loss = _log_loss(slope * scores + offset, targets)
    for _ in range(_STEPS_MAX):
        likely = Platt(max(slope, _SLOPE_MIN), offset).probability(scores)
        wrong, spread = likely - targets, likely * (1 - likely)
        gradient = np.array([(wrong * scores).sum(), wrong.sum()])
        cross = (spread * scores).sum()
        curvature = np.array([[(spread * scores**2).sum(), cross], [cross, spread.sum()]])
        step = np.linalg.solve(curvature + _RIDGE * np.eye(2), gradient)
        share = 1.0
        while share > _SHARE_MIN:
            tried = max(slope - share * step[0], _SLOPE_MIN), offset - share * step[1]
            found = _log_loss(tried[0] * scores + tried[1], targets)
            if found < loss:
                break
            share /= 2
        else:
            break
        done = loss - found < _GAIN_MIN * loss
        (slope, offset), loss = tried, found
        if done:
            break
    return Platt(float(slope), float(offset))


_STEPS_MAX = 100
_SLOPE_MIN = 1e-6
_SHARE_MIN = 1e-10
_GAIN_MIN = 1e-12
_RIDGE = 1e-12


def _log_loss(margins: Floats, targets: Floats) -> float:
    """Of targets in 0 to 1, without an exponential that overflows."""
    return float((np.logaddexp(0.0, margins) - targets * margins).sum())


def expected_calibration_error(likely: Floats, happened: Flags, bins: int = BINS) -> float:
    """The ECE of probabilities, over bins of equally many rows; see `ranking.metrics.reliability`.

    NaN for no rows.

    >>> expected_calibration_error(np.full(4, 0.25), np.array([True, False, False, False]))
    0.0
    >>> expected_calibration_error(np.full(4, 0.75), np.array([True, False, False, False]))
    0.5
    """
    return reliability(likely, happened, bins).error


def held_out_error(
    method: Method, scores: Floats, happened: Flags, halves: npt.NDArray[np.bool_]
) -> float:
    """ECE of a calibration where it did not look: learnt on each half, measured on the other.

    `halves` is bool[n]. NaN where a half lacks one of the outcomes.
    """
    likely = np.empty(len(scores))
    for half in (halves, ~halves):
        if len(np.unique(happened[half])) < 2 or not (~half).any():  # noqa: PLR2004 - yes and no
            return float("nan")
        likely[~half] = calibrate(method, scores[half], happened[half]).probability(scores[~half])
    return expected_calibration_error(likely, happened)
