"""The store on RocksDB: the only module that knows rocksdict.

What shaped it (rocksdict 0.3.29, measured on two shared cores, 100 rows out of 400,000, p50):

* A scan with the cursor of `iter()`, bounded through ReadOptions: 31 us. `items(from_key=…)` takes
  0.7 of that in the same run, `keys(from_key=…)` 0.6, as much as stepping 100 times and reading
  nothing. These two end at a damaged block as if the rows ended there, and have no status to ask:
  so `keys` asks a cursor where they end early. No call of this version reads many rows at once. A
  prefix extractor changed nothing, and would hide rows from a scan across prefixes: there is none.
  `get(list)` of 500 keys: 0.45 ms, against 0.54 ms one by one.
* Index and filter of a table are cut into blocks. As one block each they are larger than one of the
  parts that a cache is divided into, from some three million rows on: so they were read and
  unpacked anew for each seek, and a page of 100 rows took 300 us in place of 34 (64 MiB of cache).
* `ReadOptions.set_iterate_lower_bound` sets the *upper* bound in this version: it is never called;
  the seek is the lower bound.
* A cursor does not keep the bytes of its upper bound, and goes by whatever lies there once they are
  freed: rows are missing, or are those of others. Who keeps a cursor keeps its bound.
* A live iterator keeps the files and the lock after `close()`: short scans are drained at once,
  long ones are known to the store, which ends them when it closes.
* `put`, `get` and `write` hold the GIL, `get(list)`, `flush` and `flush_wal` release it: writes are
  not synced (the replica's log is what makes them durable); `flush` is.
* A write that RocksDB stalls (compaction is behind, or the disk is full) waits *with the GIL held*:
  on a full disk that froze the whole process for ever. So every write is made with `no_slowdown`,
  and waits here, where others can run, up to a deadline.
* Column families are flushed atomically: after a loss of power each is at the same point of the
  write-ahead log, so that effects and applied index agree.
* Errors come as bare `Exception`: every call is guarded, and translated here alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakSet

import structlog
from rocksdict import (
    AccessType,
    BlockBasedIndexType,
    BlockBasedOptions,
    BottommostLevelCompaction,
    Cache,
    Checkpoint,
    CompactOptions,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from feeds.errors import DataDirectoryLocked, StorageError
from feeds.store.base import COLUMN_FAMILIES, Written
from feeds.store.cursors import SCAN_CHUNK_ROWS, Scan, drain, is_end, read_error

__all__ = ["RocksConfig", "RocksStore"]

_log = structlog.get_logger(__name__)

_STALLED: Final = "Write stall"
_STALL_POLL_S: Final = 0.002
_IN_USE: Final = "Already borrowed"
_CLOSE_WAIT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RocksConfig:
    """The limits of one RocksDB."""

    block_cache_bytes: int = 64 * 1024 * 1024
    """Bytes of the one block cache that all column families share; indexes and filters count."""

    write_buffer_bytes: int = 16 * 1024 * 1024
    """Bytes that one column family holds in memory before all are written to files."""

    bloom_bits_per_key: int = 10
    """Bits of bloom filter for each key: 10 let about 1 % of absent keys through."""

    metadata_block_bytes: int = 4 * 1024
    """Bytes of one block of an index or a filter; a table has as many as it needs."""

    open_files_max: int = 1024
    """Table files that are held open at most; -1 holds all."""

    background_jobs_max: int = 2
    """Threads that flush and compact at most."""

    write_stall_s_max: float = 30.0
    """Seconds that a write waits for flushes and compactions that are behind; then it fails."""

    info_log_bytes_max: int = 4 * 1024 * 1024
    """Bytes of RocksDB's own text log before it begins another; two are kept."""


class RocksStore:
    """A `Store` in a directory. One process at a time; reads may come from any thread.

    What was written survives the process from the return of `write` on, and a loss of power from
    the return of `flush` on. Every error of RocksDB is a `StorageError`.
    """

    def __init__(
        self, db: Any, families: dict[str, Any], handles: dict[str, Any], config: RocksConfig
    ) -> None:
        # Any: rocksdict's types are not visible to the type checker. Use `RocksStore.open`.
        self._db = db
        self._families = families
        self._handles = handles
        self._config = config
        self._no_stall = WriteOptions()
        self._no_stall.no_slowdown = True
        self._scans: WeakSet[Scan] = WeakSet()

    @classmethod
    def open(cls, path: Path, config: RocksConfig | None = None) -> Self:
        """Open the database at `path`, made if absent.

        Raises `DataDirectoryLocked` if another process has it, `StorageError` if it is damaged.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _open_error(path, error) from error
        return cls._open(path, config or RocksConfig(), AccessType.read_write())

    @classmethod
    def open_secondary(cls, path: Path, scratch: Path, config: RocksConfig | None = None) -> Self:
        """Read the database at `path` as it is now, beside the process that writes it.

        Batches are seen whole, up to the last one in the writer's log. `scratch` is an empty
        directory for RocksDB's own notes. Every file is held open, so that the writer may delete
        what it compacts; do not write. Raises `StorageError` if there is no database.
        """
        every_file = replace(config or RocksConfig(), open_files_max=-1)
        return cls._open(path, every_file, AccessType.secondary(str(scratch)))

    @classmethod
    def _open(cls, path: Path, config: RocksConfig, access: AccessType) -> Self:
        cache = Cache(config.block_cache_bytes)
        try:
            families = {name: _options(config, cache) for name in COLUMN_FAMILIES}
            db = Rdict(
                str(path),
                options=_options(config, cache),
                column_families=families,
                access_type=access,
            )
        except Exception as error:
            raise _open_error(path, error) from error
        return cls(
            db,
            {name: db.get_column_family(name) for name in COLUMN_FAMILIES},
            {name: db.get_column_family_handle(name) for name in COLUMN_FAMILIES},
            config,
        )

    def get(self, family: str, key: bytes) -> bytes | None:
        """The value at a key, or None."""
        rows = self._families.get(family) or self._family(family)
        try:
            value: bytes | None = rows.get(key)
        except Exception as error:
            raise read_error(family, error) from error
        return value

    def get_many(self, family: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values at keys, in the keys' order: one call, and the GIL is free meanwhile."""
        rows = self._family(family)
        try:
            values: list[bytes | None] = rows.get(list(keys))
        except Exception as error:
            raise read_error(family, error) from error
        return values

    def scan(
        self, family: str, start: bytes, stop: bytes, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < stop in key order, at most `limit`, as they were at the call.

        Up to 1,024 rows are read at once (0.3 us a row and 4 us to seek). A longer scan holds
        files open until it is exhausted or dropped, and ends with a `StorageError` if the store is
        closed meanwhile.
        """
        rows = self._family(family)
        if start >= stop or (limit is not None and limit <= 0):
            return iter(())
        options = ReadOptions()
        options.set_iterate_upper_bound(stop)
        try:
            cursor = rows.iter(options)
            cursor.seek(start)
        except Exception as error:
            raise read_error(family, error) from error
        if limit is not None and limit <= SCAN_CHUNK_ROWS:
            return iter(drain(family, cursor, limit))
        scan = Scan(family, cursor, limit, (options, stop))
        self._scans.add(scan)
        return scan

    def keys(self, family: str, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        """The keys that `scan` would give, in one call, as they were at one moment of it.

        It takes one call a row, where `scan` takes four. Where there are fewer than `limit`, a
        cursor is asked whether that was the end or an error: the cost of another seek.
        """
        rows = self._family(family)
        if start >= stop or limit <= 0:
            return []
        options = ReadOptions()
        options.set_iterate_upper_bound(stop)
        try:
            found = list(islice(rows.keys(False, start, options), limit))
            if len(found) == limit or is_end(rows.iter(options), found[-1] if found else start):
                return found
        except Exception as error:
            raise read_error(family, error) from error
        return [key for key, _ in self.scan(family, start, stop, limit)]

    def write(self, writes: Sequence[Written]) -> None:
        """All of the writes or none; later writes to a key win. Visible when it returns.

        Raises `StorageError`; then the replica should stop, for what failed may need a restart.
        """
        deadline = monotonic() + self._config.write_stall_s_max
        while not self._written(self._batch(writes), may_stall=monotonic() < deadline):
            sleep(_STALL_POLL_S)

    def flush(self) -> None:
        """Make all that was written survive a loss of power: sync, then write every table."""
        self._family("meta")
        families = list(self._families.values())
        self._do("sync", lambda: self._db.flush_wal(True))
        for rows in families:
            self._do("flush", rows.flush)

    def compact(self, family: str, start: bytes, stop: bytes) -> None:
        """Rewrite the files that hold rows from start to stop: what was deleted is in none then.

        Others can read and write meanwhile, and the GIL is free. Raises `StorageError`.
        """
        rows = self._family(family)
        options = CompactOptions()
        options.set_exclusive_manual_compaction(False)  # RocksDB's own go on, so no write stalls
        # Else what marks rows as deleted stays in the last level, with their keys.
        options.set_bottommost_level_compaction(BottommostLevelCompaction.force_optimized())
        self._do("compact", lambda: rows.compact_range(start, stop, options))

    def checkpoint(self, path: Path) -> None:
        """Keep all that was written so far as a store at `path`, which must not exist.

        Table files are linked, not copied, where `path` is on the same disk. Raises `StorageError`.
        """
        self._family("meta")
        self._do("checkpoint", lambda: Checkpoint(self._db).create_checkpoint(str(path)))

    def catch_up(self) -> None:
        """As a secondary: see what the writer has written since. Raises `StorageError`."""
        self._family("meta")
        self._do("catch up", self._db.try_catch_up_with_primary)

    def close(self) -> None:
        """Release files and lock; scans under way end. Closing twice is harmless.

        It writes what is in memory to files. Where it cannot (a full disk), that is logged and
        nothing is lost: the write-ahead log has it.
        """
        for scan in list(self._scans):
            scan.release()
        opened = [*self._families.values(), self._db] if self._db is not None else []
        self._handles.clear()
        self._families.clear()
        self._db = None
        for database in opened:  # every one, whatever fails: one left open crashes when collected
            _close(database)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _family(self, name: str) -> Any:
        try:
            return self._families[name]
        except KeyError:
            raise self._missing(name) from None

    def _missing(self, name: str) -> Exception:
        if self._db is None:
            return StorageError("the store is closed: open it again to read or write")
        return ValueError(f"no column family {name!r}: see COLUMN_FAMILIES")

    def _written(self, batch: Any, *, may_stall: bool) -> bool:
        """Try once: False if RocksDB would have stalled. An attempt uses up the batch."""
        # Any: rocksdict's types are not visible to the type checker.
        try:
            self._db.write(batch, self._no_stall)
        except Exception as error:
            if may_stall and _STALLED in str(error):
                return False
            raise _write_error("write", error) from error
        return True

    def _batch(self, writes: Sequence[Written]) -> Any:
        # Any: rocksdict's types are not visible to the type checker.
        batch = WriteBatch(raw_mode=True)
        put, delete, handles = batch.put, batch.delete, self._handles
        try:
            for family, key, value in writes:
                if value is None:
                    delete(key, handles[family])
                else:
                    put(key, value, handles[family])
        except KeyError as error:
            raise self._missing(error.args[0]) from None
        return batch

    def _do(self, what: str, action: Callable[[], object]) -> None:
        if self._db is None:
            raise StorageError(f"cannot {what}: the store is closed; open it again")
        try:
            action()
        except Exception as error:
            raise _write_error(what, error) from error


def _close(database: Any) -> None:
    # Any: rocksdict's types are not visible to the type checker.
    deadline = monotonic() + _CLOSE_WAIT_S
    while True:
        try:
            database.close()
        except Exception as error:  # noqa: BLE001  rocksdict raises nothing narrower
            if _IN_USE in str(error) and monotonic() < deadline:
                sleep(_STALL_POLL_S)  # another thread is inside a read
                continue
            _log.warning("store_closed_unflushed", why=str(error))
        return


def _options(config: RocksConfig, cache: Any) -> Any:
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_bloom_filter(config.bloom_bits_per_key, False)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_index_type(BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_metadata_block_size(config.metadata_block_bytes)
    table.set_pin_top_level_index_and_filter(True)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(config.write_buffer_bytes)
    options.set_atomic_flush(True)
    options.set_max_background_jobs(config.background_jobs_max)
    options.set_max_open_files(config.open_files_max)
    options.set_max_file_opening_threads(1)  # else a catch-up starts 16 a family: 5 ms, not 0.03
    options.set_max_log_file_size(config.info_log_bytes_max)
    options.set_keep_log_file_num(2)
    options.set_stats_dump_period_sec(0)
    return options


def _open_error(path: Path, error: Exception) -> StorageError:
    text = str(error)
    if "LOCK" in text or "lock hold" in text:
        return DataDirectoryLocked(
            f"the store {path} is open already ({text}): stop the other process, or close the "
            "other store"
        )
    return StorageError(
        f"the store {path} cannot be opened: {text}. Keep a copy of the directory; free disk space "
        "if it is full, else restore it from a backup"
    )


def _write_error(what: str, error: Exception) -> StorageError:
    return StorageError(
        f"the store could not {what}: {error}. Check the disk, then restart: the log still holds "
        "what is not in the store"
    )
