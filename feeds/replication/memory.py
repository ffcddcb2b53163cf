"""The replica without a disk: each command is applied as it is proposed, by the caller."""

from concurrent.futures import Future
from threading import RLock

from feeds.errors import ReplicaStopped
from feeds.replication.base import Applied, ApplyCommand, ReplicaStatus

__all__ = ["MemoryReplica"]


class MemoryReplica:
    """A `Replica` that keeps its commands in memory: for tests, and the law others are held to."""

    def __init__(self, apply: ApplyCommand, applied_index: int = 0) -> None:
        self.commands: list[bytes] = []
        self._apply = apply
        self._first_index = applied_index + 1
        self._open = True
        self._lock = RLock()

    def propose(self, command: bytes) -> "Future[Applied]":
        """Apply a command; the future is done when this returns."""
        future: Future[Applied] = Future()
        with self._lock:
            if not self._open:
                raise ReplicaStopped("the replica was closed: open the engine again")
            index = self._first_index + len(self.commands)
            self.commands.append(command)
            applied = Applied(index, self._apply(index, 1, command))
        future.set_result(applied)
        return future

    def status(self) -> ReplicaStatus:
        """Where this replica stands."""
        last = self._first_index + len(self.commands) - 1
        return ReplicaStatus("leader", 1, last, last, sum(map(len, self.commands)))

    def compact(self, flushed_index: int) -> None:
        """Nothing to drop: the commands stay for the tests that apply them again."""

    def close(self) -> None:
        """Refuse further commands."""
        self._open = False
