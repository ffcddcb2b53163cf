"""What an app does, as lines of an action log: how real data comes in. Pure.

An action log is JSON Lines, one action a line, in time order. `training.sources` writes one from a
public data set, `headwater import` replays one through the engine.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from feeds.errors import InvalidInput
from feeds.events import EngagementKind

__all__ = ["Action", "Engage", "Follow", "Post", "Remove", "Show", "Unfollow", "read_actions"]

LINE_BYTES_MAX = 1_048_576
"""The longest line that an action log may have."""


class Post(msgspec.Struct, frozen=True, kw_only=True, tag="post", tag_field="type"):
    """Post an activity to `feed` and to the feeds in `to`; `time_us` is needed, for its id."""

    time_us: int
    feed: str
    actor: str
    verb: str
    object: str
    target: str = ""
    foreign_id: str = ""
    to: tuple[str, ...] = ()
    custom: dict[str, Any] = {}  # Any: the app's own JSON, returned as it came


class Remove(msgspec.Struct, frozen=True, kw_only=True, tag="remove", tag_field="type"):
    """Remove an activity from every feed."""

    time_us: int
    activity_id: str


class Follow(msgspec.Struct, frozen=True, kw_only=True, tag="follow", tag_field="type"):
    """Let `follower` follow `target`; `derived` where the source does not log follows."""

    time_us: int
    follower: str
    target: str
    copy_limit: int = 100
    derived: bool = False


class Unfollow(msgspec.Struct, frozen=True, kw_only=True, tag="unfollow", tag_field="type"):
    """Let `follower` no longer follow `target`."""

    time_us: int
    follower: str
    target: str
    keep_history: bool = False


class Show(msgspec.Struct, frozen=True, kw_only=True, tag="show", tag_field="type"):
    """An impression: the activity was shown to the user."""

    time_us: int
    user: str
    activity_id: str
    feed: str = ""
    position: int = -1
    slate_id: str = ""


class Engage(msgspec.Struct, frozen=True, kw_only=True, tag="engage", tag_field="type"):
    """The user engaged with the activity."""

    time_us: int
    user: str
    activity_id: str
    kind: EngagementKind
    feed: str = ""
    position: int = -1
    slate_id: str = ""
    value: float = 1.0


Action = Post | Remove | Follow | Unfollow | Show | Engage

_decoder = msgspec.json.Decoder(Action)


def read_actions(stream: BinaryIO, name: str) -> Iterator[Action]:
    """The actions of a log, line by line; raises `InvalidInput` naming `name` and the line."""
    number = 0
    while line := stream.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            raise InvalidInput(f"{name}:{number}: line is longer than {LINE_BYTES_MAX} bytes")
        if line.isspace():
            continue
        try:
            yield _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInput(f"{name}:{number}: not an action: {error}") from error
