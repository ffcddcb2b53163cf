"""What a command answers, and the codec of it. Pure.

A deterministic error is an answer too (`Rejected`): every node that applies the command gives it.
"""

from dataclasses import dataclass
from typing import Literal

import msgspec

from feeds.errors import (
    Conflict,
    FeedsError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Overloaded,
    QuotaExceeded,
)
from feeds.model import Activity, ActivityId

__all__ = [
    "Accepted",
    "ConfigActivated",
    "ConfigSaved",
    "Drained",
    "FollowResult",
    "Placed",
    "PostResult",
    "RecordResult",
    "Rejected",
    "RemoveResult",
    "Result",
    "UnfollowResult",
    "decode_result",
    "encode_result",
    "is_early",
]


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag="ok"):
    """It took effect, or had before."""

    index: int


class Placed(msgspec.Struct, frozen=True, array_like=True, tag="post"):
    """The activity has its places; `duplicate` if it was there before."""

    index: int
    activity_id: ActivityId
    duplicate: bool = False


class RemoveResult(msgspec.Struct, frozen=True, array_like=True, tag="remove"):
    """`removed` is False if there was no such activity."""

    index: int
    removed: bool


class FollowResult(msgspec.Struct, frozen=True, array_like=True, tag="follow"):
    """`copied` activities of the target became visible; 0 if it was followed before."""

    index: int
    copied: int


class UnfollowResult(msgspec.Struct, frozen=True, array_like=True, tag="unfollow"):
    """`removed` is False if there was no such follow.

    `unfinished` if older rows are still to be removed, which the engine does by itself.
    """

    index: int
    removed: bool
    unfinished: bool = False


class Drained(msgspec.Struct, frozen=True, array_like=True, tag="drained"):
    """A fan-out went on, if it was still to be done; `unfinished` if more followers remain."""

    index: int
    unfinished: bool = False


class RecordResult(msgspec.Struct, frozen=True, array_like=True, tag="record"):
    """How many events were recorded, and which activities do not exist (in order, no repeats).

    `duplicate` if the idempotency key was used before: then nothing was recorded again.
    """

    index: int
    recorded: int
    unknown: tuple[ActivityId, ...] = ()
    duplicate: bool = False


class ConfigSaved(msgspec.Struct, frozen=True, array_like=True, tag="saved"):
    """The ranking config has this version."""

    index: int
    version: int


class ConfigActivated(msgspec.Struct, frozen=True, array_like=True, tag="activated"):
    """This version of the ranking config is active, and `previous` was before (None: nothing)."""

    index: int
    version: int
    previous: int | None


class Rejected(msgspec.Struct, frozen=True, array_like=True, tag="rejected"):
    """The command changed nothing; `message` is a sentence for the user.

    `early` is a conflict too: the write that must come before has not taken effect. `overloaded`
    is one of the moment: the same write may take effect later.
    """

    code: Literal["invalid", "conflict", "limit", "early", "overloaded", "unknown", "quota"]
    message: str

    def error(self) -> FeedsError:
        """The exception that says this."""
        kinds: dict[str, type[FeedsError]] = {
            "invalid": InvalidInput,
            "limit": LimitExceeded,
            "overloaded": Overloaded,
            "unknown": NotFound,
            "quota": QuotaExceeded,
        }
        return kinds.get(self.code, Conflict)(self.message)


Result = (
    Accepted
    | Placed
    | RemoveResult
    | FollowResult
    | UnfollowResult
    | Drained
    | RecordResult
    | ConfigSaved
    | ConfigActivated
    | Rejected
)


@dataclass(frozen=True, slots=True)
class PostResult:
    """The activity with its id and time; `duplicate` if it was there before."""

    activity: Activity
    index: int
    duplicate: bool


_EARLY = msgspec.msgpack.encode(Rejected("early", ""))[:-1]
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Result)


def encode_result(result: Result) -> bytes:
    """The answer as a replica hands it over."""
    return _encoder.encode(result)


def is_early(data: bytes) -> bool:
    """Whether an encoded answer says that the write before it has not taken effect."""
    return data.startswith(_EARLY)


def decode_result(data: bytes) -> Result:
    """Read what `encode_result` wrote."""
    result: Result = _decoder.decode(data)
    return result
