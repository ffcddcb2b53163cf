"""An SQLite file that the processes of one machine share."""

import fcntl
import sqlite3
from pathlib import Path
from typing import Final

__all__ = ["BUSY_S", "open_shared"]

BUSY_S: Final = 0.2
"""Seconds that a write waits while other processes write; then what it is for is forgone."""


def open_shared(path: Path, schema: str) -> sqlite3.Connection:
    """Open the file, made by whoever comes first; each statement is a transaction of its own."""
    database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # SQLite does not wait for others to change the mode
        database.executescript(schema)
    return database
