"""What must not be shown: each filter names what it removes, and why. Nothing vanishes."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from feeds.counters import DAY_US
from ranking.candidates import Candidates, Query
from ranking.interning import UNKNOWN, Interner
from ranking.table import ActivityTable

__all__ = [
    "ENGAGED",
    "EXCLUDED",
    "HIDDEN",
    "SERVED",
    "AgeFilter",
    "DuplicateFilter",
    "Filter",
    "FilterResult",
    "MutedAuthorFilter",
    "MutedTagFilter",
    "NamedFilter",
    "OwnFilter",
    "Removed",
    "RemovedFilter",
    "ShowLessFilter",
    "apply_filters",
    "by_author",
    "with_tag",
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
        if np.count_nonzero(matches):
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
class NamedFilter:
    """Activities that the query names by position, such as those that the user hid."""

    name: str
    reason: str
    positions: Callable[[Query], Collection[bytes]]

    def matches(
        self, query: Query, candidates: Candidates, table: ActivityTable
    ) -> npt.NDArray[np.bool_]:
        """Which activities are among those that it names."""
        return _among(self.positions(query), candidates, table)


HIDDEN: Final = NamedFilter("hidden", "the user hid it", lambda query: query.record.hidden)
"""Removes the 500 activities that the user hid last."""

ENGAGED: Final = NamedFilter(
    "engaged", "the user already engaged with it", lambda query: query.record.engaged
)
"""Removes the 500 activities that the user engaged with last."""

EXCLUDED: Final = NamedFilter("excluded", "the request leaves it out", lambda query: query.excluded)
"""Removes what the request does not want."""

SERVED: Final = NamedFilter("served", "the user was served it lately", lambda query: query.served)
"""Removes what the query says that the user was served lately."""


@dataclass(frozen=True, slots=True)
class MutedAuthorFilter:
    """What is by an author whom the user muted."""

    name: str = "muted_author"
    reason: str = "the user muted its author"

    def matches(
        self, query: Query, candidates: Candidates, table: ActivityTable
    ) -> npt.NDArray[np.bool_]:
        """Which activities have a muted author."""
        return by_author(query.feedback.muted_authors, candidates, table)


@dataclass(frozen=True, slots=True)
class MutedTagFilter:
    """What has a tag that the user muted."""

    name: str = "muted_tag"
    reason: str = "the user muted one of its tags"

    def matches(
        self, query: Query, candidates: Candidates, table: ActivityTable
    ) -> npt.NDArray[np.bool_]:
        """Which activities have a muted tag."""
        return with_tag(query.feedback.muted_tags, candidates, table)


@dataclass(frozen=True, slots=True)
class ShowLessFilter:
    """What is by an author, or has a tag, of which the user wanted less in the last days."""

    days: float = 14.0
    name: str = "show_less"
    reason: str = "the user wants less of its author or of one of its tags"

    def matches(
        self, query: Query, candidates: Candidates, table: ActivityTable
    ) -> npt.NDArray[np.bool_]:
        """Which activities have such an author or tag."""
        since_us = query.now_us - int(self.days * DAY_US)
        authors, tags = (
            [name for name, time_us in said.items() if time_us > since_us]
            for said in (query.feedback.less_authors, query.feedback.less_tags)
        )
        return by_author(authors, candidates, table) | with_tag(tags, candidates, table)


@dataclass(frozen=True, slots=True)
class AgeFilter:
    """What was posted more than `days_max` days ago."""

    days_max: float
    name: str = "age"
    reason: str = "it was posted too long ago"

    def matches(
        self, query: Query, candidates: Candidates, table: ActivityTable
    ) -> npt.NDArray[np.bool_]:
        """Which activities are too old."""
        oldest_us = query.now_us - int(self.days_max * DAY_US)
        return np.asarray(table.time_us[candidates.rows] < oldest_us)


@dataclass(frozen=True, slots=True)
class DuplicateFilter:
    """What has the same object as a candidate before it: of each object the first one stays.

    Before scoring that is the one proposed first, after selection the one ranked best.
    """

    name: str = "duplicate"
    reason: str = "another activity with the same object stands before it"

    def matches(
        self,
        query: Query,  # noqa: ARG002 - a filter's signature
        candidates: Candidates,
        table: ActivityTable,
    ) -> npt.NDArray[np.bool_]:
        """Which activities repeat an object; 30 us for 500."""
        _, first = np.unique(table.object[candidates.rows], return_index=True)
        repeated = np.ones(len(candidates), dtype=np.bool_)
        repeated[first] = False
        return repeated


def by_author(
    authors: Collection[str], candidates: Candidates, table: ActivityTable
) -> npt.NDArray[np.bool_]:
    """bool[n]: which candidates are by one of these authors."""
    if not authors:
        return np.zeros(len(candidates), dtype=np.bool_)
    return _marked(table.names.authors, authors)[table.author[candidates.rows]]


def with_tag(
    tags: Collection[str], candidates: Candidates, table: ActivityTable
) -> npt.NDArray[np.bool_]:
    """bool[n]: which candidates have one of these tags."""
    if not tags:
        return np.zeros(len(candidates), dtype=np.bool_)
    found = _marked(table.names.tags, tags)[table.tags[candidates.rows]]
    return np.asarray(found.any(axis=1))


def _marked(names: Interner, wanted: Collection[str]) -> npt.NDArray[np.bool_]:
    """Which numbers have a wanted name, bool[names + 1]: the last place is for what has no name."""
    marked = np.zeros(names.size + 1, dtype=np.bool_)
    marked[names.numbers(wanted)] = True
    marked[UNKNOWN] = False
    return marked


def _among(
    positions: Collection[bytes], candidates: Candidates, table: ActivityTable
) -> npt.NDArray[np.bool_]:
    if not positions:
        return np.zeros(len(candidates), dtype=np.bool_)
    marked = np.zeros(len(table.alive) + 1, dtype=np.bool_)
    marked[table.rows(positions)] = True
    marked[UNKNOWN] = False
    found: npt.NDArray[np.bool_] = marked[candidates.rows]
    return found
