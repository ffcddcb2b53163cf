"""What the engine asks of a store: ordered bytes in column families, written atomically."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, Self, runtime_checkable

__all__ = ["COLUMN_FAMILIES", "Store", "View", "Write", "Written"]

COLUMN_FAMILIES: tuple[str, ...] = (
    "meta",
    "activities",
    "feeds",
    "follows",
    "reactions",
    "objects",
    "events",
    "counters",
    "outbox",
    "dedup",
    "config",
)


class Write(NamedTuple):
    """One change: `value` None deletes the key."""

    family: str
    key: bytes
    value: bytes | None


Written = tuple[str, bytes, bytes | None]
"""A `Write` whose parts have no names: these cost 0.2 us, and a command writes up to hundreds."""


@runtime_checkable
class View(Protocol):
    """Reading a consistent, ordered state."""

    def get(self, family: str, key: bytes) -> bytes | None:
        """The value at a key, or None."""
        ...

    def get_many(self, family: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values at keys, in the keys' order: one call however many."""
        ...

    def scan(
        self, family: str, start: bytes, stop: bytes, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < stop in key order, at most `limit`."""
        ...

    def keys(self, family: str, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        """The keys that `scan` would give, in one call: for those that need no values."""
        ...


@runtime_checkable
class Store(View, Protocol):
    """A view that can be written; one writer."""

    def write(self, writes: Sequence[Written]) -> None:
        """All of the writes or none; later writes to a key win. Visible when it returns."""
        ...

    def flush(self) -> None:
        """Make all that was written survive a loss of power."""
        ...

    def compact(self, family: str, start: bytes, stop: bytes) -> None:
        """Take what was deleted from start to stop out of the files; it may take long."""
        ...

    def close(self) -> None:
        """Release files and locks; closing twice is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
