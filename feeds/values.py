"""What the store holds under each key of `feeds.keys`, and the codecs. Pure."""

import struct
from dataclasses import dataclass
from typing import Final

import msgspec

from feeds.counters import CounterRecord, UserRecord
from feeds.credentials import ApiKey
from feeds.events import Event, Posted
from feeds.quotas import Quotas, Usage

__all__ = [
    "Clearing",
    "Degrees",
    "Edge",
    "KeyCount",
    "PulledEdge",
    "RankingConfigs",
    "Remembered",
    "SavedVersion",
    "Spreading",
    "StoredActivity",
    "TenantRecord",
    "Wiping",
    "body_of",
    "decode_activity",
    "decode_api_key",
    "decode_clearing",
    "decode_counter",
    "decode_degrees",
    "decode_edge",
    "decode_event",
    "decode_key_count",
    "decode_pulled",
    "decode_ranking_configs",
    "decode_remembered",
    "decode_spreading",
    "decode_tenant",
    "decode_usage",
    "decode_user",
    "decode_wiping",
    "encode",
    "encode_activity",
    "encode_pulled",
    "index_of",
]


class TenantRecord(msgspec.Struct, frozen=True, array_like=True):
    """A tenant: when it was created, by the clock and in the log, and what it may use."""

    created_us: int
    index: int
    quotas: Quotas = Quotas()
    deleted: int = 0
    """The log index at which it was deleted; 0 if it was not."""

    merging: bool = True
    """False while no feed of the tenant is merged at read time; true also where that is not known,
    as of a tenant that release 0.1 created."""


class Edge(msgspec.Struct, frozen=True, array_like=True):
    """A follow without its ends; see `feeds.model.Follow`."""

    created_us: int
    index: int
    since_us: int
    derived: bool


@dataclass(frozen=True, slots=True)
class PulledEdge:
    """What decides which rows of a pulled target belong to the follower."""

    index: int
    since_us: int


class Degrees(msgspec.Struct, frozen=True, array_like=True):
    """How many feeds follow a feed, how many it follows, and whether it is merged at read time."""

    followers: int = 0
    follows: int = 0
    pulled: bool = False


class Clearing(msgspec.Struct, frozen=True, array_like=True):
    """Rows to remove: those written at log index `index` or before, behind the suffix `after`.

    `counted` if it counts towards its tenant's limit of tasks.
    """

    index: int
    after: bytes
    counted: bool = False


class Spreading(msgspec.Struct, frozen=True, array_like=True):
    """A fan-out that goes on behind the follower `after`, as of log index `index`.

    It concerns those who have followed since before that. Their rows are written, with that index;
    or deleted, if it `removes`.
    """

    index: int
    removes: bool
    after: str


class Wiping(msgspec.Struct, frozen=True, array_like=True):
    """What a deleted tenant left goes, from the key `start` of the range number `stage` on."""

    stage: int = 0
    start: bytes = b""


class Remembered(msgspec.Struct, frozen=True, array_like=True):
    """What an idempotency key was used for, and what was answered.

    It expires by its tenant's time; see `KeyCount`.
    """

    digest: bytes
    expires_us: int
    result: bytes


class SavedVersion(msgspec.Struct, frozen=True, array_like=True):
    """A version of a ranking config that is kept: when it was saved, and its bytes."""

    version: int
    saved_us: int
    index: int
    length: int


class RankingConfigs(msgspec.Struct, frozen=True, array_like=True):
    """A tenant's ranking configs: the versions that are kept, the oldest first, and their state.

    `active` ranks since `activated_us`, and `previous` did before (0: the default; None: nothing
    was active before). `last` is the highest version that was ever saved.
    """

    active: int = 0
    previous: int | None = None
    activated_us: int = 0
    last: int = 0
    saved: tuple[SavedVersion, ...] = ()


class KeyCount(msgspec.Struct, frozen=True, array_like=True):
    """How many of a tenant's keys count towards its limit, and before when none expires.

    The tenant's time is the cluster's clock and `ahead_us`. It began with the first key that was
    written under that clock, where the stamps of older releases had led: at `since_us` then.
    """

    count: int = 0
    since_us: int = 0
    ahead_us: int | None = None

    def now_us(self, clock_us: int) -> int:
        """The tenant's time."""
        return self.since_us if self.ahead_us is None else clock_us + self.ahead_us


@dataclass(frozen=True, slots=True)
class StoredActivity:
    """An activity: log index of its first post, the facts (with all its places), its body."""

    index: int
    posted: Posted
    body: bytes


_HEAD: Final = struct.Struct(">QI")
_PULLED: Final = struct.Struct(">QQ")
_encoder = msgspec.msgpack.Encoder()
_posted = msgspec.msgpack.Decoder(Posted)

encode = _encoder.encode
decode_api_key = msgspec.msgpack.Decoder(ApiKey).decode
decode_tenant = msgspec.msgpack.Decoder(TenantRecord).decode
decode_wiping = msgspec.msgpack.Decoder(Wiping).decode
decode_usage = msgspec.msgpack.Decoder(Usage).decode
decode_edge = msgspec.msgpack.Decoder(Edge).decode
decode_degrees = msgspec.msgpack.Decoder(Degrees).decode
decode_clearing = msgspec.msgpack.Decoder(Clearing).decode
decode_spreading = msgspec.msgpack.Decoder(Spreading).decode
decode_remembered = msgspec.msgpack.Decoder(Remembered).decode
decode_key_count = msgspec.msgpack.Decoder(KeyCount).decode
decode_counter = msgspec.msgpack.Decoder(CounterRecord).decode
decode_user = msgspec.msgpack.Decoder(UserRecord).decode
decode_ranking_configs = msgspec.msgpack.Decoder(RankingConfigs).decode
decode_event = msgspec.msgpack.Decoder(Event).decode


def encode_activity(activity: StoredActivity) -> bytes:
    """Index 8, length of the facts 4, facts, body: the body is read without decoding the rest."""
    facts = _encoder.encode(activity.posted)
    return _HEAD.pack(activity.index, len(facts)) + facts + activity.body


def decode_activity(data: bytes) -> StoredActivity:
    """Read what `encode_activity` wrote."""
    index, length = _HEAD.unpack_from(data)
    end = _HEAD.size + length
    return StoredActivity(index, _posted.decode(data[_HEAD.size : end]), data[end:])


def index_of(data: bytes) -> int:
    """The log index of a stored activity's first post."""
    return int.from_bytes(data[:8])


def body_of(data: bytes) -> bytes:
    """The body of a stored activity."""
    return data[_HEAD.size + int.from_bytes(data[8:12]) :]


def encode_pulled(edge: PulledEdge) -> bytes:
    """Index 8, since 8."""
    return _PULLED.pack(edge.index, edge.since_us)


def decode_pulled(data: bytes) -> PulledEdge:
    """Read what `encode_pulled` wrote."""
    return PulledEdge(*_PULLED.unpack(data))
