"""What a feature is, and what it is computed from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeVar, cast

import msgspec
import numpy as np
import numpy.typing as npt

from feeds.counters import HOUR_US
from feeds.model import UserId

__all__ = [
    "NEVER",
    "USER_GROUP",
    "Column",
    "Counted",
    "Factors",
    "Feature",
    "FeatureParameters",
    "Inputs",
    "Met",
    "held",
    "hours_since",
    "rate",
    "stacked",
]

USER_GROUP: Final = "user"
"""The feed group of users' own feeds: following `user:alice` is following alice."""

NEVER: Final[int] = np.iinfo(np.int64).max
"""The time of what never happened."""

# Any: counts are integers, flags are booleans, rates are floats; `build` casts them all to float32.
Column = npt.NDArray[Any]
"""One number a candidate, of any real type; NaN where missing."""

Counted = Literal["activity", "author", "tags"]
"""What events are counted for: columns of `tags` have a layer for each tag, int[most tags, n]."""

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


@dataclass(frozen=True, slots=True)
class Met:
    """How users met the authors, or in layers the tags, of candidates: int64, 0 where never."""

    engagements: npt.NDArray[np.int64]
    impressions: npt.NDArray[np.int64]
    last_us: npt.NDArray[np.int64]


class Inputs(ABC):
    """What features are computed from: of n candidates, what was counted and known at a time.

    Features are formulas over these columns and nothing else. So they have the same bits whether
    the columns come from the state that serves (`ranking.extractors.served`) or from a sorted log
    (`training.asof`). Layers are the names of a candidate one above the other, [most names, n], as
    `stacked` makes them. A method is called once for its arguments, or keeps what it gave.
    """

    def __init__(self, parameters: FeatureParameters) -> None:
        self.parameters = parameters
        self._shared: dict[object, object] = {}

    def once(self, compute: Callable[["Inputs"], T]) -> T:
        """What `compute` gives for these inputs; it runs for the first feature that asks."""
        found = self._shared.get(compute)
        if found is None:
            found = self._shared[compute] = compute(self)
        return cast("T", found)

    def constant(self, value: float | npt.NDArray[np.int64]) -> Column:
        """The same number for every candidate; or each one's, where requests have their own."""
        return np.full(len(self), value, dtype=np.float32)

    @abstractmethod
    def __len__(self) -> int:
        """How many candidates there are."""

    @property
    @abstractmethod
    def now_us(self) -> int | npt.NDArray[np.int64]:
        """When it is, microseconds since the epoch; int64[n] where requests differ."""

    @property
    @abstractmethod
    def posted_us(self) -> npt.NDArray[np.int64]:
        """When each candidate was posted, int64[n]."""

    @property
    @abstractmethod
    def length_bytes(self) -> npt.NDArray[np.integer]:
        """Length of each encoded activity, int[n]."""

    @property
    @abstractmethod
    def tag_counts(self) -> npt.NDArray[np.int64]:
        """How many tags each candidate has, int64[n]."""

    @property
    @abstractmethod
    def feed_counts(self) -> npt.NDArray[np.int64]:
        """How many feeds each candidate was posted to, int64[n]."""

    @property
    @abstractmethod
    def shown_at(self) -> npt.NDArray[np.integer] | None:
        """The 0-based place where each was shown, int[n], -1 unknown; None when serving."""

    @abstractmethod
    def total(self, of: Counted, channel: int) -> npt.NDArray[np.integer]:
        """Events of a channel so far, int[n]."""

    @abstractmethod
    def decayed_7d(self, of: Counted, channel: int) -> npt.NDArray[np.float64]:
        """Events of a channel in the last 30 days, half-life 7 days, float64[n]."""

    @abstractmethod
    def engagements_by_day(self) -> npt.NDArray[np.float64]:
        """Engagements in the last 30 days; half-lives of a day and of 7 days, float64[n, 2]."""

    @abstractmethod
    def engagements_by_hour(self) -> npt.NDArray[np.float64]:
        """Engagements in the last 24 hours: half-life of an hour; plain count. float64[n, 2]."""

    @property
    @abstractmethod
    def engaged_us(self) -> npt.NDArray[np.int64]:
        """The time of the last engagement with each candidate, int64[n]; 0 without any."""

    @property
    @abstractmethod
    def user_engagements(self) -> int | npt.NDArray[np.int64]:
        """Engagements of the user so far; int64[n] where users differ."""

    @property
    @abstractmethod
    def met_authors(self) -> Met:
        """How the user met each candidate's author, [n]."""

    @property
    @abstractmethod
    def met_tags(self) -> Met:
        """How the user met each candidate's tags, in layers."""

    @property
    @abstractmethod
    def shown(self) -> npt.NDArray[np.int64]:
        """How often the user was shown each candidate, int64[n]."""

    @property
    @abstractmethod
    def author_since_us(self) -> npt.NDArray[np.int64]:
        """Since when the user follows each candidate's author, int64[n]; or `NEVER`."""

    @property
    @abstractmethod
    def feeds_since_us(self) -> npt.NDArray[np.int64]:
        """Since when the user follows each candidate's feeds, in layers; or `NEVER`."""

    @property
    @abstractmethod
    def followed_engagers(self) -> npt.NDArray[np.int64]:
        """How many of each candidate's latest engagers the user follows, int64[n]."""

    @abstractmethod
    def dot_and_bias(self) -> tuple[Column, Column]:
        """What `Factors.dot` gives, float32[n] each; NaN without factors."""

    @abstractmethod
    def brought(self, name: str) -> Column:
        """The caller's numbers of a name, NaN where it brought none."""


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


def hours_since(
    now_us: int | npt.NDArray[np.int64], then_us: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
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
