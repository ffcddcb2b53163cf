"""The reference store: sorted keys and a dict for each column family, in memory."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from types import TracebackType
from typing import Self

from feeds.errors import StorageError
from feeds.store.base import COLUMN_FAMILIES, Written

__all__ = ["MemoryStore"]


@dataclass(slots=True)
class _Family:
    values: dict[bytes, bytes] = field(default_factory=dict)
    keys: list[bytes] = field(default_factory=list)

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.values:
            insort(self.keys, key)
        self.values[key] = value

    def delete(self, key: bytes) -> None:
        if self.values.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]


class MemoryStore:
    """A `Store` that lives as long as its process: for tests, and the law that RocksDB is held to.

    Reads may come from any thread. A write costs O(keys of the family) for each new key.
    """

    def __init__(self) -> None:
        self._families = {name: _Family() for name in COLUMN_FAMILIES}
        self._lock = Lock()
        self._open = True

    def get(self, family: str, key: bytes) -> bytes | None:
        """The value at a key, or None."""
        with self._lock:
            return self._family(family).values.get(key)

    def get_many(self, family: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values at keys, in the keys' order."""
        with self._lock:
            values = self._family(family).values
            return [values.get(key) for key in keys]

    def scan(
        self, family: str, start: bytes, stop: bytes, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < stop in key order, at most `limit`, as they were at the call.

        >>> store = MemoryStore()
        >>> store.write([("meta", b"a", b"1"), ("meta", b"b", b"2")])
        >>> list(store.scan("meta", b"a", b"b"))
        [(b'a', b'1')]
        """
        with self._lock:
            rows = self._family(family)
            first = bisect_left(rows.keys, start)
            last = bisect_left(rows.keys, stop)
            if limit is not None:
                last = min(last, first + max(limit, 0))
            return iter([(key, rows.values[key]) for key in rows.keys[first:last]])

    def keys(self, family: str, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        """The keys that `scan` would give."""
        return [key for key, _ in self.scan(family, start, stop, limit)]

    def write(self, writes: Sequence[Written]) -> None:
        """All of the writes or none; later writes to a key win."""
        with self._lock:
            targets = [self._family(family) for family, _, _ in writes]
            for target, (_, key, value) in zip(targets, writes, strict=True):
                if value is None:
                    target.delete(key)
                else:
                    target.put(key, value)

    def flush(self) -> None:
        """Nothing survives this process; there is nothing to do."""
        with self._lock:
            self._family("meta")

    def compact(self, family: str, start: bytes, stop: bytes) -> None:
        """There are no files."""
        del family, start, stop

    def close(self) -> None:
        """Forget everything; closing twice is harmless."""
        with self._lock:
            self._open = False
            self._families.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _family(self, name: str) -> _Family:
        try:
            return self._families[name]
        except KeyError:
            if not self._open:
                raise StorageError("the store is closed: open it again to read or write") from None
            raise ValueError(f"no column family {name!r}: see COLUMN_FAMILIES") from None
