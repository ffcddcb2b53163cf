"""The whole keyspace: every key of every column family. Pure; long because it is one file.

A tenant that is deleted leaves no row: what begins with its name in the families of data, what has
it behind one letter in `config`, or behind a word and a zero byte in `meta`. So a new kind of key
has one of these forms, or is taken care of in `feeds.machine.wiping`.

Texts that end before the key does are followed by a zero byte, which none of them may hold, so no
tenant's keys begin with another's and order is the order of the texts. Numbers are big endian.
Times stand as positions, inverted, so that the newest comes first in a forward scan.

| family | key | value |
|---|---|---|
| meta | `c`, index modulo the journal's size 8 | log index 8 of a command, tenant of its events |
| meta | `changes` | size of that journal 8 |
| meta | `applied` | log index 8, term 8 |
| meta | `clock` | microseconds 8 that the cluster's clock has gone |
| meta | `tasks`, 0, tenant | 8: tasks in `outbox` that count towards the limit |
| meta | `usage`, 0, tenant | `Usage` |
| config | `t` tenant | `TenantRecord` |
| config | `k` key id | `ApiKey` |
| config | `i` tenant, key id | expiry 8 of the key; none of keys from before version 3 |
| config | `r` tenant | `RankingConfigs` |
| config | `v` tenant, version 8 | document of a ranking config |
| activities | tenant, position 16 | index 8, length 4, `Posted`, body |
| feeds | tenant, feed, position 16, origin | index 8 of the command that wrote the row |
| follows | tenant, `e`, follower, target | `Follow` without its ends |
| follows | tenant, `r`, target, follower | index 8 of the follow; of old ones nothing |
| follows | tenant, `d`, feed | `Degrees` |
| follows | tenant, `p`, follower, target | index 8, since 8 of the pulled edge |
| events | tenant, index 8, ordinal 4 | event |
| counters | tenant, `p`, position 16 | `CounterRecord` of an activity |
| counters | tenant, `a`, author / `t`, tag | `CounterRecord` |
| counters | tenant, `u`, user | `UserRecord` |
| outbox | tenant, follower, target | `Clearing` |
| outbox | tenant, 1, place, position 16 | `Spreading` |
| outbox | tenant, 2 | `Wiping` |
| dedup | tenant, `k`, idempotency key | `Remembered` |
| dedup | tenant, `x`, expiry 8, idempotency key | 1 if it counts towards the limit |
| dedup | tenant, `n` | `KeyCount` |
"""

import struct
from collections.abc import Callable
from typing import Final, Literal, Self

import msgspec

from feeds.model import Position

__all__ = [
    "APPLIED",
    "CHANGES",
    "CLOCK",
    "POSITION_BYTES",
    "ActivityKey",
    "ApiKeyKey",
    "ChangeKey",
    "CounterKey",
    "DedupCountKey",
    "DedupKey",
    "DegreesKey",
    "Entity",
    "EventKey",
    "ExpiryKey",
    "FanOutKey",
    "FeedRowKey",
    "FollowKey",
    "FollowerKey",
    "OutboxKey",
    "PulledKey",
    "RankingConfigKey",
    "RankingConfigsKey",
    "TaskCountKey",
    "TenantKey",
    "TenantKeyKey",
    "UsageKey",
    "WipeKey",
    "after",
    "read_number",
    "write_number",
]

APPLIED: Final = b"applied"
"""Where `meta` holds the index and term of the last applied command."""

CHANGES: Final = b"changes"
"""Where `meta` holds the size of the change journal."""

CLOCK: Final = b"clock"
"""Where `meta` holds how far the cluster's clock has gone."""

POSITION_BYTES: Final = 16
"""Bytes of a position."""

_NUMBER = struct.Struct(">Q")
_ORDINAL = struct.Struct(">QI")
_ENTITIES = {"activity": b"p", "author": b"a", "tag": b"t", "user": b"u"}

Entity = Literal["activity", "author", "tag", "user"]
"""What counters are kept for."""


def after(prefix: bytes) -> bytes:
    """The first key that is behind every key with this prefix."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


write_number: Final[Callable[[int], bytes]] = _NUMBER.pack
"""An unsigned number as 8 bytes that sort like it."""


def read_number(data: bytes, offset: int = 0) -> int:
    """The number that `write_number` wrote."""
    number: int = _NUMBER.unpack_from(data, offset)[0]
    return number


def _join(*texts: str) -> bytes:
    return ("\0".join(texts) + "\0").encode()


def _split(key: bytes, count: int) -> tuple[list[str], bytes]:
    """The `count` texts that a key begins with, and what comes behind them."""
    *texts, rest = key.split(b"\0", count)
    return [text.decode() for text in texts], rest


class ChangeKey(msgspec.Struct, frozen=True):
    """In `meta`: a slot of the change journal, which the next round of it writes again."""

    slot: int

    def encode(self) -> bytes:
        """The key's bytes."""
        return self.of(self.slot)

    @staticmethod
    def of(slot: int) -> bytes:
        """The bytes of a slot's key: every command writes one."""
        return b"c" + _NUMBER.pack(slot)


class TenantKey(msgspec.Struct, frozen=True):
    """In `config`: a tenant."""

    tenant: str

    def encode(self) -> bytes:
        """The key's bytes."""
        return self.of(self.tenant)

    @staticmethod
    def of(tenant: str) -> bytes:
        """The bytes of a tenant's key: every command reads one."""
        return b"t" + tenant.encode()

    @classmethod
    def decode(cls, key: bytes) -> Self:
        """Read the key's bytes."""
        return cls(key[1:].decode())

    @staticmethod
    def prefix() -> bytes:
        """What every key of this kind begins with."""
        return b"t"


class ApiKeyKey(msgspec.Struct, frozen=True):
    """In `config`: an API key, by its public id."""

    key_id: str

    def encode(self) -> bytes:
        """The key's bytes."""
        return b"k" + self.key_id.encode()

    @staticmethod
    def prefix() -> bytes:
        """What every key of this kind begins with."""
        return b"k"


class TenantKeyKey(msgspec.Struct, frozen=True):
    """In `config`: that a tenant has an API key, so that its keys are counted without all others.

    An operator's are those of the tenant without a name.
    """

    tenant: str
    key_id: str

    def encode(self) -> bytes:
        """The key's bytes."""
        return self.prefix(self.tenant) + self.key_id.encode()

    @classmethod
    def decode(cls, key: bytes) -> Self:
        """Read the key's bytes."""
        (tenant,), key_id = _split(key[1:], 1)
        return cls(tenant, key_id.decode())

    @staticmethod
    def prefix(tenant: str) -> bytes:
        """What the keys of one tenant begin with; the key id follows."""
        return b"i" + _join(tenant)


class RankingConfigsKey(msgspec.Struct, frozen=True):
    """In `config`: which ranking configs a tenant has, and which of them is active."""

    tenant: str

    def encode(self) -> bytes:
        """The key's bytes."""
        return b"r" + self.tenant.encode()


class RankingConfigKey(msgspec.Struct, frozen=True):
    """In `config`: one version of a tenant's ranking config."""

    tenant: str
    version: int

    def encode(self) -> bytes:
        """The key's bytes."""
        return self.prefix(self.tenant) + write_number(self.version)

    @staticmethod
    def prefix(tenant: str) -> bytes:
        """What the keys of a tenant's versions begin with; the version follows."""
        return b"v" + _join(tenant)


class ActivityKey(msgspec.Struct, frozen=True):
    """In `activities`: an activity; a tenant's newest comes first."""

    tenant: str
    position: Position

    def encode(self) -> bytes:
        """The key's bytes."""
        return _join(self.tenant) + self.position

    @classmethod
    def decode(cls, key: bytes) -> Self:
        """Read the key's bytes."""
        (tenant,), position = _split(key, 1)
        return cls(tenant, Position(position))

    @staticmethod
    def prefix(tenant: str) -> bytes:
        """What the keys of a tenant's activities begin with; a position follows."""
        return _join(tenant)


class FeedRowKey(msgspec.Struct, frozen=True):
    """In `feeds`: a row; a feed's newest comes first. `origin` is empty at home."""

    tenant: str
    feed: str
    position: Position
    origin: str = ""

    def encode(self) -> bytes:
        """The key's bytes."""
        return _join(self.tenant, self.feed) + self.position + self.origin.encode()

    @classmethod
    def decode(cls, key: bytes) -> Self:
        """Read the key's bytes."""
        (tenant, feed), rest = _split(key, 2)
        origin = rest[POSITION_BYTES:].decode()
        return cls(tenant, feed, Position(rest[:POSITION_BYTES]), origin)

    @staticmethod
    def prefix(tenant: str, feed: str) -> bytes:
        """What the keys of a feed's rows begin with; position and origin follow."""
        return _join(tenant, feed)

    @staticmethod
    def bounds(tenant: str, feed: str) -> tuple[bytes, bytes]:
        """What the keys of a feed's rows begin with, and the first key behind them all."""
        ends = f"{tenant}\0{feed}".encode()
        return ends + b"\0", ends + b"\1"

    @staticmethod
    def around(tenant: str, position: bytes, origin: str) -> tuple[bytes, bytes]:
        """What stands before and behind the feed in the keys of one activity's rows."""
        return _join(tenant), b"\0" + position + origin.encode()


class FollowKey(msgspec.Struct, frozen=True):
    """In `follows`: an edge, by who follows."""

    tenant: str
    follower: str
    target: str

    def encode(self) -> bytes:
        """The key's bytes."""
        return self.prefix(self.tenant, self.follower) + self.target.encode()

    @staticmethod
    def prefix(tenant: str, follower: str) -> bytes:
        """What the edges of a follower begin with; the target follows."""
        return _join(tenant) + b"e" + _join(follower)


class FollowerKey(msgspec.Struct, frozen=True):
    """In `follows`: an edge, by who is followed."""

    tenant: str
    target: str
    follower: str

    def encode(self) -> bytes:
        """The key's bytes."""
        return self.prefix(self.tenant, self.target) + self.follower.encode()

    @staticmethod
    def prefix(tenant: str, target: str) -> bytes:
        """What the edges to a target begin with; the follower follows."""
        return _join(tenant) + b"r" + _join(target)


class DegreesKey(msgspec.Struct, frozen=True):
    """In `follows`: how many edges a feed has, each way."""

    tenant: str
    feed: str

    def encode(self) -> bytes:
        """The key's bytes."""
        return _join(self.tenant) + b"d" + self.feed.encode()


class PulledKey(msgspec.Struct, frozen=True):
    """In `follows`: an edge whose target is merged when the follower's feed is read."""

    tenant: str
    follower: str
    target: str

    def encode(self) -> bytes:
        """The key's bytes."""
        return self.prefix(self.tenant, self.follower) + self.target.encode()

    @staticmethod
    def prefix(tenant: str, follower: str) -> bytes:
        """What the pulled edges of a follower begin with; the target follows."""
        return _join(tenant) + b"p" + _join(follower)


class EventKey(msgspec.Struct, frozen=True):
    """In `events`: a fact, by log index and its place within that command."""

    tenant: str
    index: int
    ordinal: int

    def encode(self) -> bytes:
        """The key's bytes."""
        return _join(self.tenant) + _ORDINAL.pack(self.index, self.ordinal)

    @classmethod
    def decode(cls, key: bytes) -> Self:
        """Read the key's bytes."""
        (tenant,), rest = _split(key, 1)
        return cls(tenant, *_ORDINAL.unpack(rest))

    @staticmethod
    def prefix(tenant: str) -> bytes:
        """What the keys of a tenant's events begin with; index and ordinal follow."""
        return _join(tenant)


class CounterKey(msgspec.Struct, frozen=True):
    """In `counters`: a record; `name` is a position (activity) or a text in UTF-8."""

    tenant: str
    entity: Entity
    name: bytes

    def encode(self) -> bytes:
        """The key's bytes."""
        return self.prefix(self.tenant, self.entity) + self.name

    @staticmethod
    def prefix(tenant: str, entity: Entity) -> bytes:
        """What the keys of one kind of record begin with; the name follows."""
        return _join(tenant) + _ENTITIES[entity]


class OutboxKey(msgspec.Struct, frozen=True):
    """In `outbox`: rows of an ended follow that are still to be removed."""

    tenant: str
    follower: str
    target: str

    def encode(self) -> bytes:
        """The key's bytes."""
        return _join(self.tenant, self.follower) + self.target.encode()

    @classmethod
    def decode(cls, key: bytes) -> Self:
        """Read the key's bytes."""
        (tenant, follower), target = _split(key, 2)
        return cls(tenant, follower, target.decode())


class FanOutKey(msgspec.Struct, frozen=True):
    """In `outbox`: rows of an activity before the followers of a place, still to be written.

    The byte 1 keeps them apart from ended follows: no feed's text begins with it.
    """

    tenant: str
    place: str
    position: Position

    def encode(self) -> bytes:
        """The key's bytes."""
        return self.prefix(self.tenant, self.place) + self.position

    @classmethod
    def decode(cls, key: bytes) -> Self:
        """Read the key's bytes."""
        (tenant, place), position = _split(key, 2)
        return cls(tenant, place.removeprefix("\1"), Position(position))

    @staticmethod
    def prefix(tenant: str, place: str) -> bytes:
        """What the tasks of a place begin with; the position follows, newest first."""
        return _join(tenant, "\1" + place)

    @staticmethod
    def has(key: bytes) -> bool:
        """Whether a key of `outbox` is of this kind."""
        return key[key.index(b"\0") + 1] == 1


class WipeKey(msgspec.Struct, frozen=True):
    """In `outbox`: what a deleted tenant left, still to be removed."""

    tenant: str

    def encode(self) -> bytes:
        """The key's bytes."""
        return _join(self.tenant) + b"\2"

    @classmethod
    def decode(cls, key: bytes) -> Self:
        """Read the key's bytes."""
        (tenant,), _ = _split(key, 1)
        return cls(tenant)

    @staticmethod
    def has(key: bytes) -> bool:
        """Whether a key of `outbox` is of this kind: no feed's text begins with the byte 2."""
        return key[key.index(b"\0") + 1 :] == b"\2"


class TaskCountKey(msgspec.Struct, frozen=True):
    """In `meta`: how many of a tenant's tasks are in `outbox`."""

    tenant: str

    def encode(self) -> bytes:
        """The key's bytes."""
        return self.prefix() + self.tenant.encode()

    @staticmethod
    def prefix() -> bytes:
        """What every key of this kind begins with; the tenant follows."""
        return b"tasks\0"


class UsageKey(msgspec.Struct, frozen=True):
    """In `meta`: what a tenant has stored."""

    tenant: str

    def encode(self) -> bytes:
        """The key's bytes."""
        return b"usage\0" + self.tenant.encode()


class DedupKey(msgspec.Struct, frozen=True):
    """In `dedup`: an idempotency key that was used."""

    tenant: str
    key: str

    def encode(self) -> bytes:
        """The key's bytes."""
        return _join(self.tenant) + b"k" + self.key.encode()


class DedupCountKey(msgspec.Struct, frozen=True):
    """In `dedup`: how many of a tenant's keys are remembered."""

    tenant: str

    def encode(self) -> bytes:
        """The key's bytes."""
        return _join(self.tenant) + b"n"


class ExpiryKey(msgspec.Struct, frozen=True):
    """In `dedup`: when a key is forgotten, by its tenant's time; the earliest comes first."""

    tenant: str
    expires_us: int
    key: str

    def encode(self) -> bytes:
        """The key's bytes."""
        return self.prefix(self.tenant) + write_number(self.expires_us) + self.key.encode()

    @classmethod
    def decode(cls, key: bytes) -> Self:
        """Read the key's bytes."""
        (tenant,), rest = _split(key, 1)
        return cls(tenant, read_number(rest, 1), rest[9:].decode())

    @staticmethod
    def prefix(tenant: str) -> bytes:
        """What the expiries of a tenant begin with; time and key follow."""
        return _join(tenant) + b"x"
