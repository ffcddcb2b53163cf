"""What the engine asks of a replica: an ordered, durable log of opaque commands."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Applied", "ApplyCommand", "Replica", "ReplicaStatus"]


@dataclass(frozen=True, slots=True)
class Applied:
    """A command that is durable and applied: its place in the log and the machine's result."""

    index: int
    result: bytes


ApplyCommand = Callable[[int, int, bytes], bytes]
"""(index, term, command) -> result. Called once a command, in index order, from one thread; writes
effects and the applied index in one batch. It raises only on I/O errors, which stop the replica."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """Where a replica stands."""

    role: str
    term: int
    last_index: int
    applied_index: int
    log_bytes: int


class Replica(Protocol):
    """Puts commands in one order, makes them durable, applies them."""

    def propose(self, command: bytes) -> "Future[Applied]":
        """Queue a command; the future is done once it is durable and applied.

        Raises `Overloaded` at once where too many wait. The future fails with `StorageFull` (not
        written, may be retried) or `ReplicaStopped` (it may or may not have been written).
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
