"""A store, and above it writes that wait for others, so that many share one batch."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from feeds.store.base import COLUMN_FAMILIES, Store, Written

__all__ = ["HELD_MAX", "KEPT_BYTES_MAX", "KEPT_MAX", "HeldWrites"]

HELD_MAX: Final = 4_096
"""Writes that wait at most; then they are written."""

KEPT_MAX: Final = 1_024
"""Values of one family that are kept once they were read; beyond that all are let go."""

KEPT_BYTES_MAX: Final = 1_024
"""Bytes of a value that is kept at most."""


class HeldWrites:
    """A `View` of a store as it will be once what is held is written; one thread.

    A write to RocksDB costs 4 us, however small; as one of 64 in a batch it costs 1 us. A read
    costs 2 us, and every command reads its tenant's record: what was read is kept until it is
    written, so nobody else may write to the store.
    """

    def __init__(self, store: Store, stamp: Callable[[], Written]) -> None:
        """Each batch ends with `stamp`: how far it is, when it is written."""
        self._store = store
        self._stamp = stamp
        self._writes: list[Written] = []
        self._values: dict[str, dict[bytes, bytes | None]] = {
            family: {} for family in COLUMN_FAMILIES
        }
        self._kept: dict[str, dict[bytes, bytes]] = {family: {} for family in COLUMN_FAMILIES}
        self._sorted: dict[str, list[bytes]] = {}

    def hold(self, *commands: Sequence[Written]) -> None:
        """Keep writes for the next batch; those of one call are in one, with a stamp behind them.

        So what `stamp` says must hold for them when this is called.
        """
        of_family, in_order = self._values, self._sorted
        for writes in commands:
            for family, key, value in writes:
                values = of_family[family]
                if in_order and family in in_order and key not in values:
                    insort(in_order[family], key)
                values[key] = value
            self._writes += writes
        if len(self._writes) >= HELD_MAX:
            self.write_out()

    def write_out(self) -> None:
        """Write what is held, in one batch. Raises `StorageError`."""
        if not self._writes:
            return
        family, key, value = stamp = self._stamp()
        self._values[family][key] = value
        self._writes.append(stamp)
        self._store.write(self._writes)
        self._writes.clear()
        self._sorted.clear()
        for family, values in self._values.items():
            kept = self._kept[family]
            for key in kept.keys() & values.keys():
                del kept[key]
            values.clear()

    def get(self, family: str, key: bytes) -> bytes | None:
        """As `View.get`."""
        values = self._values[family]
        if key in values:
            return values[key]
        kept = self._kept[family]
        value = kept.get(key)
        if value is None:
            value = self._store.get(family, key)
            if value is not None and len(value) <= KEPT_BYTES_MAX:
                if len(kept) >= KEPT_MAX:
                    kept.clear()
                kept[key] = value
        return value

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
