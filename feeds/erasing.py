"""What a deleted tenant left is taken out of a store's files too, beside the log.

Rows that are deleted stay in RocksDB's files until it rewrites them, which may be never. Once a
tenant is wiped each node rewrites the files that held its rows, on a thread of its own: it takes
about as long as reading them.
"""

from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from feeds.errors import StorageError
from feeds.keys import after
from feeds.store.base import COLUMN_FAMILIES, Store

__all__ = ["Eraser"]

_log = structlog.get_logger(__name__)

_SHARED = ("config", "meta")
"""Families in which the rows of tenants are not side by side; they are small."""


class Eraser:
    """Rewrites the files of tenants that are wiped, one tenant after the other.

    A store that is closed meanwhile, or a process that ends, leaves the rest to RocksDB's own time.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._closed = False

    def erase(self, store: Store, tenant: str) -> "Future[None]":
        """Begin with a tenant that was wiped; done once its rows are in no table file."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "erase")
        return self._thread.submit(self._erase, store, tenant)

    def close(self) -> None:
        """Wait for what is being rewritten, and leave the rest; twice is harmless."""
        self._closed = True
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None
        self._closed = False

    def _erase(self, store: Store, tenant: str) -> None:
        prefix = tenant.encode() + b"\0"
        try:
            store.flush()
            for family in COLUMN_FAMILIES:
                if self._closed:
                    return
                ends = (b"", b"\xff") if family in _SHARED else (prefix, after(prefix))
                store.compact(family, *ends)
        except StorageError as error:
            _log.warning("erasure_failed", tenant=tenant, why=str(error))
