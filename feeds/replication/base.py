"""What the engine asks of a replica: an ordered, durable log of opaque commands."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Annotated, NamedTuple, Protocol

import msgspec

__all__ = [
    "Applied",
    "ApplyCommand",
    "Entry",
    "LogPosition",
    "Number",
    "PeerStatus",
    "Replica",
    "ReplicaStatus",
]

Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""An index, a term or a count, as messages hold it."""


class LogPosition(msgspec.Struct, frozen=True, order=True):
    """A place in the log: an entry's index and the term of the leader that wrote it."""

    index: int
    term: int


class Entry(NamedTuple):
    """A command, and the term of the leader that wrote it; empty for the leader's own."""

    term: Number
    command: bytes


class Applied(msgspec.Struct, frozen=True):
    """A command that is durable and applied: its place in the log and the machine's result."""

    index: int
    result: bytes


ApplyCommand = Callable[[int, int, bytes], bytes]
"""(index, term, command) -> result. Called once a command, in index order, from one thread; writes
effects and the applied index in one batch. It raises only on I/O errors, which stop the replica."""


class PeerStatus(msgspec.Struct, frozen=True):
    """Another node of the cluster, as this one sees it."""

    node: str
    connected: bool
    match_index: int = 0
    """Index up to which its log is known to be as the leader's; 0 where this node does not lead."""
    silent_s: float | None = None
    """Seconds since it was last heard; None where it never was."""


class ReplicaStatus(msgspec.Struct, frozen=True):
    """Where a replica stands. Its role is `leader`, `follower`, `candidate` or `stopped`."""

    role: str
    term: int
    last_index: int
    applied_index: int
    log_bytes: int
    node: str = ""
    leader: str | None = None
    commit_index: int = 0
    first_index: int = 0
    snapshot_index: int = 0
    """Index of the last snapshot that was sent or installed; 0 where there was none."""
    peers: tuple[PeerStatus, ...] = ()
    full: str | None = None
    """Why its disk takes no commands at present; None where it does."""


class Replica(Protocol):
    """Puts commands in one order, makes them durable, applies them."""

    def propose(self, command: bytes) -> "Future[Applied]":
        """Queue a command; the future is done once it is durable and applied.

        Raises `Overloaded` at once where too many wait. The future fails with `StorageFull` or
        `NoLeader` (not written, may be retried), or with `OutcomeUnknown` or `ReplicaStopped` (it
        may or may not have been written).
        """
        ...

    def barrier(self) -> "Future[int]":
        """The log index at or below which lies every write that was acknowledged before this call.

        A view that has applied it reads linearizably. The future fails as that of `propose`.
        """
        ...

    def status(self) -> ReplicaStatus:
        """Where this replica stands."""
        ...

    def compact(self, flushed_index: int) -> None:
        """Drop whole log segments whose commands are all at or below `flushed_index`."""
        ...

    def close(self) -> None:
        """Finish what was queued, sync and stop; closing twice is harmless."""
        ...
