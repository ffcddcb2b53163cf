"""What happened: the facts that counters, exports, features and training sets are made from. Pure.

Every applied command leaves facts in the event log, in log order. The same facts move the counters
in the engine, the activity table beside the model, and the replay that makes training features.
"""

from typing import Final, Literal

import msgspec

from feeds.model import ActivityId, UserId

__all__ = [
    "APART_KINDS",
    "ENGAGEMENT_KINDS",
    "EVENT_SCHEMA",
    "EVENT_SCHEMA_VERSION",
    "HIDING_KINDS",
    "Engagement",
    "EngagementKind",
    "Event",
    "FeedbackGiven",
    "FeedbackKind",
    "Followed",
    "Impression",
    "Posted",
    "Removed",
    "Unfollowed",
]

EngagementKind = Literal["click", "like", "comment", "share", "bookmark", "hide", "dwell", "report"]
"""What a user can do with an activity; `hide` and `report` are the negative ones.

A `dwell` is a look at it, whose `value` is how many seconds it took."""

ENGAGEMENT_KINDS: tuple[EngagementKind, ...] = (
    "click",
    "like",
    "comment",
    "share",
    "bookmark",
    "hide",
    "dwell",
    "report",
)
"""All of them. Append only: their places are codes on disk."""

HIDING_KINDS: Final[frozenset[EngagementKind]] = frozenset({"hide", "report"})
"""What takes the activity out of the feeds of whoever does it."""

APART_KINDS: Final[frozenset[EngagementKind]] = HIDING_KINDS | {"dwell"}
"""What is counted by itself alone, and is no engagement of sums, affinities and latest engagers:
who hides wants none of it, and a look is told of what many have seen and few have acted on."""


FeedbackKind = Literal["unhide", "mute", "unmute", "show_more", "show_less", "accept", "reject"]
"""What a user can say of what is shown, or suggested to be followed; hiding is an engagement."""


class Posted(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="posted"):
    """An activity was posted, to its home feed and the feeds in `to`; `time_us` is its own time."""

    time_us: int
    activity_id: ActivityId
    actor: str
    verb: str
    object: str
    feed: str
    to: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    length: int = 0
    """Bytes of the encoded activity."""


class Removed(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="removed"):
    """An activity was removed from every feed."""

    time_us: int
    activity_id: ActivityId


class Followed(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="followed"):
    """`follower` follows `target`; activities of `target` not older than `since_us` were copied."""

    time_us: int
    follower: str
    target: str
    since_us: int
    derived: bool = False


class Unfollowed(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="unfollowed"):
    """`follower` no longer follows `target`; with `keep_history` what it had stays."""

    time_us: int
    follower: str
    target: str
    keep_history: bool = False


class Impression(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="impression"):
    """A user was shown an activity, at `position` (0-based) of `feed`, in slate `slate_id`."""

    time_us: int
    user: UserId
    activity_id: ActivityId
    feed: str = ""
    position: int = -1
    slate_id: str = ""


class Engagement(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="engagement"):
    """A user engaged with an activity; `value` is what it counts to the app, a dwell's seconds."""

    time_us: int
    user: UserId
    activity_id: ActivityId
    kind: EngagementKind
    feed: str = ""
    position: int = -1
    slate_id: str = ""
    value: float = 1.0


class FeedbackGiven(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="feedback"):
    """A user said what to show: of the author `actor`, of `tags`, or of an activity (`unhide`).

    The feeds in `to` were suggested, and accepted or rejected. Where more or less was asked of an
    activity, its tags stand here, or else its author.
    """

    time_us: int
    user: UserId
    kind: FeedbackKind
    activity_id: ActivityId = ActivityId("")
    actor: str = ""
    tags: tuple[str, ...] = ()
    to: tuple[str, ...] = ()


Event = Posted | Removed | Followed | Unfollowed | Impression | Engagement | FeedbackGiven

EVENT_SCHEMA_VERSION = 1

EVENT_SCHEMA: tuple[tuple[str, str], ...] = (
    ("index", "int64"),
    ("ordinal", "int32"),
    ("type", "string"),
    ("time", "timestamp[us, UTC]"),
    ("user", "string"),
    ("activity_id", "string"),
    ("actor", "string"),
    ("verb", "string"),
    ("object", "string"),
    ("feed", "string"),
    ("to", "list<string>"),
    ("tags", "list<string>"),
    ("length", "int32"),
    ("follower", "string"),
    ("target", "string"),
    ("since", "timestamp[us, UTC]"),
    ("derived", "bool"),
    ("keep_history", "bool"),
    ("kind", "string"),
    ("position", "int32"),
    ("slate_id", "string"),
    ("value", "float32"),
)
"""Columns of an exported event, in order: one table for every type, null where a type has no such
field. `index` is the log index, `ordinal` the place within that command: together the total order.
`feeds.export` makes the Arrow schema from it."""
