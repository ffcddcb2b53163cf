"""Reading rows off a RocksDB cursor, in chunks, and asking for its errors. No rocksdict here."""

from collections.abc import Iterator
from typing import Any, Final, Self

from feeds.errors import StorageError

__all__ = ["SCAN_CHUNK_ROWS", "Scan", "drain", "is_end", "read_error"]

SCAN_CHUNK_ROWS: Final = 1024
"""Scans up to this limit are read at once; longer ones are read in chunks of so many rows."""


class Scan:
    """A long scan, read in chunks, which the store can end."""

    def __init__(self, family: str, cursor: Any, limit: int | None, bound: object) -> None:
        # Any: rocksdict's types are not visible to the type checker.
        self._family = family
        self._cursor = cursor
        self._bound = bound  # the cursor reads it, and does not keep it
        self._left = limit
        self._chunk: Iterator[tuple[bytes, bytes]] = iter(())
        self._more = True

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[bytes, bytes]:
        row = next(self._chunk, None)
        if row is None:
            self._chunk = iter(self._read())
            row = next(self._chunk)
        return row

    def release(self) -> None:
        """Let go of the files; if rows were still to come, asking for one is an error."""
        self._cursor = None

    def _read(self) -> list[tuple[bytes, bytes]]:
        if not self._more:
            return []
        cursor = self._cursor
        if cursor is None:
            raise StorageError("the store was closed during this scan: open it and scan again")
        wanted = SCAN_CHUNK_ROWS if self._left is None else min(SCAN_CHUNK_ROWS, self._left)
        chunk = drain(self._family, cursor, wanted)
        if self._left is not None:
            self._left -= len(chunk)
        self._more = len(chunk) == wanted and self._left != 0
        if not self._more:
            self._cursor = None  # now, not when the caller drops the scan
        return chunk


def drain(family: str, cursor: Any, limit: int) -> list[tuple[bytes, bytes]]:
    """The next rows of a cursor, at most `limit`; an error ends the rows, so it is asked for."""
    valid, key, value, step = cursor.valid, cursor.key, cursor.value, cursor.next
    rows = []
    try:
        for _ in range(limit):
            if not valid():
                cursor.status()
                break
            rows.append((key(), value()))
            step()
    except Exception as error:
        raise read_error(family, error) from error
    return rows


def is_end(cursor: Any, last: bytes) -> bool:
    """Whether no row comes behind the key `last`; raises what RocksDB raises where it cannot tell.

    False also where rows have come since `last` was read.
    """
    cursor.seek(last)
    if cursor.valid() and cursor.key() == last:
        cursor.next()
    if cursor.valid():
        return False
    cursor.status()
    return True


def read_error(family: str, error: Exception) -> StorageError:
    """What to say where reading a column family fails."""
    return StorageError(
        f"the store could not read {family}: {error}. Check the disk; if it is sound, restore the "
        "data directory from a backup"
    )
