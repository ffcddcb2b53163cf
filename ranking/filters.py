"""What must not be shown: each filter names what it removes, and why. Nothing vanishes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ranking.candidates import Candidates, Query
from ranking.interning import UNKNOWN
from ranking.table import ActivityTable

__all__ = [
    "EngagedFilter",
    "Filter",
    "FilterResult",
    "HiddenFilter",
    "OwnFilter",
    "Removed",
    "RemovedFilter",
    "apply_filters",
    "default_filters",
]


class Filter(Protocol):
    """Finds the candidates that must not be shown."""

    @property
    def name(self) -> str:
        """The filter's name, such as `own`."""
        ...

    @property
    def reason(self) -> str:
        """Why it removes, as a sentence about the activity."""
        ...

    def matches(
        self, query: Query, candidates: Candidates, table: ActivityTable
    ) -> npt.NDArray[np.bool_]:
        """bool[n]: which candidates to remove."""
        ...


@dataclass(frozen=True, slots=True)
class Removed:
    """What one filter removed: rows of the table, int32."""

    filter: str
    reason: str
    rows: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class FilterResult:
    """The candidates that stay, in their order, and those that do not: together what came in."""

    kept: Candidates
    removed: Sequence[Removed]


def apply_filters(
    filters: Sequence[Filter], query: Query, candidates: Candidates, table: ActivityTable
) -> FilterResult:
    """Apply the filters in order; a candidate is removed by the first that matches it."""
    kept, removed = candidates, []
    for each in filters:
        matches = each.matches(query, kept, table)
        if matches.any():
            removed.append(Removed(each.name, each.reason, kept.rows[matches]))
            kept = kept.take(np.flatnonzero(~matches))
    return FilterResult(kept, removed)


@dataclass(frozen=True, slots=True)
class RemovedFilter:
    """Activities that left the table since they were proposed."""

    name: str = "removed"
    reason: str = "it was removed by its author or the app"

    def matches(
        self,
        query: Query,  # noqa: ARG002 - a filter's signature
        candidates: Candidates,
        table: ActivityTable,
    ) -> npt.NDArray[np.bool_]:
        """Which rows hold no activity, or are -1."""
        absent = candidates.rows < 0
        absent[~absent] = ~table.alive[candidates.rows[~absent]]
        return absent


@dataclass(frozen=True, slots=True)
class OwnFilter:
    """The user's own activities."""

    name: str = "own"
    reason: str = "the user posted it"

    def matches(
        self, query: Query, candidates: Candidates, table: ActivityTable
    ) -> npt.NDArray[np.bool_]:
        """Which activities have the user as their actor."""
        user = table.names.users.get(query.user)
        if user == UNKNOWN:
            return np.zeros(len(candidates), dtype=np.bool_)
        return np.asarray(table.author_user[candidates.rows] == user)


@dataclass(frozen=True, slots=True)
class HiddenFilter:
    """What the user hid."""

    name: str = "hidden"
    reason: str = "the user hid it"

    def matches(
        self, query: Query, candidates: Candidates, table: ActivityTable
    ) -> npt.NDArray[np.bool_]:
        """Which activities are among the 500 the user hid last."""
        return _among(query.record.hidden, candidates, table)


@dataclass(frozen=True, slots=True)
class EngagedFilter:
    """What the user already engaged with."""

    name: str = "engaged"
    reason: str = "the user already engaged with it"

    def matches(
        self, query: Query, candidates: Candidates, table: ActivityTable
    ) -> npt.NDArray[np.bool_]:
        """Which activities are among the 500 the user engaged with last."""
        return _among(query.record.engaged, candidates, table)


def default_filters() -> tuple[Filter, ...]:
    """What both ranked feeds never show, in serving and in training."""
    return (RemovedFilter(), OwnFilter(), HiddenFilter(), EngagedFilter())


def _among(
    positions: Collection[bytes], candidates: Candidates, table: ActivityTable
) -> npt.NDArray[np.bool_]:
    marked = np.zeros(len(table.alive) + 1, dtype=np.bool_)
    marked[table.rows(positions)] = True
    marked[UNKNOWN] = False
    found: npt.NDArray[np.bool_] = marked[candidates.rows]
    return found
