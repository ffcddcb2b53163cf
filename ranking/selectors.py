"""From scores to an order: a total one, whatever a scorer returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from ranking.candidates import Candidates
from ranking.table import ActivityTable

__all__ = [
    "AuthorSpread",
    "Scores",
    "Selection",
    "Selector",
    "TopKSelector",
    "total_order",
    "window_size",
]

_WINDOW_MIN: Final = 100
_WINDOW_PER_PLACE: Final = 4

Scores = npt.NDArray[np.float32] | npt.NDArray[np.float64]
"""One number a candidate; of the scorer, or after adjustments."""


def window_size(places: int) -> int:
    """How many of the best candidates rules look at, to fill so many places."""
    return max(_WINDOW_MIN, _WINDOW_PER_PLACE * places)


@dataclass(frozen=True, slots=True)
class Selection:
    """Every candidate in order, intp[n], of which the first `count` are selected.

    The others are the reserve. `multipliers` is float64[count]: what the author spread did to each
    selected candidate. `placed` says which rule gave a candidate its place, which chance then
    leaves alone.
    """

    order: npt.NDArray[np.intp]
    count: int
    multipliers: npt.NDArray[np.float64]
    placed: Mapping[int, str] = field(default_factory=dict)

    def reordered(
        self, order: npt.NDArray[np.intp], placed: Mapping[int, str] | None = None
    ) -> "Selection":
        """The same candidates in another order; multipliers go with their candidates."""
        multipliers = np.ones(len(self.order))
        multipliers[self.order[: self.count]] = self.multipliers
        rules = {**self.placed, **placed} if placed else self.placed
        return Selection(order, self.count, multipliers[order[: self.count]], rules)


class Selector(Protocol):
    """Chooses which candidates stand on a page, and in which order."""

    def select(
        self,
        candidates: Candidates,
        scores: Scores,
        limit: int,
        table: ActivityTable,
    ) -> Selection:
        """Put the candidates in order and select the first `limit`, or all if there are fewer."""
        ...


@dataclass(frozen=True, slots=True)
class AuthorSpread:
    """Each further activity of an author counts less: `(1 - floor) * decay ** n + floor`.

    `n` is how many of the author's stand before it. Both numbers are 0 to 1; `decay` 1 changes
    nothing. A model's scores have no natural zero, so the multiplier acts on the lift of a score
    over the lowest that is looked at: the best 4 candidates for each place, and 100 at least.
    """

    decay: float = 0.5
    floor: float = 0.25

    def __post_init__(self) -> None:
        """Refuse what would not be a multiplier."""
        if not (0 <= self.decay <= 1 and 0 <= self.floor <= 1):
            raise ValueError(
                f"author spread has decay {self.decay} and floor {self.floor}: give 0 to 1 for both"
            )

    def multiplier(self, before: int) -> float:
        """What the author's activity is multiplied by after `before` others.

        >>> [AuthorSpread().multiplier(before) for before in (0, 1, 2)]
        [1.0, 0.625, 0.4375]
        """
        return (1 - self.floor) * self.decay**before + self.floor


@dataclass(frozen=True, slots=True)
class TopKSelector:
    """The best first; with `spread`, authors take turns more."""

    spread: AuthorSpread | None = None

    def select(
        self,
        candidates: Candidates,
        scores: Scores,
        limit: int,
        table: ActivityTable,
    ) -> Selection:
        """Order by score, then spread the authors of the places on the page."""
        order = total_order(scores, candidates.rows, table)
        count = min(limit, len(order))
        if self.spread is None:
            return Selection(order, count, np.ones(count))
        return _spread_out(self.spread, order, count, scores, table.author[candidates.rows])


def total_order(
    scores: Scores, rows: npt.NDArray[np.int32], table: ActivityTable
) -> npt.NDArray[np.intp]:
    """Places by score, the highest first; NaN and infinities last; ties in the order of positions.

    intp[n]. Activities have distinct positions, so there is one such order.
    """
    falling = np.where(np.isfinite(scores), -scores, np.inf)
    return np.lexsort((table.tail[rows], -table.time_us[rows], falling))


@lru_cache(maxsize=64)
def _multipliers(spread: AuthorSpread, count: int) -> npt.NDArray[np.float64]:
    multipliers = np.array([spread.multiplier(before) for before in range(count)])
    multipliers.flags.writeable = False
    return multipliers


def _spread_out(
    spread: AuthorSpread,
    order: npt.NDArray[np.intp],
    count: int,
    scores: Scores,
    authors: npt.NDArray[np.int32],
) -> Selection:
    """Fill the places one by one with the best of what remains, each author's count in mind.

    An author's activities stand in order and their multipliers never rise, so whatever was chosen
    before, the n-th of them is worth its lift times the n-th multiplier: one sort gives the greedy
    choice for every place.
    """
    window = order[: window_size(count)]
    window = window[np.isfinite(scores[window])]
    lifts = scores[window].astype(np.float64)
    lifts -= lifts[-1] if len(lifts) else 0.0
    multipliers = _multipliers(spread, window_size(count))[_before(authors[window])]
    chosen = np.argsort(-lifts * multipliers, kind="stable")[:count]
    applied = np.ones(count)
    applied[: len(chosen)] = multipliers[chosen]
    rest = np.ones(len(order), dtype=np.bool_)
    rest[chosen] = False
    return Selection(np.concatenate([window[chosen], order[rest]]), count, applied)


def _before(names: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
    """How many of the same name stand before each place, intp[n]."""
    order = np.argsort(names, kind="stable")
    ordered, places = names[order], np.arange(len(names))
    begins = np.ones(len(names), dtype=np.bool_)
    begins[1:] = ordered[1:] != ordered[:-1]
    before = np.empty(len(names), dtype=np.intp)
    before[order] = places - np.maximum.accumulate(np.where(begins, places, 0))
    return before
