"""A replica without a disk: for tests, and for an engine that need not outlive its process."""

from concurrent.futures import Future
from threading import RLock

from feeds.errors import ReplicaStopped
from feeds.replication.base import Applied, ApplyCommand, ReplicaStatus

__all__ = ["MemoryReplica"]


class MemoryReplica:
    """A `Replica` that applies a command within `propose`, on the caller's thread.

    It keeps no log. Proposals from several threads are put in one order; a proposal made while one
    is applied, by the same thread, is refused.
    """

    def __init__(self, apply: ApplyCommand, applied_index: int = 0) -> None:
        self._apply = apply
        self._applied_index = applied_index
        self._stopped: str | None = None
        self._applying = False
        self._lock = RLock()

    def propose(self, command: bytes) -> "Future[Applied]":
        """Apply a command; the future is done, with `ReplicaStopped` where apply raised."""
        future: Future[Applied] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            try:
                future.set_result(self._next(command))
            except ReplicaStopped as error:
                future.set_exception(error)
        return future

    def barrier(self) -> "Future[int]":
        """What was acknowledged is applied already: the applied index, at once."""
        future: Future[int] = Future()
        with self._lock:
            if self._stopped is None:
                future.set_result(self._applied_index)
            else:
                future.set_exception(ReplicaStopped(f"the replica is stopped: {self._stopped}"))
        return future

    def status(self) -> ReplicaStatus:
        """Where this replica stands; its role is `leader` or `stopped`."""
        role = "leader" if self._stopped is None else "stopped"
        return ReplicaStatus(role, 1, self._applied_index, self._applied_index, 0)

    def compact(self, flushed_index: int) -> None:
        """There is no log to compact."""

    def close(self) -> None:
        """Take no more commands; closing twice is harmless."""
        with self._lock:
            self._stopped = self._stopped or "it was closed"

    def _next(self, command: bytes) -> Applied:
        if self._stopped is not None or self._applying:
            why = self._stopped or "a command is being applied"
            raise ReplicaStopped(f"the replica takes no writes: {why}")
        index = self._applied_index + 1
        self._applying = True
        try:
            result = self._apply(index, 1, command)
        except Exception as error:
            self._stopped = f"{type(error).__name__}: {error}"
            raise ReplicaStopped(f"the replica takes no writes: {self._stopped}") from error
        finally:
            self._applying = False
        self._applied_index = index
        return Applied(index, result)
