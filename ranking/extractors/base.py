"""What a feature is, and what it is computed from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec
import numpy as np
import numpy.typing as npt

from feeds.counters import HOUR_US
from feeds.model import UserId
from ranking.candidates import Candidates, Query
from ranking.table import ActivityTable

__all__ = [
    "USER_GROUP",
    "Column",
    "Factors",
    "Feature",
    "FeatureParameters",
    "Inputs",
    "held",
    "hours_since",
    "rate",
    "stacked",
]

USER_GROUP: Final = "user"
"""The feed group of users' own feeds: following `user:alice` is following alice."""

# Any: counts are integers, flags are booleans, rates are floats; `build` casts them all to float32.
Column = npt.NDArray[Any]
"""One number a candidate, of any real type; NaN where missing."""

T = TypeVar("T")


class FeatureParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The numbers that features are computed with; they are part of the model's feature spec."""

    rate_prior: float = 0.05
    """Engagements per impression to expect where nothing was counted, 0 to 1."""

    rate_weight: float = 20.0
    """How many impressions the prior counts for, above 0."""


class Factors(Protocol):
    """A factorization of users and activities; the activities it does not know go by their tags."""

    def dot(
        self,
        user: UserId,
        positions: Sequence[bytes],
        tags: npt.NDArray[np.int32],
        tag_names: Sequence[str],
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """(user x activity, bias of the activity), float32[n] each; NaN where nothing is known.

        `tags` is int32[n, 8], places in `tag_names`, -1 pads.
        """
        ...


class Inputs:
    """One query and its candidates, and what several features share, computed once.

    `shown_at` is int[n], the 0-based place where each candidate was shown, in training; None in
    serving.
    """

    def __init__(
        self,
        query: Query,
        candidates: Candidates,
        table: ActivityTable,
        parameters: FeatureParameters,
        factors: Factors | None = None,
        *,
        shown_at: npt.NDArray[np.integer] | None = None,
    ) -> None:
        self.query = query
        self.table = table
        self.parameters = parameters
        self.factors = factors
        self.shown_at = shown_at
        self.rows = candidates.rows.astype(np.intp)  # what numpy indexes with, converted once
        self._shared: dict[object, object] = {}

    def __len__(self) -> int:
        """How many candidates there are."""
        return len(self.rows)

    def once(self, compute: Callable[["Inputs"], T]) -> T:
        """What `compute` gives for these inputs; it runs for the first feature that asks."""
        if compute not in self._shared:
            self._shared[compute] = compute(self)
        return cast("T", self._shared[compute])

    @cached_property
    def authors(self) -> npt.NDArray[np.intp]:
        """The author of each candidate, intp[n]."""
        return self.table.author[self.rows].astype(np.intp)

    @cached_property
    def tags(self) -> npt.NDArray[np.intp]:
        """The tags of the candidates, intp[most tags, n], -1 pads: see `stacked`."""
        return stacked(self.table.tags.take(self.rows, axis=0))

    @cached_property
    def feeds(self) -> npt.NDArray[np.intp]:
        """The feeds of the candidates, intp[most feeds, n], -1 pads."""
        return stacked(self.table.feeds.take(self.rows, axis=0))

    @cached_property
    def tag_counts(self) -> npt.NDArray[np.int64]:
        """How many tags each candidate has, int64[n]."""
        return held(self.tags)

    def constant(self, value: float) -> Column:
        """The same number for every candidate."""
        return np.full(len(self), value, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the feature matrix: `compute` gives a number for every candidate."""

    name: str
    family: str
    unit: str
    description: str
    compute: Callable[[Inputs], Column] = field(repr=False, compare=False)


def stacked(numbers: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
    """Names per candidate, int32[n, most] padded with -1 at the end, as layers of intp[n].

    Layers that hold nothing are left out, and one layer stays. Sums and maxima over names are then
    a few operations on whole columns, several times faster than along short rows.
    """
    layers = numbers.T.astype(np.intp, order="C")
    most = np.count_nonzero(layers.max(axis=1, initial=-1) >= 0)
    return layers[: max(1, most)]


def held(layers: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    """How many names each candidate has, int64[n]."""
    counts: npt.NDArray[np.int64] = (layers >= 0).sum(axis=0)
    return counts


def hours_since(now_us: int, then_us: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Hours from `then_us` to now, not below 0; NaN where `then_us` is 0, which means never."""
    hours = np.maximum(now_us - then_us, 0) / HOUR_US
    return np.where(then_us > 0, hours, np.nan)


def rate(
    parameters: FeatureParameters, engagements: Column, impressions: Column
) -> npt.NDArray[np.float64]:
    """Engagements per impression, drawn to the prior: `(w * prior + e) / (w + i)`."""
    weight, prior = parameters.rate_weight, parameters.rate_prior
    smoothed: npt.NDArray[np.float64] = (weight * prior + engagements) / (weight + impressions)
    return smoothed
