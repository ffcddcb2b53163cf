"""The bootstrap of a mean over requests, where requests belong to users. Numpy alone."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ranking.metrics import Interval

__all__ = ["clustered_interval"]

_LEVEL = 0.95
_BLOCK = 1_000_000


def clustered_interval(
    users: Sequence[str], values: npt.NDArray[np.float64], seed: int, draws: int
) -> Interval:
    """The mean over requests that have a value (not NaN), with the 95 % percentile interval.

    Users are drawn, with replacement and all their requests (the cluster bootstrap; Field and
    Welsh, 2007). The same seed draws the same users, so differences of rankings pair. Without any
    value all is NaN.

    >>> clustered_interval(["ann", "ann", "bob"], np.array([1.0, 0.0, 0.5]), 1, 100)
    Interval(mean=0.5, low=0.5, high=0.5, level=0.95, users=2)
    """
    defined = ~np.isnan(values)
    if not defined.any():
        return Interval(float("nan"), float("nan"), float("nan"), _LEVEL, 0)
    names, user = np.unique(np.array(users)[defined], return_inverse=True)
    sums = np.bincount(user, weights=values[defined])
    counts = np.bincount(user).astype(np.float64)
    random = np.random.default_rng(seed)
    rows = max(1, _BLOCK // len(names))
    means = []
    for done in range(0, draws, rows):
        drawn = random.integers(0, len(names), (min(rows, draws - done), len(names)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    mean = float(sums.sum() / counts.sum())
    return Interval(mean, float(low), float(high), _LEVEL, len(names))
