"""Where candidates come from: sources propose rows, each the best first; merging takes turns.

A source's quota is how many candidates it may add that no source before it proposed. It proposes
more, `proposed_max` says how many, so that it can fill up where the ones before it fall short.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from feeds.counters import DAY_US
from ranking.buckets import ENGAGEMENT
from ranking.candidates import Candidates, Query
from ranking.extractors.base import Column
from ranking.follows import followed
from ranking.table import ActivityTable

__all__ = [
    "CANDIDATES_LIMIT",
    "CANDIDATES_MAX",
    "EDITORIAL",
    "NEWEST",
    "ActiveSource",
    "CandidateSource",
    "FollowingSource",
    "FreshSource",
    "TrendingSource",
    "first_rows",
    "latest_active",
    "left_out",
    "propose",
    "proposed_max",
]

CANDIDATES_MAX: Final = 500
"""Candidates that a request ranks at most, unless the service is told another number."""

CANDIDATES_LIMIT: Final = 2_000
"""Candidates that a service can be told to rank at most; a row of features is 0.2 KB."""

NEWEST: Final = "newest"
"""The source of last resort: for a user of whom nothing is known."""

EDITORIAL: Final = "editorial"
"""The source of what the app promotes to everybody."""

Rows = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

_NEVER: Final = np.iinfo(np.int64).max


class CandidateSource(Protocol):
    """Proposes activities that could be shown."""

    @property
    def name(self) -> str:
        """The source's name, such as `following`; it stands in the slate."""
        ...

    @property
    def quota(self) -> int:
        """How many candidates it may add at most."""
        ...

    def propose(self, query: Query, table: ActivityTable) -> Rows:
        """Rows of the table, the best first, without repeats, `proposed_max(quota)` at most."""
        ...


def proposed_max(quota: int) -> int:
    """How many rows a source of this quota proposes at most."""
    return max(CANDIDATES_MAX, quota)


def propose(
    sources: Sequence[CandidateSource],
    query: Query,
    table: ActivityTable,
    limit: int = CANDIDATES_MAX,
) -> Candidates:
    """The candidates of all sources in the order of the sources: each row once, `limit` at most.

    The source `newest` is asked where the others found nothing, but for what the app promotes. None
    is asked once `limit` is reached: it could add nothing.
    """
    taken = np.zeros(len(table.alive) + 1, dtype=np.bool_)
    taken[-1] = True  # a row of -1 is no activity
    parts, counts = [np.zeros(0, np.int32)], [0] * len(sources)
    left, found = limit, False
    for place, source in enumerate(sources):
        if not left or (source.name == NEWEST and found):
            continue
        rows = source.propose(query, table)
        fresh = rows[~taken[rows]][: min(source.quota, left)]
        taken[fresh] = True
        parts.append(fresh)
        counts[place] = len(fresh)
        left -= len(fresh)
        found = found or (len(fresh) > 0 and source.name != EDITORIAL)
    return Candidates(
        rows=np.concatenate(parts),
        source=np.arange(len(sources), dtype=np.int8).repeat(counts),
        sources=tuple([source.name for source in sources]),
    )


@dataclass(frozen=True, slots=True)
class FollowingSource:
    """Activities of followed feeds that belong to the follower, newest first.

    Which belong, `feeds.model.Follow` says. Cost: O(activities in the table); `serving` has one
    that reads the follower's feed instead, and gives the same rows.
    """

    quota: int = 400
    name: str = "following"

    def propose(self, query: Query, table: ActivityTable) -> Rows:
        """The newest rows that belong to the follower."""
        feeds = table.names.feeds
        since_us = np.full(feeds.size + 1, _NEVER, dtype=np.int64)
        after = np.full(feeds.size + 1, _NEVER, dtype=np.int64)
        numbers = feeds.numbers(query.follows)
        since_us[numbers] = [follow.since_us for follow in query.follows.values()]
        after[numbers] = [follow.index for follow in query.follows.values()]
        since_us[-1] = after[-1] = _NEVER
        rows = table.alive_rows()
        posted_to = table.feeds[rows].T
        posted_since = table.index[rows] > after[posted_to]
        belongs = posted_since | (table.time_us[rows] >= since_us[posted_to])
        return first_rows(self.quota, rows[belongs.any(axis=0)], table.time_us, table)


@dataclass(frozen=True, slots=True)
class ActiveSource:
    """Activities posted or engaged with in the last days, the latest active first."""

    quota: int = 250
    days: float = 14.0
    outside: bool = False
    """Leave out what the user follows: the feeds, and the authors."""
    name: str = "active"

    def propose(self, query: Query, table: ActivityTable) -> Rows:
        """The rows that were active last."""
        active_us = np.maximum(table.time_us, table.counts.last_us[:, ENGAGEMENT])
        rows = _since(query.now_us - int(self.days * DAY_US), active_us, table)
        kept_out = left_out(query, table, self.outside)
        return first_rows(self.quota, rows, active_us, table, kept_out)


@dataclass(frozen=True, slots=True)
class TrendingSource:
    """The activities with the most engagements, decayed; those with none are not trending."""

    quota: int = 100
    half_life_days: float = 7.0
    outside: bool = False
    """Leave out what the user follows: the feeds, and the authors."""
    name: str = "trending"

    def propose(self, query: Query, table: ActivityTable) -> Rows:
        """The rows that are most popular now; only the last 30 days count."""
        counts, half_life_us = table.counts, int(self.half_life_days * DAY_US)
        last_us = counts.last_us[:, ENGAGEMENT]
        rows = _since(query.now_us - 30 * DAY_US, last_us, table)
        weights = counts.day.decays(query.now_us, [half_life_us])
        # No engagement weighs more than the last one, so most rows need not be weighed.
        last = counts.day.weights_at(last_us[rows], weights[:, 0])
        most = np.zeros(len(table.alive))
        most[rows] = counts.totals[rows, ENGAGEMENT] * last
        return first_rows(
            self.quota,
            rows,
            most,
            table,
            left_out(query, table, self.outside),
            lambda some: counts.day.weigh(some, ENGAGEMENT, weights)[:, 0],
        )


@dataclass(frozen=True, slots=True)
class FreshSource:
    """The newest activities."""

    quota: int = 100
    outside: bool = False
    """Leave out what the user follows: the feeds, and the authors."""
    name: str = "fresh"

    def propose(self, query: Query, table: ActivityTable) -> Rows:
        """The rows that were posted last."""
        rows, kept_out = table.alive_rows(), left_out(query, table, self.outside)
        return first_rows(self.quota, rows, table.time_us, table, kept_out)


def _since(time_us: int, column: npt.NDArray[np.int64], table: ActivityTable) -> Rows:
    """The rows whose time in `column` is not before `time_us`, nor 0 for never."""
    recent = table.alive & (column >= max(time_us, 1))
    return np.flatnonzero(recent).astype(np.int32)


def latest_active(since_us: int, table: ActivityTable, most: int, *, engaged: bool = False) -> Rows:
    """The rows that were active last, not before `since_us`, `most` of them at most.

    Active is posted or engaged with; with `engaged` only the latter counts.
    """
    engaged_us = table.counts.last_us[:, ENGAGEMENT]
    active_us = engaged_us if engaged else np.maximum(table.time_us, engaged_us)
    rows = _highest(_since(since_us, active_us, table), active_us, most)
    if len(rows) <= most:
        return rows
    last = active_us[rows] == active_us[rows].min()
    ties = table.newest_first(rows[last])
    return np.concatenate([rows[~last], ties[: most - np.count_nonzero(~last)]])


def first_rows(
    quota: int,
    rows: Rows,
    most: Column,
    table: ActivityTable,
    left_out: Callable[[Rows], Mask] | None = None,
    weigh: Callable[[Rows], Column] | None = None,
) -> Rows:
    """The `proposed_max(quota)` rows with the highest value, ties in the order of positions.

    The value is `weigh(rows)` where that is given, and those of 0 are left out; `most`, by row, is
    at least the value, and without `weigh` it is the value. Rows are looked at from the highest
    `most` on until no other can be among the first: `left_out` and `weigh` are the dear part.
    """
    wanted = proposed_max(quota)
    size = wanted if weigh is None else wanted * 5 // 4  # a bound is a little above its value
    while True:
        best = _highest(rows, most, size)
        kept = best if left_out is None else best[~left_out(best)]
        values = most[kept] if weigh is None else weigh(kept)
        if weigh is not None:
            kept, values = kept[values > 0], values[values > 0]
        near = values >= _threshold(values, wanted)  # sorting is the dear part
        kept, values = kept[near], values[near]
        order = np.lexsort((table.tail[kept], -table.time_us[kept], -values))[:wanted]
        if len(best) == len(rows) or (
            len(order) == wanted and values[order[-1]] >= most[best].min()
        ):
            first: Rows = kept[order]
            return first
        size *= 4


def _highest(rows: Rows, values: Column, size: int) -> Rows:
    """At least `size` rows with the highest values, all that tie with the last of them included."""
    if len(rows) <= size:
        return rows
    of_rows = values[rows]
    highest: Rows = rows[of_rows >= _threshold(of_rows, size)]
    return highest


def _threshold(values: Column, size: int) -> np.generic:
    """The lowest of the `size` highest values; the lowest of all where there are no more."""
    if not len(values):
        return np.float64(0.0)
    last = max(len(values) - size, 0)
    lowest: np.generic = np.partition(values, last)[last]
    return lowest


def left_out(query: Query, table: ActivityTable, outside: bool) -> Callable[[Rows], Mask] | None:
    """Which rows lie in a feed that the user follows, or are by an author the user follows."""
    if not outside or not query.follows:
        return None
    return followed(query, table)
