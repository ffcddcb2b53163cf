"""The activity table: a tenant's recent activities as numpy columns. Pure; one thread at a time.

A candidate is a row number, and features are gathers and arithmetic over columns. The table is the
one reducer of events, online and in training: whoever feeds it the same log has the same columns.
"""

import hashlib
import heapq
import sys
from collections.abc import Collection, Sequence
from itertools import repeat
from typing import Final

import numpy as np
import numpy.typing as npt

from feeds.counters import (
    ENGAGERS_MAX,
    TAGS_COUNTED_MAX,
    CounterRecord,
    counted_tags,
    kind_code,
)
from feeds.events import APART_KINDS, Engagement, Event, Impression, Posted, Removed
from feeds.model import ActivityId, Position, position_of, user_of_actor
from ranking.buckets import BucketCounts, grown
from ranking.interning import UNKNOWN, Interner

__all__ = ["CAPACITY_DEFAULT", "FEEDS_MAX", "ActivityTable", "Names"]

CAPACITY_DEFAULT: Final = 100_000
"""Activities kept; about 1.5 KB each, the counts of authors and tags apart."""

FEEDS_MAX: Final = 8
"""Feeds kept for an activity: its home feed first, then those of `to`."""

_ROWS_MIN: Final = 16
"""Rows that there is room for at first, and more of them at least each time."""

_TABLE_BYTES: Final = 18_000
"""Bytes of the objects that an empty table consists of."""

_ACTIVITY_BYTES: Final = 250
"""Bytes of an activity's id and position, and of its entry in the order of age, as objects."""


class Names:
    """The names that columns hold as numbers."""

    def __init__(self, capacity: int, authors: BucketCounts, tags: BucketCounts) -> None:
        self.authors = Interner(2 * capacity, capacity, authors.clear)
        self.tags = Interner(2 * capacity, capacity, tags.clear)
        self.users = Interner((ENGAGERS_MAX + 1) * capacity)
        self.feeds = Interner(FEEDS_MAX * capacity)


class ActivityTable:
    """The `capacity` activities that were posted last, with their counts and those of their names.

    Columns, by row (read only): `time_us` int64; `tail` uint64, the second half of the position, so
    that (time descending, tail ascending) is the order of positions; `index` int64, of the log;
    `author` int32; `author_user` int32, the author as a user; `tags` int32[n, 8]; `feeds`
    int32[n, 8]; `length` int32, bytes; `object` int64, a digest of what it is about; `alive` bool;
    `engagers` int32[n, 16], users, the latest last. Numbers are those of `names`, -1 pads.
    `counts`, `author_counts` and `tag_counts` are by row, author number and tag number. Columns
    have room for more rows than there are activities.

    Bounds. When the table is full, the activity with the lowest log index leaves, and one older
    than all of a full table does not enter: what it holds does not depend on the order of loading.
    Names in use are bounded by the rows. Authors and tags whose activities have all left stay with
    their counts, up to `capacity` of each, the one unused longest leaving first; feeds and engagers
    leave at once. Beyond `2 * capacity` tags, a new one is left out of its activity.

    `apply` ignores events of activities that are not in the table; who knows their author and tags
    counts those with `count_outside`, and then the counts of every name are those of the store.
    `whole` says that no activity was ever left out: while the table never was full.
    `counts` makes the counts: who only wants to know what the table holds need not count.
    A row number is valid until the next `apply` or `load`: where one thread applies and another
    ranks, both hold one lock.
    """

    def __init__(
        self, capacity: int = CAPACITY_DEFAULT, counts: type[BucketCounts] = BucketCounts
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}: an activity table needs room for at least 1")
        self.capacity = capacity
        self.whole = True
        self.counts = counts()
        self.author_counts = counts()
        self.tag_counts = counts()
        self.names = Names(capacity, self.author_counts, self.tag_counts)
        self.time_us = np.zeros(0, dtype=np.int64)
        self.tail = np.zeros(0, dtype=np.uint64)
        self.index = np.zeros(0, dtype=np.int64)
        self.author = np.zeros(0, dtype=np.int32)
        self.author_user = np.zeros(0, dtype=np.int32)
        self.tags = np.zeros((0, TAGS_COUNTED_MAX), dtype=np.int32)
        self.feeds = np.zeros((0, FEEDS_MAX), dtype=np.int32)
        self.length = np.zeros(0, dtype=np.int32)
        self.object = np.zeros(0, dtype=np.int64)
        self.alive = np.zeros(0, dtype=np.bool_)
        self.engagers = np.zeros((0, ENGAGERS_MAX), dtype=np.int32)
        self._row_of: dict[str, int] = {}
        self._row_at: dict[bytes, int] = {}
        self._ids: list[ActivityId] = []
        self._positions: list[Position] = []
        self._free: list[int] = []
        self._oldest: list[tuple[int, Position, int]] = []

    def __len__(self) -> int:
        """How many activities the table holds."""
        return len(self._row_of)

    @property
    def memory_bytes(self) -> int:
        """About the bytes that the table takes; found in 6 to 10 us, whatever it holds.

        Columns are counted exactly, what stands beside them as containers and so much an object.
        """
        names = (self.names.authors, self.names.tags, self.names.users, self.names.feeds)
        counts = (self.counts, self.author_counts, self.tag_counts)
        columns = (
            *(self.time_us, self.tail, self.index, self.author, self.author_user, self.tags),
            *(self.feeds, self.length, self.object, self.alive, self.engagers),
        )
        beside = (self._row_of, self._row_at, self._ids, self._positions, self._free, self._oldest)
        return (
            _TABLE_BYTES
            + _ACTIVITY_BYTES * len(self)
            + sum(part.memory_bytes for part in (*names, *counts))
            + sum(column.nbytes for column in columns)
            + sum(map(sys.getsizeof, beside))
        )

    def apply(self, index: int, event: Event) -> None:
        """Apply one event of the log; follows are not the table's.

        Cost: 10 to 20 us. Posting an activity again adds the feeds that are new.
        """
        if isinstance(event, Impression | Engagement):
            row = self._row_of.get(event.activity_id)
            if row is not None:
                self._count(row, event)
        elif isinstance(event, Posted):
            self._post(index, event)
        elif isinstance(event, Removed):
            row = self._row_of.get(event.activity_id)
            if row is not None:
                self._leave(row)

    def count_outside(self, event: Impression | Engagement, posted: Posted) -> None:
        """Count an event of an activity that the table does not hold, for its author and tags."""
        kind, time_us = kind_code(event), event.time_us
        author = self.names.authors.get(posted.actor)
        if author != UNKNOWN:
            self.author_counts.add(author, kind, time_us)
        for name in counted_tags(posted.tags):
            tag = self.names.tags.get(name)
            if tag != UNKNOWN:
                self.tag_counts.add(tag, kind, time_us)

    def load(self, index: int, posted: Posted, record: CounterRecord) -> None:
        """Put in an activity as the store holds it, posted at log index `index`; any order does.

        Counts and engagers of an activity that is there already are replaced.
        """
        row = self._post(index, posted)
        if row is None:
            return
        self.counts.load(row, record)
        self._clear_engagers(row)
        for user in record.engagers:
            self._add_engager(row, user)

    def load_author(self, author: str, record: CounterRecord) -> None:
        """Put in the counts of an author as the store holds them."""
        self._load_name(self.names.authors, self.author_counts, author, record)

    def load_tag(self, tag: str, record: CounterRecord) -> None:
        """Put in the counts of a tag as the store holds them."""
        self._load_name(self.names.tags, self.tag_counts, tag, record)

    def holds(self, activity: ActivityId) -> bool:
        """Whether the activity is in the table."""
        return activity in self._row_of

    def rows(self, positions: Collection[bytes]) -> npt.NDArray[np.int32]:
        """The row of each position, int32; -1 where the activity is not in the table."""
        found = map(self._row_at.get, positions, repeat(-1))
        return np.fromiter(found, dtype=np.int32, count=len(positions))

    def alive_rows(self) -> npt.NDArray[np.int32]:
        """The rows of all activities, ascending."""
        return np.flatnonzero(self.alive).astype(np.int32)

    def position(self, row: int) -> Position:
        """The position of the activity in a row."""
        return self._positions[row]

    def positions(self, rows: npt.NDArray[np.integer]) -> list[Position]:
        """The positions of rows."""
        positions = self._positions
        return [positions[row] for row in rows.tolist()]

    def ids(self, rows: npt.NDArray[np.integer]) -> list[ActivityId]:
        """The activities of rows."""
        ids = self._ids
        return [ids[row] for row in rows.tolist()]

    def newest_first(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """The rows in the order of their positions: by time, the newest first, then by id."""
        ordered: npt.NDArray[np.int32] = rows[np.lexsort((self.tail[rows], -self.time_us[rows]))]
        return ordered

    def _count(self, row: int, event: Impression | Engagement) -> None:
        kind, time_us = kind_code(event), event.time_us
        self.counts.add(row, kind, time_us)
        self.author_counts.add(int(self.author[row]), kind, time_us)
        for tag in self.tags[row].tolist():
            if tag == UNKNOWN:
                break
            self.tag_counts.add(tag, kind, time_us)
        if isinstance(event, Engagement) and event.kind not in APART_KINDS:
            self._add_engager(row, event.user)

    def _post(self, index: int, posted: Posted) -> int | None:
        """The row of the activity, made if there was none; None if it is too old for the table."""
        row = self._row_of.get(posted.activity_id)
        if row is None:
            position = position_of(posted.activity_id)
            if len(self) < self.capacity:
                row = self._enter(index, position, posted)
            else:
                row = self._take_place(index, position, posted)
            if row is None:
                return None
        self._add_feeds(row, (posted.feed, *posted.to))
        return row

    def _enter(self, index: int, position: Position, posted: Posted) -> int:
        row = self._take_row()
        self._ids[row], self._positions[row] = posted.activity_id, position
        self._row_of[posted.activity_id] = row
        self._row_at[position] = row
        heapq.heappush(self._oldest, (index, position, row))
        self.time_us[row] = posted.time_us
        self.tail[row] = int.from_bytes(position[8:])
        self.index[row] = index
        self.length[row] = posted.length
        self.object[row] = _digest(posted.object)
        self.author[row] = self._acquire(self.names.authors, self.author_counts, posted.actor)
        self.author_user[row] = self.names.users.acquire(user_of_actor(posted.actor))
        tags = [
            self._acquire(self.names.tags, self.tag_counts, tag)
            for tag in counted_tags(posted.tags)
        ]
        known = [tag for tag in tags if tag != UNKNOWN]
        self.tags[row, : len(known)] = known
        self.alive[row] = True
        self.whole = self.whole and len(self) < self.capacity
        return row

    def _add_feeds(self, row: int, feeds: Sequence[str]) -> None:
        held = [number for number in self.feeds[row].tolist() if number != UNKNOWN]
        for feed in dict.fromkeys(feeds):
            if len(held) < FEEDS_MAX and self.names.feeds.get(feed) not in held:
                held.append(self.names.feeds.acquire(feed))
        self.feeds[row, : len(held)] = held

    def _add_engager(self, row: int, user: str) -> None:
        """Remember who engaged, as `CounterRecord.add_engager` does."""
        held = [number for number in self.engagers[row].tolist() if number != UNKNOWN]
        number = self.names.users.get(user)
        if number != UNKNOWN and number in held:
            held.remove(number)
        else:
            if len(held) >= ENGAGERS_MAX:
                self.names.users.release(held.pop(0))
            number = self.names.users.acquire(user)
        held.append(number)
        self.engagers[row, : len(held)] = held

    def _take_place(self, index: int, position: Position, posted: Posted) -> int | None:
        """Enter a full table; None if the activity is older than all.

        The names that it has are held meanwhile: who leaves does not take their counts along.
        """
        authors, tags = self.names.authors, self.names.tags
        author = authors.acquire(posted.actor) if posted.actor in authors else UNKNOWN
        held = [tags.acquire(tag) for tag in counted_tags(posted.tags) if tag in tags]
        made = self._make_room(index, position)
        row = self._enter(index, position, posted) if made else None
        authors.release(author)
        for tag in held:
            tags.release(tag)
        return row

    def _make_room(self, index: int, position: Position) -> bool:
        """Let the oldest activity leave for one at `index`; False if that one is older still."""
        while not self._holds(*self._oldest[0]):
            heapq.heappop(self._oldest)
        oldest = self._oldest[0]
        if (index, position) < oldest[:2]:
            return False
        heapq.heappop(self._oldest)
        self._leave(oldest[2])
        return True

    def _leave(self, row: int) -> None:
        del self._row_of[self._ids[row]]
        del self._row_at[self._positions[row]]
        self.names.authors.release(int(self.author[row]))
        self.names.users.release(int(self.author_user[row]))
        for tag in self.tags[row].tolist():
            self.names.tags.release(tag)
        for feed in self.feeds[row].tolist():
            self.names.feeds.release(feed)
        self._clear_engagers(row)
        self.counts.clear(row)
        self.tags[row] = UNKNOWN
        self.feeds[row] = UNKNOWN
        self.alive[row] = False
        self._free.append(row)
        if len(self._oldest) > 2 * self.capacity:
            self._forget_left()

    def _forget_left(self) -> None:
        """Drop the entries of activities that left without being the oldest."""
        self._oldest = [entry for entry in self._oldest if self._holds(*entry)]
        heapq.heapify(self._oldest)

    def _holds(self, index: int, position: Position, row: int) -> bool:
        """Whether the activity that entered so is still there; its row may be another's now."""
        return self._row_at.get(position) == row and self.index[row] == index

    def _clear_engagers(self, row: int) -> None:
        for number in self.engagers[row].tolist():
            self.names.users.release(number)
        self.engagers[row] = UNKNOWN

    def _acquire(self, names: Interner, counts: BucketCounts, name: str) -> int:
        number = names.acquire(name)
        if number >= len(counts):
            counts.grow(_more_rows(len(counts)))
        return number

    def _load_name(
        self, names: Interner, counts: BucketCounts, name: str, record: CounterRecord
    ) -> None:
        number = self._acquire(names, counts, name)
        if number != UNKNOWN:
            counts.load(number, record)
            names.release(number)

    def _take_row(self) -> int:
        if self._free:
            return self._free.pop()
        row = len(self._ids)
        if row >= len(self.alive):
            self._grow(min(_more_rows(row), self.capacity))
        self._ids.append(ActivityId(""))
        self._positions.append(Position(b""))
        return row

    def _grow(self, rows: int) -> None:
        self.counts.grow(rows)
        self.time_us = grown(self.time_us, rows, 0)
        self.tail = grown(self.tail, rows, 0)
        self.index = grown(self.index, rows, 0)
        self.author = grown(self.author, rows, UNKNOWN)
        self.author_user = grown(self.author_user, rows, UNKNOWN)
        self.tags = grown(self.tags, rows, UNKNOWN)
        self.feeds = grown(self.feeds, rows, UNKNOWN)
        self.length = grown(self.length, rows, 0)
        self.object = grown(self.object, rows, 0)
        self.alive = grown(self.alive, rows, 0)
        self.engagers = grown(self.engagers, rows, UNKNOWN)


def _more_rows(rows: int) -> int:
    """How many rows to have room for where so many are full: a quarter more, for each is 1 KB."""
    return rows + max(_ROWS_MIN, rows // 4)


def _digest(text: str) -> int:
    """64 bits that tell texts apart, the same in every process."""
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)
