"""The nouns of feeds: ids, times, activities, feeds, follows and pages. Pure.

An activity's id is a UUID of version 1 whose timestamp *is* the activity's time; the rest is a hash
of its identity. So the same activity posted twice has one id, and ids order by time. A `Position`
is the same 16 bytes turned round so that byte order is newest first: it is what feed rows are
sorted by, and id and position convert into each other without a look-up.
"""

import datetime as dt
import hashlib
import re
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NewType, Self

import msgspec
import orjson

from feeds.errors import InvalidCursor, InvalidInput, InvalidTime

__all__ = [
    "ACTIVITY_KEYS",
    "TIME_MAX_US",
    "TIME_MIN_US",
    "Activity",
    "ActivityDraft",
    "ActivityId",
    "FeedGroup",
    "FeedId",
    "FeedPage",
    "FeedRow",
    "Follow",
    "Position",
    "TenantId",
    "UserId",
    "activity_id",
    "check_tenant_id",
    "check_user_id",
    "encode_body",
    "format_time",
    "id_at",
    "id_time_us",
    "identify",
    "is_feed_id",
    "parse_time",
    "position_of",
    "user_of_actor",
]

TenantId = NewType("TenantId", str)
"""A customer: lower-case letters, digits, `-` and `_`, at most 63 characters."""

UserId = NewType("UserId", str)
"""A user of a tenant's app: letters, digits, `-` and `_`, at most 255 characters."""

ActivityId = NewType("ActivityId", str)
"""Canonical text of the UUID, 36 characters, lower case."""

Position = NewType("Position", bytes)
"""16 bytes that sort newest first: inverted time (8), inverted tail of the UUID (8)."""

TIME_MIN_US = 0
"""The earliest accepted time: 1970-01-01, in microseconds since the epoch."""

TIME_MAX_US = 7_258_118_400_000_000
"""The first time that is refused: 2200-01-01."""

ACTIVITY_KEYS = frozenset(
    {"id", "foreign_id", "time", "actor", "verb", "object", "target", "origin", "to"}
)
"""The keys of an activity that are Headwater's; every other key is the app's own."""

_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_USER = re.compile(r"[A-Za-z0-9_-]{1,255}")
_FEED = re.compile(r"[a-z][a-z0-9_]{0,62}:" + _USER.pattern)
_GREGORIAN_100NS = 0x01B2_1DD2_1381_4000  # from 1582-10-15 to 1970-01-01
_INVERT = 0xFFFF_FFFF_FFFF_FFFF
_ACTIVITY_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-1[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
"""UUIDs of version 1 as `uuid` writes them."""
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_POSITION = struct.Struct(">QQ")


def check_tenant_id(text: str) -> TenantId:
    """The text as a tenant id; raises `InvalidInput` where it cannot be one."""
    if not _TENANT.fullmatch(text):
        raise InvalidInput(
            f"tenant {text[:80]!r} is not a tenant id: use lower-case letters, digits, - and _, "
            "at most 63, starting with a letter or digit"
        )
    return TenantId(text)


def is_feed_id(text: str) -> bool:
    """Whether the text is a feed's, `group:id`."""
    return _FEED.fullmatch(text) is not None


def check_user_id(text: str) -> UserId:
    """The text as a user id; raises `InvalidInput` where it cannot be one."""
    if not _USER.fullmatch(text):
        raise InvalidInput(
            f"user {text[:80]!r} is not a user id: use letters, digits, - and _, 1 to 255 of them"
        )
    return UserId(text)


def user_of_actor(actor: str) -> str:
    """The user id behind an actor reference: `alice`, `user:alice` and `SU:alice` are `alice`."""
    for prefix in ("SU:", "user:"):
        if actor.startswith(prefix):
            return actor[len(prefix) :]
    return actor


@dataclass(frozen=True, slots=True, order=True)
class FeedId:
    """A feed, written `group:id`, such as `timeline:alice`."""

    group: str
    id: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `group:id`; raises `InvalidInput` with the expected form."""
        if not is_feed_id(text):
            raise InvalidInput(
                f"feed {text[:80]!r} is not a feed id: write group:id, such as timeline:alice"
            )
        return cls(*text.split(":"))

    def __str__(self) -> str:
        """`group:id`."""
        return f"{self.group}:{self.id}"


@dataclass(frozen=True, slots=True)
class FeedGroup:
    """A kind of feed that the tenant's app uses; all feeds of it share its rules."""

    name: str
    followable: bool = True


class ActivityDraft(msgspec.Struct, frozen=True, kw_only=True):
    """What an app posts: an activity before the engine stamped its id and time."""

    actor: str
    verb: str
    object: str
    target: str = ""
    foreign_id: str = ""
    time_us: int | None = None
    to: tuple[str, ...] = ()
    custom: dict[str, Any] = {}  # Any: the app's own JSON, returned as it came


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """Someone (actor) did something (verb) with a thing (object), at a time.

    `tags` are those of the custom field `tags`, where that is a list of strings.
    """

    id: ActivityId
    actor: str
    verb: str
    object: str
    time_us: int
    target: str = ""
    foreign_id: str = ""
    to: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    custom: dict[str, Any] = {}  # Any: the app's own JSON, returned as it came


@dataclass(frozen=True, slots=True)
class Follow:
    """An edge: what is posted to `target` reaches `follower`.

    `since_us` is the time of the oldest activity that was copied when the edge was made: a row of
    `target` belongs to `follower` if it is not older, or was posted after log index `index`.
    """

    follower: FeedId
    target: FeedId
    created_us: int
    index: int
    since_us: int
    derived: bool = False


@dataclass(frozen=True, slots=True)
class FeedRow:
    """One place in a feed. `origin` is the followed feed it came from, or None at home."""

    position: Position
    index: int
    origin: FeedId | None

    @property
    def activity_id(self) -> ActivityId:
        """The activity in this place."""
        return id_at(self.position)


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Rows of a feed, newest first, and the cursor of the next page (None at the end).

    A page with a cursor may be short: many rows before the next ones are of removed activities.

    `bodies` are the activities as encoded JSON objects, each with its `origin`, in row order.
    """

    rows: Sequence[FeedRow]
    bodies: Sequence[bytes]
    next: str | None = field(default=None)


def activity_id(time_us: int, identity: bytes) -> ActivityId:
    """The id of the activity with this time and identity; equal inputs give equal ids.

    The UUID's clock sequence and node hold 61 bits of BLAKE2b(identity); the node's multicast bit
    is set, as RFC 9562 asks of a node that is no hardware address.
    """
    ticks = time_us * 10 + _GREGORIAN_100NS
    digest = int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest())
    tail = (digest & 0x3FFF_FFFF_FFFF_FFFF) | 0x8000_0000_0000_0000 | (1 << 40)
    high = ((ticks & 0xFFFF_FFFF) << 32) | (((ticks >> 32) & 0xFFFF) << 16) | 0x1000 | (ticks >> 48)
    return ActivityId(str(uuid.UUID(int=(high << 64) | tail)))


def identify(draft: ActivityDraft, time_us: int) -> ActivityId:
    """The id that posting `draft` at `time_us` gives: by foreign id, or else by all its content."""
    if draft.foreign_id:
        return activity_id(time_us, b"foreign_id\0" + draft.foreign_id.encode())
    content = (draft.actor, draft.verb, draft.object, draft.target, draft.custom)
    return activity_id(time_us, orjson.dumps(content, option=orjson.OPT_SORT_KEYS))


def id_time_us(activity: str) -> int:
    """The time inside an activity id, in microseconds since the epoch."""
    ticks = int(activity[15:18] + activity[9:13] + activity[0:8], 16)
    return (ticks - _GREGORIAN_100NS) // 10


def position_of(activity: str) -> Position:
    """Where an activity stands in every feed; raises `InvalidCursor` if this is no activity id.

    >>> id_at(position_of("87a9eec0-fd5f-11e8-8080-80013fed2f5b"))
    '87a9eec0-fd5f-11e8-8080-80013fed2f5b'
    """
    try:
        written = _ACTIVITY_ID.fullmatch(activity)
    except TypeError:
        written = None
    if written is None:
        raise InvalidCursor(
            f"{str(activity)[:80]!r} is not an activity id: take it from an earlier reply"
        )
    ticks = int(activity[15:18] + activity[9:13] + activity[:8], 16) - _GREGORIAN_100NS
    if ticks % 10 or not TIME_MIN_US <= ticks // 10 < TIME_MAX_US:
        raise InvalidCursor(f"{activity!r} holds a time that no activity of this server can have")
    tail = int(activity[19:23] + activity[24:], 16)
    return Position(_POSITION.pack(_INVERT - ticks // 10, _INVERT - tail))


def id_at(position: bytes) -> ActivityId:
    """The activity that stands at a position."""
    time, tail = _POSITION.unpack(position)
    ticks = (_INVERT - time) * 10 + _GREGORIAN_100NS
    low = f"{_INVERT - tail:016x}"
    high = f"{ticks & 0xFFFF_FFFF:08x}-{(ticks >> 32) & 0xFFFF:04x}-1{ticks >> 48:03x}"
    return ActivityId(f"{high}-{low[:4]}-{low[4:]}")


def parse_time(text: str) -> int:
    """Microseconds since the epoch of an ISO 8601 time; without an offset it is UTC.

    Raises `InvalidTime` outside 1970-01-01 to 2199-12-31.
    """
    try:
        moment = dt.datetime.fromisoformat(text)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
        time_us = (aware - _EPOCH) // dt.timedelta(microseconds=1)
    except (ValueError, TypeError, OverflowError):
        raise InvalidTime(
            f"time {str(text)[:80]!r} cannot be read: write ISO 8601, 2026-01-31T12:00:00.000000"
        ) from None
    if not TIME_MIN_US <= time_us < TIME_MAX_US:
        raise InvalidTime(f"time {text!r} lies outside 1970-01-01 to 2199-12-31")
    return time_us


def format_time(time_us: int) -> str:
    """A time as Stream's clients read it: naive UTC with six digits, always.

    >>> format_time(0)
    '1970-01-01T00:00:00.000000'
    """
    moment = _EPOCH + dt.timedelta(microseconds=time_us)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")


def encode_body(activity: Activity) -> bytes:
    """The activity as one JSON object without `origin`, which differs from feed to feed."""
    body: dict[str, Any] = {
        "id": activity.id,
        "foreign_id": activity.foreign_id,
        "time": format_time(activity.time_us),
        "actor": activity.actor,
        "verb": activity.verb,
        "object": activity.object,
        "target": activity.target,
    }
    if activity.to:
        body["to"] = activity.to
    return orjson.dumps(body | _custom(activity.custom))


def _custom(custom: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in custom.items() if key not in ACTIVITY_KEYS}
