"""What users were served lately, shared by several processes of one machine.

It lies beside the shared slates in an SQLite file of its own (`serving.shared_slates` says why and
how). What is lost with the machine is served once more.
"""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from feeds.model import Position, TenantId, UserId
from serving.served import ring_after, ring_positions
from serving.shared_database import open_shared

__all__ = ["SharedServed"]

_log = structlog.get_logger(__name__)

_SCHEMA: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS served
    (number INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT, user TEXT, ring BLOB,
    UNIQUE (tenant, user));
"""


class SharedServed:
    """As `ServedMemory`, over all processes that open the same file; to be used on one thread.

    It remembers the users of the last `users_max` notes, so as many users at most.
    `monotonic` must be one clock for all of them, as the system's is.
    """

    def __init__(
        self,
        path: Path,
        monotonic: Callable[[], float],
        served_max: int,
        users_max: int,
        ttl_s: float,
    ) -> None:
        self._monotonic = monotonic
        self._served_max = served_max
        self._users_max = users_max
        self._ttl_s = ttl_s
        self._database = open_shared(path, _SCHEMA)

    def __len__(self) -> int:
        """Of how many users something is remembered."""
        count: int = self._database.execute("SELECT count(*) FROM served").fetchone()[0]
        return count

    def note(self, tenant: TenantId, user: UserId, positions: Sequence[Position]) -> None:
        """As `Served.note`; where that fails, it is not remembered."""
        if not positions or not self._served_max:
            return
        until_s = self._monotonic() + self._ttl_s
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                ring = ring_after(self._ring(tenant, user), positions, until_s, self._served_max)
                number = self._database.execute(
                    "REPLACE INTO served (tenant, user, ring) VALUES (?, ?, ?)",
                    (tenant, user, ring),
                ).lastrowid
                oldest = (number or 0) - self._users_max
                self._database.execute("DELETE FROM served WHERE number <= ?", (oldest,))
        except sqlite3.Error as error:
            _log.warning("served_not_noted", error=str(error))

    def of(self, tenant: TenantId, user: UserId) -> frozenset[bytes]:
        """As `Served.of`; nothing where that fails."""
        try:
            return ring_positions(self._ring(tenant, user), self._monotonic())
        except sqlite3.Error as error:
            _log.warning("served_not_read", error=str(error))
            return frozenset()

    def forget(self, tenant: TenantId) -> None:
        """As `Served.forget`; for all processes."""
        try:
            self._database.execute("DELETE FROM served WHERE tenant = ?", (tenant,))
        except sqlite3.Error as error:
            _log.warning("served_not_forgotten", error=str(error))

    def close(self) -> None:
        """Let go of the file; twice is harmless."""
        self._database.close()

    def _ring(self, tenant: TenantId, user: UserId) -> bytes:
        found = self._database.execute(
            "SELECT ring FROM served WHERE tenant = ? AND user = ?", (tenant, user)
        ).fetchone()
        return b"" if found is None else bytes(found[0])
