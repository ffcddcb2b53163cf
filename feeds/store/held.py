"""A store, and above it writes that wait for others, so that many share one batch."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from feeds.store.base import COLUMN_FAMILIES, Store, Write

__all__ = ["HELD_MAX", "HeldWrites"]

HELD_MAX: Final = 4_096
"""Writes that wait at most; then they are written."""


class HeldWrites:
    """A `View` of a store as it will be once what is held is written; one thread.

    A write to RocksDB costs 4 us, however small; as one of 64 in a batch it costs 1 us.
    """

    def __init__(self, store: Store, stamp: Callable[[], Write]) -> None:
        """Each batch ends with `stamp`: how far it is, when it is written."""
        self._store = store
        self._stamp = stamp
        self._writes: list[Write] = []
        self._values: dict[str, dict[bytes, bytes | None]] = {
            family: {} for family in COLUMN_FAMILIES
        }
        self._sorted: dict[str, list[bytes]] = {}

    def hold(self, writes: Sequence[Write]) -> None:
        """Keep writes for the next batch; those of one call are in one, with a stamp behind them.

        So what `stamp` says must hold for them when this is called.
        """
        of_family = self._values
        for family, key, value in writes:
            values = of_family[family]
            if family in self._sorted and key not in values:
                insort(self._sorted[family], key)
            values[key] = value
        self._writes += writes
        if len(self._writes) >= HELD_MAX:
            self.write_out()

    def write_out(self) -> None:
        """Write what is held, in one batch. Raises `StorageError`."""
        if not self._writes:
            return
        self._writes.append(self._stamp())
        self._store.write(self._writes)
        self._writes.clear()
        self._sorted.clear()
        for values in self._values.values():
            values.clear()

    def get(self, family: str, key: bytes) -> bytes | None:
        """As `View.get`."""
        values = self._values[family]
        if key in values:
            return values[key]
        return self._store.get(family, key)

    def get_many(self, family: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `View.get_many`."""
        found = self._store.get_many(family, keys)
        values = self._values[family]
        if values:
            for place, key in enumerate(keys):
                if key in values:
                    found[place] = values[key]
        return found

    def scan(
        self, family: str, start: bytes, stop: bytes, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """As `View.scan`; what is held is written first where the scan would pass over it."""
        if self._holds(family, start, stop):
            self.write_out()
        return self._store.scan(family, start, stop, limit)

    def keys(self, family: str, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        """As `View.keys`; what is held is written first as for `scan`."""
        if self._holds(family, start, stop):
            self.write_out()
        return self._store.keys(family, start, stop, limit)

    def _holds(self, family: str, start: bytes, stop: bytes) -> bool:
        """Whether a key of the range is held."""
        if not self._values[family]:
            return False
        if family not in self._sorted:
            self._sorted[family] = sorted(self._values[family])
        keys = self._sorted[family]
        place = bisect_left(keys, start)
        return place < len(keys) and keys[place] < stop
