"""A node's store as another process of the machine sees it: a RocksDB secondary that catches up."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from feeds.replication.base import LogPosition
from feeds.state import applied_position
from feeds.store.rocks import RocksConfig, RocksStore

__all__ = ["FollowedStore"]


class FollowedStore:
    """A `View` of a node's store, as of the last `catch_up`; any thread may read.

    Where a snapshot takes the store's place, the view moves to the new one; reads under way end on
    the old one, which is closed when the next takes its place.
    """

    def __init__(self, path: Path, scratch: Path, config: RocksConfig | None = None) -> None:
        """Open the store at `path`; `scratch` is an empty directory. Raises `StorageError`."""
        self._path = path
        self._scratch = scratch
        self._config = config
        self._numbers = itertools.count()
        self._before: RocksStore | None = None
        self._store = self._open()

    def get(self, family: str, key: bytes) -> bytes | None:
        """As `View.get`."""
        return self._store.get(family, key)

    def get_many(self, family: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `View.get_many`."""
        return self._store.get_many(family, keys)

    def scan(
        self, family: str, start: bytes, stop: bytes, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """As `View.scan`."""
        return self._store.scan(family, start, stop, limit)

    def keys(self, family: str, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        """As `View.keys`."""
        return self._store.keys(family, start, stop, limit)

    def catch_up(self) -> LogPosition:
        """See what the node has written since; the last command that is in it."""
        self._store.catch_up()
        return applied_position(self._store)

    def reopen(self) -> None:
        """Move to the store that lies there now."""
        opened = self._open()
        if self._before is not None:
            self._before.close()
        self._before, self._store = self._store, opened

    def close(self) -> None:
        """Let go of it; twice is harmless."""
        if self._before is not None:
            self._before.close()
        self._store.close()

    def _open(self) -> RocksStore:
        notes = self._scratch / str(next(self._numbers))
        notes.mkdir()
        return RocksStore.open_secondary(self._path, notes, self._config)
