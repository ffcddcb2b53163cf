"""Integer counts in time buckets: the online feature state. Pure.

Counts are integers in buckets of absolute time, so they add up the same in any order; decays and
rates are computed from them at read time (`ranking.features`). Three views of one kind are kept:
the total, the last 24 hours by hour and the last 30 days by day. A bucket leaves when a newer event
pushes it out of its ring, and an event older than the ring adds to the total alone: whatever the
order, the same buckets remain.
"""

from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from feeds.events import (
    APART_KINDS,
    ENGAGEMENT_KINDS,
    HIDING_KINDS,
    Engagement,
    FeedbackGiven,
    Impression,
)
from feeds.model import position_of
from feeds.opinions import Opinions

__all__ = [
    "COUNTER_KINDS",
    "DAY_US",
    "HOUR_US",
    "RESOLUTIONS",
    "TAGS_COUNTED_MAX",
    "Affinity",
    "CounterRecord",
    "UserRecord",
    "counted_tags",
    "kind_code",
]

HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US

COUNTER_KINDS: Final[tuple[str, ...]] = ("impression", *ENGAGEMENT_KINDS)
"""What is counted; a kind's place in this tuple is its code. Append only: codes are on disk."""

RESOLUTIONS: Final[tuple[tuple[int, int], ...]] = ((HOUR_US, 24), (DAY_US, 30))
"""(bucket width in microseconds, buckets kept) of each ring; the place is the ring's code."""

TAGS_COUNTED_MAX: Final = 8
"""Tags of an activity that are counted: the first ones, without repeats."""

ENGAGERS_MAX: Final = 16
"""Users kept as an activity's latest engagers."""

AUTHORS_MAX: Final = 256
"""Authors kept in a user's record; the one engaged with longest ago leaves first."""

TAGS_MAX: Final = 256
"""Tags kept in a user's record; the one engaged with longest ago leaves first."""

RECENT_MAX: Final = 500
"""Entries kept in each of a user's `engaged`, `shown`, `hidden` and `dismissed`; the oldest leaves
first."""

_Name = TypeVar("_Name", bytes, str)

_CODES = {kind: code for code, kind in enumerate(COUNTER_KINDS)}


def kind_code(event: Impression | Engagement) -> int:
    """The code of the kind that an event counts as."""
    return 0 if isinstance(event, Impression) else _CODES[event.kind]


def counted_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags of an activity under which its events are counted, wherever they are.

    >>> counted_tags(["gate", "noise", "gate"])
    ('gate', 'noise')
    """
    return tuple(dict.fromkeys(tags))[:TAGS_COUNTED_MAX]


class CounterRecord(msgspec.Struct, array_like=True):
    """The counts of one activity, author or tag; sparse, as stored.

    `totals[kind]`, `last_us[kind]` (time of the latest event of that kind), and for each ring
    `buckets[ring][kind][bucket number]`, where the bucket number is time // width. `engagers` are
    the latest distinct users who engaged with an activity (kept for activities only), latest last.
    """

    totals: dict[int, int]
    last_us: dict[int, int]
    buckets: list[dict[int, dict[int, int]]]
    engagers: list[str] = []

    @classmethod
    def empty(cls) -> "CounterRecord":
        """A record without counts."""
        return cls({}, {}, [{} for _ in RESOLUTIONS])

    def add(self, kind: int, time_us: int, count: int = 1) -> None:
        """Count `count` events of a kind at a time, and drop the buckets that left their ring."""
        self.totals[kind] = self.totals.get(kind, 0) + count
        self.last_us[kind] = max(self.last_us.get(kind, 0), time_us)
        for ring, (width, kept) in enumerate(RESOLUTIONS):
            bucket = time_us // width
            counts = self.buckets[ring].setdefault(kind, {})
            newest = max(counts, default=bucket)
            if bucket <= newest - kept:
                continue
            counts[bucket] = counts.get(bucket, 0) + count
            if bucket > newest:
                for old in [b for b in counts if b <= bucket - kept]:
                    del counts[old]

    def add_engager(self, user: str) -> None:
        """Remember who engaged; the one who engaged longest ago leaves."""
        if user in self.engagers:
            self.engagers.remove(user)
        elif len(self.engagers) >= ENGAGERS_MAX:
            del self.engagers[0]
        self.engagers.append(user)


class Affinity(msgspec.Struct, array_like=True, gc=False):
    """How a user met one author or tag: counts and the time of the last engagement (0 if none)."""

    engagements: int = 0
    impressions: int = 0
    last_us: int = 0


class UserRecord(msgspec.Struct, array_like=True):
    """The user's side of every feature: one bounded record, read fresh at each request.

    Activities are held as the 16 bytes of their position. `engaged` maps to the time of the first
    engagement, `shown` to the number of impressions, `hidden` to the time of hiding or reporting.
    What the user said of authors and tags, and when which suggested feed was accepted or rejected,
    comes last: a record of release 0.1 has nothing there.
    """

    authors: dict[str, Affinity]
    tags: dict[str, Affinity]
    engaged: dict[bytes, int]
    shown: dict[bytes, int]
    hidden: dict[bytes, int]
    engagements: int = 0
    impressions: int = 0
    of_authors: Opinions = msgspec.field(default_factory=Opinions)
    of_tags: Opinions = msgspec.field(default_factory=Opinions)
    dismissed: dict[str, int] = {}

    @classmethod
    def empty(cls) -> "UserRecord":
        """The record of a user who has done nothing."""
        return cls({}, {}, {}, {}, {})

    def add(
        self, event: Impression | Engagement, position: bytes, author: str, tags: Iterable[str]
    ) -> None:
        """Count one event of this user with the activity of `author` and `tags` at `position`."""
        tags = counted_tags(tags)
        if isinstance(event, Impression):
            self._add_impression(position, author, tags)
        elif event.kind in HIDING_KINDS:
            _remember(self.hidden, position, event.time_us)
        elif event.kind not in APART_KINDS:
            self._add_engagement(event.time_us, position, author, tags)

    def give(self, feedback: FeedbackGiven) -> None:
        """Take in what this user said; the next read honours it."""
        if feedback.kind == "unhide":
            self.hidden.pop(position_of(feedback.activity_id), None)
        if feedback.actor:
            self.of_authors.say(feedback.kind, feedback.actor, feedback.time_us)
        for tag in feedback.tags:
            self.of_tags.say(feedback.kind, tag, feedback.time_us)
        for feed in feedback.to:
            _remember(self.dismissed, feed, feedback.time_us)

    def _add_impression(self, position: bytes, author: str, tags: Iterable[str]) -> None:
        self.impressions += 1
        _remember(self.shown, position, self.shown.get(position, 0) + 1)
        _affinity(self.authors, author, AUTHORS_MAX).impressions += 1
        for tag in tags:
            _affinity(self.tags, tag, TAGS_MAX).impressions += 1

    def _add_engagement(
        self, time_us: int, position: bytes, author: str, tags: Iterable[str]
    ) -> None:
        self.engagements += 1
        _remember(self.engaged, position, self.engaged.get(position, time_us))
        for affinity in (
            _affinity(self.authors, author, AUTHORS_MAX),
            *(_affinity(self.tags, tag, TAGS_MAX) for tag in tags),
        ):
            affinity.engagements += 1
            affinity.last_us = max(affinity.last_us, time_us)


def _affinity(table: dict[str, Affinity], name: str, limit: int) -> Affinity:
    """The entry of `name`, made if absent; beyond `limit` the one engaged with longest ago goes."""
    if name not in table:
        if len(table) >= limit:
            del table[min(table, key=lambda other: (table[other].last_us, other))]
        table[name] = Affinity()
    return table[name]


def _remember(recent: dict[_Name, int], name: _Name, value: int) -> None:
    if name not in recent and len(recent) >= RECENT_MAX:
        del recent[next(iter(recent))]
    recent[name] = value
