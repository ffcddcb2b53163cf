"""Which activities the table held when, and under which names events were counted.

One pass over what was posted and removed, through the table that serves: who leaves for whom, which
names are forgotten and which tags are left out is its decision and is only written down here. An
activity has a life each time it is in the table; so has a name that is forgotten and comes back.
Counts start anew with each life.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from feeds.counters import TAGS_COUNTED_MAX, counted_tags
from feeds.events import Event, Posted, Removed
from feeds.model import position_of, user_of_actor
from ranking.buckets import BucketCounts
from ranking.extractors.base import USER_GROUP
from ranking.interning import UNKNOWN
from ranking.table import FEEDS_MAX, ActivityTable
from training.asof.search import History
from training.events.columns import EventColumns

__all__ = ["NOBODY", "Lives", "NameLives", "trace_lives"]

NOBODY: Final = -1
"""The number of no life, and of no name."""

Ints = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Lives:
    """What the table held: l lives of activities, v versions of them, k posts.

    A version is an activity in the table with the feeds that it had reached; where it had left, its
    life is `NOBODY`. A post is what was known of an activity, in the table or not: its author and
    tags by name; where it was removed, the author is `NOBODY`. The tables of lives, versions and
    posts have one row more, which the number `NOBODY` reads: nobody's names, and 0.
    """

    posted_us: Ints
    """int64[l + 1]"""
    length: Numbers
    """int32[l + 1]: bytes."""
    ends: Ints
    """int64[l]: the place at which the life ended, or the number of events."""
    author: Numbers
    """int32[l + 1]: the author's name."""
    author_feed: Numbers
    """int32[l + 1]: the author's own feed, a place in `feeds`."""
    author_life: Numbers
    """int32[l + 1]: the life of the author's name."""
    tags: Numbers
    """int32[l + 1, 8]: names, `NOBODY` pads."""
    tag_lives: Numbers
    """int32[l + 1, 8]: the lives of those names."""
    version_life: Numbers
    """int32[v + 1]"""
    version_feeds: Numbers
    """int32[v + 1, 8]: places in `feeds`, `NOBODY` pads."""
    post_author: Numbers
    """int32[k + 1]: the author's name."""
    post_tags: Numbers
    """int32[k + 1, 8]: names, `NOBODY` pads."""
    authors: Sequence[str]
    """Names of authors, ascending: the order of numbers is that of names."""
    tag_names: Sequence[str]
    """Names of tags, ascending."""
    feeds: Sequence[str]
    author_ends: Ints
    """int64: where the life of each author's name ended."""
    tag_ends: Ints
    versions: History
    posts: History
    lives_of_authors: "NameLives"
    lives_of_tags: "NameLives"

    def version(self, activity: Numbers, place: Ints) -> Ints:
        """The version of each activity before each place; `NOBODY` where there was none yet."""
        return _at(self.versions, activity, place)

    def life(self, version: Ints) -> Ints:
        """The life of each version; `NOBODY` where it is none, or ended."""
        return self.version_life[version].astype(np.int64)

    def post(self, activity: Numbers, place: Ints) -> Ints:
        """What was known of each activity before each place; `NOBODY` where it was not there."""
        post = _at(self.posts, activity, place)
        return np.where((post >= 0) & (self.post_author[post] >= 0), post, NOBODY)

    def author_life_of(self, author: Ints, place: Ints) -> Ints:
        """The life of each author's name before each place; `NOBODY` where it was forgotten."""
        return self.lives_of_authors.at(author, place)

    def tag_life_of(self, tag: Ints, place: Ints) -> Ints:
        """The same of tags."""
        return self.lives_of_tags.at(tag, place)


def trace_lives(events: EventColumns, table_rows: int) -> Lives:
    """Follow what is posted and removed through a table of `table_rows`; 20 us an activity."""
    tracer = _Tracer(table_rows)
    for place, event in events.posts.events():
        tracer.take(place, int(events.index[place]), event)
    return tracer.lives(events)


class _Uncounted(BucketCounts):
    """Counts that count nothing, and note which rows were cleared."""

    def __init__(self) -> None:
        super().__init__()
        self.cleared: list[int] = []
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def grow(self, rows: int) -> None:
        self._rows = rows

    def clear(self, row: int) -> None:
        self.cleared.append(row)


@dataclass(slots=True)
class _Names:
    """The numbers of names, and the lives that the table's numbers of them stand for."""

    numbers: dict[str, int] = field(default_factory=dict)
    life_at: dict[int, int] = field(default_factory=dict)
    names_of_lives: list[int] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)
    entries: list[tuple[int, int, int]] = field(default_factory=list)
    """(name, place, life or NOBODY)"""

    def number(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))

    def life(self, place: int, row: int, name: str) -> int:
        """The life that the table's number `row` stands for; a new one if it was cleared."""
        life = self.life_at.get(row)
        if life is None:
            life = self.life_at[row] = len(self.names_of_lives)
            number = self.number(name)
            self.names_of_lives.append(number)
            self.entries.append((number, place, life))
        return life

    def forget(self, place: int, rows: Iterable[int]) -> None:
        for row in rows:
            if (life := self.life_at.pop(row, None)) is not None:
                self.ends[life] = place
                self.entries.append((self.names_of_lives[life], place, NOBODY))

    def ranks(self) -> tuple[list[str], Numbers]:
        """The names ascending, and the rank of each number; the last place is `NOBODY`'s."""
        ordered = sorted(self.numbers)
        ranks = np.full(len(ordered) + 1, NOBODY, np.int32)
        ranks[[self.numbers[name] for name in ordered]] = np.arange(len(ordered))
        return ordered, ranks

    def life_ends(self, events: int) -> Ints:
        ends = np.full(len(self.names_of_lives), events, np.int64)
        ends[list(self.ends)] = list(self.ends.values())
        return ends


@dataclass(frozen=True, slots=True)
class NameLives:
    """Which life each name had when."""

    lives: Ints
    history: History

    @classmethod
    def of(cls, names: _Names, ranks: Numbers, span: int) -> "NameLives":
        """The lives of names, by their rank."""
        entries = np.array(names.entries, np.int64).reshape(-1, 3)
        keys = ranks[entries[:, 0]].astype(np.int64)
        return cls(entries[:, 2].copy(), History.of(keys, entries[:, 1], span))

    def at(self, name: Ints, place: Ints) -> Ints:
        """The life of each name before each place; `NOBODY` where it had none."""
        found = self.history.last(name, place)
        life = np.full(len(name), NOBODY, np.int64)
        known = found >= 0
        life[known] = self.lives[self.history.order[found[known]]]
        return life


class _Tracer:
    """The table, and what is written down of it on the way."""

    def __init__(self, table_rows: int) -> None:
        self._table = ActivityTable(table_rows, _Uncounted)
        self._authors, self._tags = _Names(), _Names()
        self._feeds: dict[str, int] = {}
        self._activities: dict[str, int] = {}
        self._life_at: dict[int, int] = {}
        self._ids: list[str] = []
        self._lives: list[tuple[int, int, int, int, int]] = []
        """(posted_us, length, author, author's feed, life of the author's name)"""
        self._tags_of_lives: list[list[int]] = []
        self._tag_lives: list[list[int]] = []
        self._ends: dict[int, int] = {}
        self._versions: list[tuple[str, int, int]] = []
        """(activity, place, life)"""
        self._version_feeds: list[list[int]] = []
        self._posts: list[tuple[str, int, int]] = []
        """(activity, place, author)"""
        self._post_tags: list[list[int]] = []

    def take(self, place: int, index: int, event: Event) -> None:
        """Take what was posted or removed at a place."""
        self._table.apply(index, event)
        self._note_cleared(place)
        if isinstance(event, Removed):
            self._posts.append((event.activity_id, place, NOBODY))
            self._post_tags.append([])
        elif isinstance(event, Posted):
            self._posts.append((event.activity_id, place, self._authors.number(event.actor)))
            self._post_tags.append([self._tags.number(tag) for tag in counted_tags(event.tags)])
            if self._table.holds(event.activity_id):
                self._note_posted(place, event)

    def _note_cleared(self, place: int) -> None:
        for row in _drained(self._table.counts):
            life = self._life_at.pop(row)
            self._ends[life] = place
            self._versions.append((self._ids[life], place, NOBODY))
            self._version_feeds.append([])
        self._authors.forget(place, _drained(self._table.author_counts))
        self._tags.forget(place, _drained(self._table.tag_counts))

    def _note_posted(self, place: int, event: Posted) -> None:
        table = self._table
        row = int(table.rows([position_of(event.activity_id)])[0])
        life = self._life_at.get(row)
        if life is None:
            life = self._life_at[row] = len(self._lives)
            self._note_life(place, row, event)
        feeds = table.names.feeds.names
        self._versions.append((event.activity_id, place, life))
        self._version_feeds.append(
            [self._feed(feeds[number]) for number in table.feeds[row].tolist() if number != UNKNOWN]
        )

    def _note_life(self, place: int, row: int, event: Posted) -> None:
        table = self._table
        self._ids.append(event.activity_id)
        user = user_of_actor(event.actor)
        self._lives.append(
            (
                event.time_us,
                event.length,
                self._authors.number(event.actor),
                self._feed(f"{USER_GROUP}:{user}"),
                self._authors.life(place, int(table.author[row]), event.actor),
            )
        )
        numbers = [number for number in table.tags[row].tolist() if number != UNKNOWN]
        names = [table.names.tags.names[number] for number in numbers]
        self._tags_of_lives.append([self._tags.number(name) for name in names])
        self._tag_lives.append(
            [
                self._tags.life(place, number, name)
                for number, name in zip(numbers, names, strict=True)
            ]
        )

    def _feed(self, name: str) -> int:
        return self._feeds.setdefault(name, len(self._feeds))

    def lives(self, events: EventColumns) -> Lives:
        """Everything as columns; names are numbered in their order."""
        span = len(events)
        number_of = {name: number for number, name in enumerate(events.activities)}
        authors, author_ranks = self._authors.ranks()
        tags, tag_ranks = self._tags.ranks()
        own = np.array([*self._lives, (0, 0, NOBODY, NOBODY, NOBODY)], np.int64)
        ends = np.full(len(self._lives), span, np.int64)
        ends[list(self._ends)] = list(self._ends.values())
        post_author = np.array([*(author for _, _, author in self._posts), NOBODY], np.int64)
        return Lives(
            posted_us=own[:, 0].copy(),
            length=own[:, 1].astype(np.int32),
            ends=ends,
            author=author_ranks[own[:, 2]],
            author_feed=own[:, 3].astype(np.int32),
            author_life=own[:, 4].astype(np.int32),
            tags=tag_ranks[_padded(self._tags_of_lives, TAGS_COUNTED_MAX)],
            tag_lives=_padded(self._tag_lives, TAGS_COUNTED_MAX),
            version_life=np.array([*(life for _, _, life in self._versions), NOBODY], np.int32),
            version_feeds=_padded(self._version_feeds, FEEDS_MAX),
            post_author=author_ranks[post_author],
            post_tags=tag_ranks[_padded(self._post_tags, TAGS_COUNTED_MAX)],
            authors=authors,
            tag_names=tags,
            feeds=list(self._feeds),
            author_ends=self._authors.life_ends(span),
            tag_ends=self._tags.life_ends(span),
            versions=_history(self._versions, number_of, span),
            posts=_history(self._posts, number_of, span),
            lives_of_authors=NameLives.of(self._authors, author_ranks, span),
            lives_of_tags=NameLives.of(self._tags, tag_ranks, span),
        )


def _drained(counts: BucketCounts) -> list[int]:
    assert isinstance(counts, _Uncounted)
    cleared, counts.cleared = counts.cleared, []
    return cleared


def _padded(rows: Sequence[Sequence[int]], width: int) -> Numbers:
    """int32[rows + 1, most of any row]: the numbers of each row, then `NOBODY`."""
    most = max(map(len, rows), default=0)
    assert most <= width
    padded = np.full((len(rows) + 1, max(most, 1)), NOBODY, np.int32)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return padded


def _history(
    entries: Sequence[tuple[str, int, int]], number_of: dict[str, int], span: int
) -> History:
    keys = np.array([number_of[activity] for activity, _, _ in entries], np.int64)
    places = np.array([place for _, place, _ in entries], np.int64)
    return History.of(keys, places, span)


def _at(history: History, activity: Numbers, place: Ints) -> Ints:
    found = history.last(activity.astype(np.int64), place)
    entry = np.full(len(found), NOBODY, np.int64)
    known = found >= 0
    entry[known] = history.order[found[known]]
    return entry
