"""When a store is flushed, and by whom: at once, or beside the log."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from feeds.store.base import Store

__all__ = ["BackgroundFlusher", "Flusher", "InlineFlusher"]


class Flusher(Protocol):
    """Flushes a store; called on the replica's thread alone."""

    def request(self, applied_index: int) -> bool:
        """Flush what the store has applied up to this index; False while another flush runs.

        Raises `StorageError` where it cannot, then or at the next `check`.
        """
        ...

    def check(self) -> None:
        """Raise the `StorageError` of a flush that failed."""
        ...

    def take_flushed(self) -> int:
        """The index of the last flush that ended; 0 if none has since this was asked."""
        ...

    def close(self) -> None:
        """Wait for a flush that runs; twice is harmless."""
        ...


class InlineFlusher:
    """Flushes at once: whoever waits for a write waits for it too."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._flushed_index = 0

    def request(self, applied_index: int) -> bool:
        """As `Flusher.request`."""
        self._store.flush()
        self._flushed_index = applied_index
        return True

    def check(self) -> None:
        """A flush that fails has told so already."""

    def take_flushed(self) -> int:
        """As `Flusher.take_flushed`."""
        flushed, self._flushed_index = self._flushed_index, 0
        return flushed

    def close(self) -> None:
        """Nothing runs."""


class BackgroundFlusher:
    """Flushes on a thread of its own, so that the log goes on: 64 MB take half a second.

    A leader that stood still for so long would be deposed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, "flush")
        self._running: Future[int] | None = None
        self._flushed_index = 0

    def request(self, applied_index: int) -> bool:
        """As `Flusher.request`."""
        self.check()
        if self._running is not None:
            return False
        self._running = self._thread.submit(self._flush, applied_index)
        return True

    def check(self) -> None:
        """As `Flusher.check`; costs nothing while no flush runs."""
        if self._running is not None and self._running.done():
            ended, self._running = self._running, None
            self._flushed_index = ended.result()

    def take_flushed(self) -> int:
        """As `Flusher.take_flushed`."""
        flushed, self._flushed_index = self._flushed_index, 0
        return flushed

    def close(self) -> None:
        """As `Flusher.close`."""
        self._thread.shutdown()

    def _flush(self, applied_index: int) -> int:
        self._store.flush()
        return applied_index
