"""What the log replicates: commands, and their codec. Pure.

A command holds everything that its effect depends on besides the store: ids, times and the limits
that shape it are stamped before it is proposed. So the log gives the same state wherever and
whenever it is applied. On disk: one byte of version, then msgpack; never pickle.
"""

from typing import Final

import msgspec

from feeds.errors import FormatUnsupported, InvalidInput
from feeds.events import Engagement, FeedbackGiven, Impression, Posted

__all__ = [
    "COMMAND_VERSION",
    "OPERATION",
    "ActivateVersion",
    "AddKey",
    "ClearRows",
    "Command",
    "CreateTenant",
    "DeleteTenant",
    "FanOut",
    "FollowFeed",
    "GiveFeedback",
    "MoveClock",
    "Once",
    "PostActivity",
    "RecordEvents",
    "RemoveActivity",
    "RevokeKey",
    "RotateKey",
    "SaveVersion",
    "SetQuotas",
    "UnfollowFeed",
    "Unkeyed",
    "WipeTenant",
    "decode_command",
    "encode_command",
]

COMMAND_VERSION: Final = 3
"""The version of the commands below; a change of their meaning or fields needs another.

Of version 1 are those without the fields that bound a fan-out: they are read as the same commands,
whose defaults are what they meant. Up to version 2 a tenant had no ranking configs, nobody gave
feedback, nothing moved the cluster's clock, and a key was remembered by the clocks of those who
wrote; it is remembered for as long as it was to be. An API key had no date, a tenant had any number
of them, what it stored was not counted, and none was deleted.

`incarnation` is the log index at which the tenant of a command was created: where the name belongs
to another tenant since, the command comes too late, and changes nothing. 0, as up to version 2, is
any that is not deleted.
"""

OPERATION: Final = "\0op:"
"""What the key of a write begins with that was given one by the engine, for its repeats."""


class Once(msgspec.Struct, frozen=True, array_like=True):
    """An idempotency key: the command takes effect once.

    It is remembered for the time between the two stamps, as the cluster's clock tells it: whose
    clock is wrong does not decide what is forgotten. `digest` is of the content, so that the key
    cannot be used for something else. `after` is a key that must have been used before. Of a
    tenant's keys, `keys_max` are remembered (0: all).
    """

    key: str
    digest: bytes
    now_us: int
    expires_us: int
    after: str | None = None
    keys_max: int = 0


class CreateTenant(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="tenant"):
    """Create a tenant; nothing happens if it exists."""

    tenant: str
    now_us: int


class AddKey(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="key"):
    """Give a tenant an API key; a key id is used once.

    The tenant may have `keys_max` keys that are not expired (0: any number).
    """

    tenant: str
    key_id: str
    secret_sha256: bytes
    scopes: tuple[str, ...]
    now_us: int = 0
    keys_max: int = 0
    incarnation: int = 0


class RotateKey(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="rotate"):
    """Let the key `new_key_id`, with another secret, have the scopes of a key of this tenant.

    The old key is good until `expires_us`; it is removed if that is not after `now_us`.
    """

    tenant: str
    key_id: str
    new_key_id: str
    secret_sha256: bytes
    now_us: int
    expires_us: int
    keys_max: int
    incarnation: int = 0


class RevokeKey(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="revoke"):
    """Take an API key from a tenant; nothing happens if it has none of this id."""

    tenant: str
    key_id: str
    incarnation: int = 0


class DeleteTenant(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="delete"):
    """Delete a tenant, if it is this one: from now on it is as unknown as one that never was.

    What it left in the store is removed by `WipeTenant`; until that is done none of its name can be
    created.
    """

    tenant: str
    incarnation: int


class WipeTenant(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="wipe"):
    """Go on removing what a deleted tenant left, for the next `rows_max` rows that are looked at.

    What it does depends on the task in the store alone, so it may be proposed any number of times.
    """

    tenant: str
    rows_max: int


class SetQuotas(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="quotas"):
    """Change some of a tenant's quotas, by name; None is the server's default."""

    tenant: str
    quotas: dict[str, int | None]
    incarnation: int = 0


class PostActivity(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="post"):
    """Put an activity into its home feed and the feeds in `to`, and before their followers.

    Posted again and again, it gets into `places_max` feeds at most. Rows are put before
    `inline_max` followers (None: all of them); tasks do the rest, of which the tenant may have
    `tasks_max`. All activities of the tenant may have `storage_max` bytes (None: any number, and
    none are counted).
    """

    tenant: str
    posted: Posted
    body: bytes
    places_max: int
    once: Once | None = None
    inline_max: int | None = None
    tasks_max: int = 0
    storage_max: int | None = None
    incarnation: int = 0


class RemoveActivity(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="remove"):
    """Remove an activity from every feed, within the same bounds as a post."""

    tenant: str
    activity_id: str
    time_us: int
    once: Once | None = None
    inline_max: int | None = None
    tasks_max: int = 0
    incarnation: int = 0


class FanOut(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="fanout"):
    """Go on with the task of an activity in one of its places, for the next `rows_max` followers.

    What it does depends on the task in the store alone, so it may be proposed any number of times.
    """

    tenant: str
    place: str
    position: bytes
    rows_max: int


class FollowFeed(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="follow"):
    """Let `follower` follow `target`, with its newest `copy_limit` activities.

    `copy_max` bounds what is copied where several have the time of the oldest. A target with more
    than `pull_above` followers is merged at read time from then on.
    """

    tenant: str
    follower: str
    target: str
    time_us: int
    copy_limit: int
    copy_max: int
    pull_above: int
    follows_max: int
    derived: bool = False
    once: Once | None = None
    incarnation: int = 0


class UnfollowFeed(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="unfollow"):
    """Let `follower` no longer follow `target`; its rows stay with `keep_history`.

    At most `rows_max` rows are removed and `scan_max` looked at; `ClearRows` goes on from there.
    Of a target that is merged at read time, the newest `copy_max` rows are kept. The tenant may
    have `tasks_max` tasks (0: what is left of this one is not counted).
    """

    tenant: str
    follower: str
    target: str
    time_us: int
    rows_max: int
    scan_max: int
    copy_max: int
    keep_history: bool = False
    once: Once | None = None
    tasks_max: int = 0
    incarnation: int = 0


class ClearRows(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="clear"):
    """Go on removing the rows of an ended follow, within the same bounds."""

    tenant: str
    follower: str
    target: str
    rows_max: int
    scan_max: int


class MoveClock(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="clock"):
    """Let the cluster's clock go on to `to_us`, if it stands at `seen_us`; of no tenant.

    So it does no harm late, twice, or by a node that leads no more: what is between the two was
    measured since a node saw `seen_us` in its store, and is counted once.
    """

    seen_us: int
    to_us: int
    tenant: str = ""


class RecordEvents(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="record"):
    """Record impressions and engagements, and move the counters with them."""

    tenant: str
    events: tuple[Impression | Engagement, ...]
    once: Once | None = None
    incarnation: int = 0


class SaveVersion(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="save"):
    """Save a ranking config, whatever its bytes say, as the tenant's next version.

    Of its versions, `versions_max` are kept: the oldest go, but for the active one and the one that
    was active before it.
    """

    tenant: str
    document: bytes
    now_us: int
    versions_max: int
    once: Once | None = None
    incarnation: int = 0


class ActivateVersion(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="activate"):
    """Let a version (0: the default) be the tenant's active one, if `expected` is until now."""

    tenant: str
    version: int
    expected: int
    now_us: int
    once: Once | None = None
    incarnation: int = 0


class GiveFeedback(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="feedback"):
    """Let a user say what to show; at most `muted_max` authors, and tags, are muted at once."""

    tenant: str
    given: FeedbackGiven
    muted_max: int
    once: Once | None = None
    incarnation: int = 0


Command = (
    CreateTenant
    | DeleteTenant
    | WipeTenant
    | AddKey
    | RotateKey
    | RevokeKey
    | SetQuotas
    | PostActivity
    | RemoveActivity
    | FollowFeed
    | UnfollowFeed
    | ClearRows
    | FanOut
    | MoveClock
    | RecordEvents
    | SaveVersion
    | ActivateVersion
    | GiveFeedback
)

Unkeyed = (
    CreateTenant
    | DeleteTenant
    | WipeTenant
    | AddKey
    | RotateKey
    | RevokeKey
    | SetQuotas
    | ClearRows
    | FanOut
    | MoveClock
)
"""Commands without an idempotency key: proposed again, they do no harm."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Command)
_VERSION = bytes((COMMAND_VERSION,))
_COPY_BYTES_MAX: Final = 4_096
"""Bytes of a command up to which a copy costs less than a view."""


def encode_command(command: Command) -> bytes:
    """The command as the log holds it."""
    return _VERSION + _encoder.encode(command)


def decode_command(data: bytes) -> Command:
    """Read a command; raises `InvalidInput` where the bytes are none.

    Raises `FormatUnsupported` for one of another version: what it means is known to another
    release, so this one must neither skip it nor guess.
    """
    if data and not 1 <= data[0] <= COMMAND_VERSION:
        raise FormatUnsupported(
            f"the log holds a command of version {data[0]}, and this release reads up to "
            f"{COMMAND_VERSION}: start the release that wrote it, or a newer one"
        )
    try:
        rest = data[1:] if len(data) < _COPY_BYTES_MAX else memoryview(data)[1:]
        command: Command = _decoder.decode(rest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"not a command: {error}") from error
    return command
