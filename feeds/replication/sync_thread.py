"""A thread that waits for the disk, so that the replica's loop does not."""

from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

from feeds.replication.segment import PendingSync

__all__ = ["SyncThread"]


class SyncThread:
    """Runs the log's syncs one after the other, and tells of each on its own thread."""

    def __init__(self, has_run: Callable[[PendingSync], None]) -> None:
        """Begin at once; `has_run` may raise RuntimeError where nobody listens any more."""
        self._has_run = has_run
        self._waiting: SimpleQueue[PendingSync | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="log-sync", daemon=True)
        self._thread.start()

    def run(self, pending: PendingSync) -> None:
        """Run a sync behind those that wait."""
        self._waiting.put(pending)

    def close(self, seconds: float) -> None:
        """Wait for what was asked for; a disk that hangs is given so many seconds."""
        self._waiting.put(None)
        self._thread.join(seconds)

    def _work(self) -> None:
        while (pending := self._waiting.get()) is not None:
            pending.wait()
            with suppress(RuntimeError):
                self._has_run(pending)
            pending.close()
