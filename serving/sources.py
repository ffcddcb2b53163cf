"""Candidate sources that ask the engine, and one request's own table: feeds meets ranking.

What a user follows is read from the user's home feed, whose rows the engine keeps in order, so it
costs a scan of what is needed instead of a look at the whole table. It gives the rows that
`ranking.sources.FollowingSource` gives, and besides what was posted to the home feed itself and
what an unfollow left there: what the user sees in the feed can be ranked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import structlog

from feeds.model import FeedId, Position, TenantId
from feeds.reader import StoreReader
from ranking.candidates import Query
from ranking.sources import CandidateSource, proposed_max
from ranking.table import ActivityTable
from serving.current_request import note_source
from serving.quality import Deadline, SourceCosts
from serving.table_loading import load_names

__all__ = ["EngineFollowingSource", "PositionsSource", "SparedSource", "TimedSource", "own_table"]

_log = structlog.get_logger(__name__)

Rows = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class PositionsSource:
    """Activities that are known by their positions: read before, or brought by the caller."""

    name: str
    quota: int
    positions: Sequence[Position]

    def propose(self, query: Query, table: ActivityTable) -> Rows:
        """The rows of those that are in the table, in the order of the positions."""
        del query
        rows = table.rows(self.positions)
        found: Rows = rows[rows >= 0]
        return found


@dataclass(frozen=True, slots=True)
class EngineFollowingSource:
    """The newest rows of the user's home feed `<home_group>:<user>`."""

    engine: StoreReader
    home_group: str
    quota: int = 400
    name: str = "following"
    rows_max: int | None = None
    """Rows that are read at most, where that is less than what the quota asks for."""

    def propose(self, query: Query, table: ActivityTable) -> Rows:
        """The rows of the home feed that are in the table, newest first."""
        return self.read(query).propose(query, table)

    def read(self, query: Query) -> PositionsSource:
        """The home feed as of now, as a source of its own."""
        home = FeedId(self.home_group, query.user)
        rows = proposed_max(self.quota) if self.rows_max is None else self.rows_max
        positions = self.engine.rows(query.tenant, home, rows)
        return PositionsSource(self.name, self.quota, positions)


@dataclass(frozen=True, slots=True)
class SparedSource:
    """A source whose failure leaves its candidates out, and the request alive.

    `failed` is told the source's name; `quota` stands in place of the source's own.
    """

    source: CandidateSource
    failed: Callable[[str], None]
    quota: int

    @property
    def name(self) -> str:
        """The source's name."""
        return self.source.name

    def propose(self, query: Query, table: ActivityTable) -> Rows:
        """What the source proposes; nothing where it fails."""
        try:
            return note_source(self.source.name, partial(self.source.propose, query, table))
        except Exception as error:  # noqa: BLE001 - whatever a source does, the feed is answered
            _log.error("source_failed", source=self.source.name, error=type(error).__name__)
            self.failed(self.source.name)
            return np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class TimedSource:
    """A source that is left out, and named, where it lately took longer than there is time.

    There is time until the deadline, `timeout_ms` at most; what comes after that is dropped.
    """

    source: CandidateSource
    deadline: Deadline
    costs: SourceCosts
    timeout_ms: float

    @property
    def name(self) -> str:
        """The source's name."""
        return self.source.name

    @property
    def quota(self) -> int:
        """The source's quota."""
        return self.source.quota

    def propose(self, query: Query, table: ActivityTable) -> Rows:
        """What the source proposes; nothing where there is no time for it."""
        began_ms = self.deadline.took_ms()
        time_ms = min(self.timeout_ms, self.deadline.limit_ms - began_ms)
        if self.costs.fits(self.name, time_ms):
            rows = self.source.propose(query, table)
            took_ms = self.deadline.took_ms() - began_ms
            self.costs.note(self.name, took_ms)
            if took_ms <= self.timeout_ms:
                return rows
        self.deadline.late_sources.append(self.name)
        return np.zeros(0, dtype=np.int32)


def own_table(
    engine: StoreReader, tenant: TenantId, positions: Sequence[Position], recent: int = 0
) -> ActivityTable:
    """A table of exactly these activities, and the newest `recent` ones, read from the store.

    For a request whose candidates lie behind the shared table, which holds the newest activities
    and takes in no older one, or while that one is loading. About 50 us an activity. Activities
    that do not exist are left out.
    """
    table = ActivityTable(capacity=max(1, len(positions) + recent))
    found = engine.activities(tenant, positions) if positions else []
    newest = engine.recent(tenant, recent) if recent else []
    for activity in (*newest, *found):
        if activity is not None:
            table.load(*activity)
    load_names(engine, tenant, table)
    return table
