"""What processes of one machine say to its engine node, over a unix socket: strict msgpack."""

from typing import Annotated, Final

import msgspec

from feeds.errors import (
    FeedsError,
    InvalidInput,
    LimitExceeded,
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    ReplicaStopped,
    StorageFull,
)
from feeds.replication.base import Applied, ReplicaStatus

__all__ = [
    "PROTOCOL_VERSION",
    "REQUEST_BYTES_MAX",
    "AppliedUpTo",
    "Barrier",
    "Checkpoint",
    "Done",
    "Failed",
    "Reply",
    "Request",
    "Status",
    "Submit",
    "Welcome",
    "decode_reply",
    "decode_request",
    "encode",
    "error_of",
    "failed",
    "outcome",
]

PROTOCOL_VERSION: Final = 2
"""The version of what is said below; both ends must be of one."""

REQUEST_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of one request or reply at most."""

Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Submit(msgspec.Struct, frozen=True, array_like=True, tag="submit"):
    """Propose a command."""

    id: Id
    command: bytes


class Barrier(msgspec.Struct, frozen=True, array_like=True, tag="barrier"):
    """Ask for an index at or below which every acknowledged write lies."""

    id: Id


class Status(msgspec.Struct, frozen=True, array_like=True, tag="status"):
    """Ask where the node stands."""

    id: Id


class Checkpoint(msgspec.Struct, frozen=True, array_like=True, tag="checkpoint"):
    """Ask for a copy of the store at a path that does not exist, on the node's machine."""

    id: Id
    path: Annotated[str, msgspec.Meta(max_length=4096)]


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    """The node's first words. `store` is where its store lies."""

    version: int
    node: str
    cluster_id: str
    store: str


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """A request is done; `result` is a command's answer."""

    id: Id
    index: int = 0
    term: int = 0
    result: bytes = b""
    status: ReplicaStatus | None = None


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """A request failed, with a kind of error and a sentence."""

    id: Id
    kind: str
    message: str
    retry_after_s: float = 0.0


class AppliedUpTo(msgspec.Struct, frozen=True, array_like=True, tag="applied"):
    """How far the node's store is. `generation` changes when it must be opened anew.

    That is when another store took its place, and when the node was started again.
    """

    index: int
    commit_index: int
    generation: int
    term: int = 0
    silent_s: float | None = None
    """Seconds since `commit_index` was confirmed, by the leader or a majority; None if unknown."""


Request = Submit | Barrier | Status | Checkpoint
Reply = Welcome | Done | Failed | AppliedUpTo

_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(Request)
_replies = msgspec.msgpack.Decoder(Reply)

_KINDS: Final[dict[str, type[FeedsError]]] = {
    kind.__name__: kind
    for kind in (
        InvalidInput,
        LimitExceeded,
        NoLeader,
        OutcomeUnknown,
        Overloaded,
        ReplicaStopped,
        StorageFull,
    )
}


def encode(said: Request | Reply) -> bytes:
    """The bytes of a request or a reply."""
    return _encoder.encode(said)


def decode_request(data: bytes) -> Request:
    """Read a request; raises `InvalidInput` where the bytes are none."""
    try:
        request: Request = _requests.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"not a request to an engine: {error}") from error
    return request


def decode_reply(data: bytes) -> Reply:
    """Read a reply; raises `InvalidInput` where the bytes are none."""
    try:
        reply: Reply = _replies.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"not a reply of an engine: {error}") from error
    return reply


def failed(request: int, error: FeedsError) -> Failed:
    """The reply that says an error."""
    kind = type(error).__name__
    retry_after_s = error.retry_after_s if isinstance(error, Overloaded) else 0.0
    return Failed(request, kind if kind in _KINDS else "OutcomeUnknown", str(error), retry_after_s)


def error_of(reply: Failed) -> FeedsError:
    """The error that a reply says."""
    if reply.kind == "Overloaded":
        return Overloaded(reply.message, reply.retry_after_s)
    return _KINDS.get(reply.kind, OutcomeUnknown)(reply.message)


def outcome(request: int, told: Applied | FeedsError) -> Done | Failed:
    """The reply to a command."""
    if isinstance(told, Applied):
        return Done(request, told.index, 0, told.result)
    return failed(request, told)
