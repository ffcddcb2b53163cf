"""Reading an activity table out of the store while others write; exact, and soon done with them.

What was read during a long load belongs to no single log index. But the event log says what was
touched meanwhile: whatever no event touched is as it was at the start, and the rest is read again.
Each round takes less time than the one before and finds less to do. A round that finds nothing ends
the load: then all that was read is the state at the index that the round began at. For the last
rounds the thread that writes is held up, so that at most one more command reaches the store.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from feeds.counters import CounterRecord, counted_tags
from feeds.events import Engagement, Event, Impression, Posted, Removed
from feeds.model import ActivityId, TenantId, position_of
from feeds.reader import StoreReader
from ranking.table import ActivityTable

__all__ = ["StoredNames", "TableLoading", "load_names", "load_table"]

NAMES_READ_MAX: Final = 1_000
"""Authors or tags whose counts one call reads."""

EVENTS_READ_MAX: Final = 2_000
"""Events of one round, about; with fewer than a tenth of them missed, the last round can begin."""

ROUNDS_MAX: Final = 20
"""Rounds that others may write in, and rounds with the writing thread held up."""


@dataclass(frozen=True, slots=True)
class StoredNames:
    """The store's counts of authors and tags as the command at log index `index` left them."""

    index: int
    authors: Mapping[str, CounterRecord]
    tags: Mapping[str, CounterRecord]

    @classmethod
    def of(
        cls,
        engine: StoreReader,
        tenant: TenantId,
        events: Sequence[Event],
        table: ActivityTable | None,
    ) -> "StoredNames":
        """Of the names that the events bring and the table lacks: what it counted is kept there.

        To be called by the thread that applies commands, or that moves the view: it is at one index
        meanwhile, that of the events or a later one. Raises `StorageError`.
        """
        authors: list[str] = []
        tags: list[str] = []
        for event in events:
            if isinstance(event, Posted):
                authors.append(event.actor)
                tags.extend(counted_tags(event.tags))
        if table is not None:
            authors = [name for name in authors if name not in table.names.authors]
            tags = [name for name in tags if name not in table.names.tags]
        return cls(
            engine.applied_index(),
            dict(_counters(engine, tenant, "author", authors)),
            dict(_counters(engine, tenant, "tag", tags)),
        )

    def unknown_to(self, table: ActivityTable, posted: Posted) -> "StoredNames | None":
        """Those of the activity's names that the table does not know.

        None where one is not here: the table knew it when the command was applied, and forgot it.
        """
        authors = [name for name in (posted.actor,) if name not in table.names.authors]
        tags = [name for name in counted_tags(posted.tags) if name not in table.names.tags]
        if not (self.authors.keys() >= set(authors) and self.tags.keys() >= set(tags)):
            return None
        return StoredNames(
            self.index,
            {name: self.authors[name] for name in authors},
            {name: self.tags[name] for name in tags},
        )

    def load(self, table: ActivityTable) -> None:
        """Put the counts of those names that the table has come to know into it."""
        for name, record in self.authors.items():
            if name in table.names.authors:
                table.load_author(name, record)
        for name, record in self.tags.items():
            if name in table.names.tags:
                table.load_tag(name, record)


class TableLoading:
    """A tenant's table on its way from the store."""

    def __init__(self, engine: StoreReader, tenant: TenantId, capacity: int) -> None:
        self._engine = engine
        self._tenant = tenant
        self._index = engine.applied_index()
        self.table = load_table(engine, tenant, capacity)

    def catch_up(self) -> None:
        """Read again what was touched meanwhile, until little is missing; others may write."""
        for _ in range(ROUNDS_MAX):
            if self._round() < EVENTS_READ_MAX // 10:
                return

    def finish(self) -> int:
        """The log index that the table is the state at; call with the writing thread held up."""
        for _ in range(ROUNDS_MAX):
            if self._round() == 0:
                return self._index
        raise RuntimeError("the store moved while its writer was held up: please report this")

    def _round(self) -> int:
        """Read again what events after the table's index touched; returns how many there were."""
        applied = self._engine.applied_index()
        missed = self._engine.events(self._tenant, self._index, EVENTS_READ_MAX)
        _read_again(self._engine, self._tenant, self.table, [event for _, _, event in missed])
        self._index = missed[-1][0] if len(missed) >= EVENTS_READ_MAX else applied
        return len(missed)


def load_table(engine: StoreReader, tenant: TenantId, capacity: int) -> ActivityTable:
    """The newest activities of the store as a table, with the counts of their authors and tags."""
    table = ActivityTable(capacity)
    for index, posted, record in engine.recent(tenant, capacity):
        table.load(index, posted, record)
    load_names(engine, tenant, table)
    return table


def load_names(engine: StoreReader, tenant: TenantId, table: ActivityTable) -> None:
    """Put the store's counts of all authors and tags that the table knows into it."""
    authors = [name for name in table.names.authors.names if name]
    tags = [name for name in table.names.tags.names if name]
    _load_counts(engine, tenant, table, authors, tags)


def _read_again(
    engine: StoreReader, tenant: TenantId, table: ActivityTable, events: Sequence[Event]
) -> None:
    """Make everything that the events touched as it is in the store now."""
    authors, tags = set[str](), set[str]()
    touched: dict[ActivityId, None] = {}
    for event in events:
        if isinstance(event, Posted):
            authors.add(event.actor)
            tags.update(counted_tags(event.tags))
        if isinstance(event, Posted | Removed | Impression | Engagement):
            touched[event.activity_id] = None
    _add_names(table, list(touched), authors, tags)
    for event in events:
        if isinstance(event, Removed):
            table.apply(0, event)
    stored = engine.activities(tenant, [position_of(activity) for activity in touched])
    for activity, found in zip(touched, stored, strict=True):
        if found is None:
            table.apply(0, Removed(time_us=0, activity_id=activity))
        else:
            table.load(*found)
    _add_names(table, list(touched), authors, tags)
    known_authors = [name for name in authors if name in table.names.authors]
    known_tags = [name for name in tags if name in table.names.tags]
    _load_counts(engine, tenant, table, known_authors, known_tags)


def _add_names(
    table: ActivityTable, activities: Sequence[ActivityId], authors: set[str], tags: set[str]
) -> None:
    """Add the authors and tags of those activities that the table holds."""
    rows = table.rows([position_of(activity) for activity in activities])
    rows = rows[rows >= 0]
    authors.update(table.names.authors.names[number] for number in np.unique(table.author[rows]))
    numbers = np.unique(table.tags[rows])
    tags.update(table.names.tags.names[number] for number in numbers[numbers >= 0])


def _load_counts(
    engine: StoreReader,
    tenant: TenantId,
    table: ActivityTable,
    authors: Sequence[str],
    tags: Sequence[str],
) -> None:
    for author, record in _counters(engine, tenant, "author", authors):
        table.load_author(author, record)
    for tag, record in _counters(engine, tenant, "tag", tags):
        table.load_tag(tag, record)


def _counters(
    engine: StoreReader, tenant: TenantId, entity: Literal["author", "tag"], names: Sequence[str]
) -> Iterator[tuple[str, CounterRecord]]:
    for start in range(0, len(names), NAMES_READ_MAX):
        chunk = names[start : start + NAMES_READ_MAX]
        yield from zip(chunk, engine.counters(tenant, entity, chunk), strict=True)
