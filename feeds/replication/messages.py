"""What nodes of a cluster say to each other, and the codec: strictly typed msgpack, never pickle.

A message changes what a node remembers only through `consensus` and `member`; here its form alone
is checked. How long a frame may be is the transport's business.
"""

from typing import Annotated, Final, Literal

import msgspec

from feeds.errors import InvalidInput
from feeds.replication.base import Entry, Number

__all__ = [
    "AppendEntries",
    "AppendReply",
    "Forward",
    "ForwardReply",
    "JoinAsk",
    "JoinTold",
    "Message",
    "Outdated",
    "RequestVote",
    "TimeoutNow",
    "VoteReply",
    "decode_message",
    "encode_message",
]

MESSAGE_VERSION: Final = 1
"""The version of the messages below; nodes of different versions do not talk."""

Outcome = Literal["ok", "no_leader", "overloaded", "full", "unknown", "limit", "stopped"]
"""What became of a forwarded command."""


class AppendEntries(msgspec.Struct, frozen=True, array_like=True, tag="append"):
    """The leader's entries behind `previous`; none of them is a heartbeat.

    `sequence` numbers the appends of a leadership to one peer; the reply repeats it. A log need not
    be kept up to `keep_index` for anyone's sake.
    """

    term: Number
    sequence: Number
    previous_index: Number
    previous_term: Number
    commit_index: Number
    keep_index: Number
    entries: list[Entry]


class AppendReply(msgspec.Struct, frozen=True, array_like=True, tag="appended"):
    """`index` is up to where the log matches the leader's, or from where on it may differ."""

    term: Number
    sequence: Number
    success: bool
    index: Number
    last_index: Number


class RequestVote(msgspec.Struct, frozen=True, array_like=True, tag="vote"):
    """A candidate, whose log ends with `last`, asks for a vote; `pre`: whether it would get one."""

    term: Number
    last_index: Number
    last_term: Number
    pre: bool = False


class VoteReply(msgspec.Struct, frozen=True, array_like=True, tag="voted"):
    """`term` is the one that was asked about where it is granted, else the voter's own."""

    term: Number
    granted: bool
    pre: bool = False


class TimeoutNow(msgspec.Struct, frozen=True, array_like=True, tag="transfer"):
    """The leader stops, and asks the peer that has its whole log to stand at once."""

    term: Number


class Forward(msgspec.Struct, frozen=True, array_like=True, tag="forward"):
    """A command that a follower was given; the leader answers under the same number."""

    request: Number
    command: bytes


class ForwardReply(msgspec.Struct, frozen=True, array_like=True, tag="forwarded"):
    """What became of a forwarded command."""

    request: Number
    outcome: Outcome
    index: Number = 0
    result: bytes = b""
    message: str = ""
    retry_after_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0


class JoinAsk(msgspec.Struct, frozen=True, array_like=True, tag="join"):
    """A node that begins with nothing asks what it must know before it may count."""


class JoinTold(msgspec.Struct, frozen=True, array_like=True, tag="told"):
    """The newest term that a node has seen, and where its log ends."""

    term: Number
    last_index: Number


class Outdated(msgspec.Struct, frozen=True, array_like=True, tag="outdated"):
    """The leader was told before that the peer had everything up to `match_index`."""

    term: Number
    match_index: Number


Message = (
    AppendEntries
    | AppendReply
    | RequestVote
    | VoteReply
    | TimeoutNow
    | Forward
    | ForwardReply
    | JoinAsk
    | JoinTold
    | Outdated
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def encode_message(message: Message) -> bytes:
    """The bytes of a message."""
    return _encoder.encode(message)


def decode_message(data: bytes) -> Message:
    """Read a message; raises `InvalidInput` where the bytes are none."""
    try:
        message: Message = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"not a message between nodes: {error}") from error
    return message
