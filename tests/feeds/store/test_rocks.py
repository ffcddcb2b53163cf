import gc
import re
import shutil
import subprocess
import sys
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from feeds.errors import DataDirectoryLocked, StorageError
from feeds.store.base import COLUMN_FAMILIES, Store, Write
from feeds.store.cursors import is_end
from feeds.store.memory import MemoryStore
from feeds.store.rocks import SCAN_CHUNK_ROWS, RocksConfig, RocksStore
from feeds.testing import StoreContract, writes

MANY = [Write("feeds", b"%08d" % n, b"value") for n in range(3 * SCAN_CHUNK_ROWS)]


class TestRocksStore(StoreContract):
    def open_store(self, directory: Path) -> Store:
        return RocksStore.open(directory)


def test_rows_survive_closing(tmp_path: Path) -> None:
    with RocksStore.open(tmp_path) as store:
        store.write([Write(family, b"k", family.encode()) for family in COLUMN_FAMILIES])
    with RocksStore.open(tmp_path) as store:
        assert [store.get(family, b"k") for family in COLUMN_FAMILIES] == [
            family.encode() for family in COLUMN_FAMILIES
        ]


def test_flushed_rows_do_not_need_the_write_ahead_log(tmp_path: Path) -> None:
    with RocksStore.open(tmp_path / "a") as store:
        store.write([Write(family, b"k", b"1") for family in COLUMN_FAMILIES])
        store.flush()
        shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("*.log"))
    with RocksStore.open(tmp_path / "b") as store:
        assert [b"1"] * len(COLUMN_FAMILIES) == [store.get(f, b"k") for f in COLUMN_FAMILIES]


def test_a_lost_end_of_the_write_ahead_log_cuts_every_family_at_one_batch(tmp_path: Path) -> None:
    code = f"""
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from feeds.store.base import Write
from feeds.store.rocks import RocksConfig, RocksStore
store = RocksStore.open(Path({str(tmp_path)!r}), RocksConfig(write_buffer_bytes=64 * 1024))
for n in range(2_000):
    value = b"%08d" % n
    store.write([Write("meta", b"applied", value), Write("feeds", value, value * 20)])
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    newest = max(tmp_path.glob("*.log"))
    with newest.open("r+b") as log:
        log.truncate(newest.stat().st_size * 2 // 3)
    with RocksStore.open(tmp_path) as store:
        *_, (last, _) = store.scan("feeds", b"", b"9")
        assert last == store.get("meta", b"applied")
        assert b"00000000" < last < b"00001999"


def test_second_store_on_a_directory_is_refused(tmp_path: Path) -> None:
    code = f"""
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from feeds.errors import DataDirectoryLocked
from feeds.store.rocks import RocksStore
try:
    RocksStore.open(Path({str(tmp_path)!r}))
except DataDirectoryLocked as error:
    print(error)
"""
    with RocksStore.open(tmp_path):
        with pytest.raises(DataDirectoryLocked, match="close the other store"):
            RocksStore.open(tmp_path)
        other = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert "stop the other process" in other.stdout
    RocksStore.open(tmp_path).close()


def test_scan_under_way_does_not_keep_the_lock(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path)
    store.write(MANY)
    scan = store.scan("feeds", b"", b"9")
    next(scan)
    store.close()
    RocksStore.open(tmp_path).close()
    with pytest.raises(StorageError, match="closed during this scan"):
        list(scan)


def test_short_and_finished_scans_hold_nothing(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path)
    store.write(MANY)
    short = store.scan("feeds", b"", b"9", 100)
    full = store.scan("feeds", b"", b"9")
    assert len(list(full)) == len(MANY)
    store.close()
    assert len(list(short)) == 100
    assert list(full) == []
    RocksStore.open(tmp_path).close()


def test_limit_around_the_chunk_size_is_exact(tmp_path: Path) -> None:
    with RocksStore.open(tmp_path) as store:
        store.write(MANY)
        for limit in (SCAN_CHUNK_ROWS - 1, SCAN_CHUNK_ROWS, SCAN_CHUNK_ROWS + 1, len(MANY) + 1):
            rows = [key for key, _ in store.scan("feeds", b"", b"9", limit)]
            assert [key for _, key, _ in MANY[:limit]] == rows


def test_damaged_store_is_refused_with_advice(tmp_path: Path) -> None:
    with RocksStore.open(tmp_path) as store:
        store.write(MANY)
        store.flush()
    (tmp_path / "CURRENT").write_bytes(b"MANIFEST-nowhere\n")
    with pytest.raises(StorageError, match="restore it from a backup"):
        RocksStore.open(tmp_path)


def test_damaged_table_is_an_error_and_not_an_absent_row(tmp_path: Path) -> None:
    with RocksStore.open(tmp_path) as store:
        store.write(MANY)
        store.flush()
    table = max(tmp_path.glob("*.sst"), key=lambda file: file.stat().st_size)
    data = bytearray(table.read_bytes())
    data[100:200] = bytes(100)
    table.write_bytes(data)
    with RocksStore.open(tmp_path) as store:
        with pytest.raises(StorageError, match="could not read feeds"):
            store.get("feeds", MANY[0].key)
        with pytest.raises(StorageError, match="could not read feeds"):
            store.get_many("feeds", [write.key for write in MANY])
        with pytest.raises(StorageError, match="could not read feeds"):
            store.scan("feeds", b"", b"9", 1000)
        with pytest.raises(StorageError, match="could not read feeds"):
            store.keys("feeds", b"", b"9", 1000)
        with pytest.raises(StorageError, match="could not read feeds"):
            list(store.scan("feeds", b"", b"9"))


def test_damage_behind_sound_rows_does_not_end_them(tmp_path: Path) -> None:
    """Keys are read by an iterator that cannot say why it ended."""
    with RocksStore.open(tmp_path) as store:
        store.write(MANY)
        store.flush()
    table = max(tmp_path.glob("*.sst"), key=lambda file: file.stat().st_size)
    data = bytearray(table.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 100] = bytes(100)
    table.write_bytes(data)
    keys = [key for _, key, _ in MANY]
    with RocksStore.open(tmp_path) as store:
        assert keys[:100] == store.keys("feeds", b"", b"9", 100)
        with pytest.raises(StorageError, match="could not read feeds"):
            store.keys("feeds", b"", b"9", len(MANY))


def test_index_of_a_table_is_many_blocks_so_that_a_small_cache_holds_what_is_read(
    tmp_path: Path,
) -> None:
    with RocksStore.open(tmp_path, RocksConfig(metadata_block_bytes=512)) as store:
        store.write([Write("feeds", b"%08d" % number, b"value") for number in range(20_000)])
        store.flush()
        told = store._families["feeds"].property_value("rocksdb.aggregated-table-properties")
    (partitions,) = re.findall(r"# index partitions=(\d+)", told)
    assert int(partitions) > 3


def test_keys_hold_nothing(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path)
    store.write(MANY)
    found = store.keys("feeds", b"", b"9", 2 * len(MANY))
    store.close()
    assert [key for _, key, _ in MANY] == found
    RocksStore.open(tmp_path).close()


class _MovingCursor:
    """A cursor of a list of rows, as RocksDB's; `error` is what it says at the end of them."""

    def __init__(self, keys: list[bytes], error: str | None = None) -> None:
        self._keys, self._error, self._place = keys, error, 0

    def seek(self, key: bytes) -> None:
        self._place = bisect_left(self._keys, key)

    def valid(self) -> bool:
        return self._place < len(self._keys)

    def key(self) -> bytes:
        return self._keys[self._place]

    def next(self) -> None:
        self._place += 1

    def status(self) -> None:
        if self._error is not None:
            raise OSError(self._error)


def test_rows_that_came_since_are_not_taken_for_the_end() -> None:
    assert is_end(_MovingCursor([b"a", b"b"]), b"b")
    assert is_end(_MovingCursor([b"a"]), b"b")
    assert is_end(_MovingCursor([]), b"")
    assert not is_end(_MovingCursor([b"a", b"c"]), b"b")
    assert not is_end(_MovingCursor([b"a", b"b", b"c"]), b"b")
    with pytest.raises(OSError, match="bad block"):
        is_end(_MovingCursor([b"a", b"b"], "bad block"), b"b")


class StoreComparison(RuleBasedStateMachine):
    """RocksDB against the memory store, with flushes and restarts anywhere between the writes."""

    @initialize(directory=st.uuids())
    def start(self, directory: object) -> None:
        self.directory = self.root / str(directory)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.reference = MemoryStore()
        self.store = RocksStore.open(self.directory)

    @rule(batch=writes())
    def write(self, batch: list[Write]) -> None:
        self.reference.write(batch)
        self.store.write(batch)

    @rule()
    def flush(self) -> None:
        self.store.flush()

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = RocksStore.open(self.directory)

    @invariant()
    def equal(self) -> None:
        for family in COLUMN_FAMILIES[:3]:
            rows = list(self.reference.scan(family, b"", b"\xff" * 4))
            assert rows == list(self.store.scan(family, b"", b"\xff" * 4))
            for limit in (len(rows), len(rows) + 1):
                found = self.store.keys(family, b"", b"\xff" * 4, limit)
                assert [key for key, _ in rows] == found

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            gc.collect()

    root: Path


def test_flushes_and_restarts_change_nothing(tmp_path: Path) -> None:
    machine = type("Comparison", (StoreComparison,), {"root": tmp_path})
    run = machine.TestCase
    run.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)
    run().runTest()


def test_closing_beside_readers_ends_them_with_an_error_that_says_so(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path)
    store.write(MANY)
    keys = [write.key for write in MANY[:500]]
    started = Barrier(4)

    def read() -> str:
        started.wait(30)
        try:
            while True:
                store.get_many("feeds", keys)
                list(store.scan("feeds", b"", b"9"))
        except StorageError as error:
            return str(error)

    with ThreadPoolExecutor(3) as threads:
        readers = [threads.submit(read) for _ in range(3)]
        started.wait(30)
        store.close()
        assert all("closed" in reader.result(30) for reader in readers)
    RocksStore.open(tmp_path).close()


def test_long_scan_ends_at_its_bound_when_nobody_else_keeps_it(tmp_path: Path) -> None:
    with RocksStore.open(tmp_path) as store:
        store.write(MANY)
        end = 2 * SCAN_CHUNK_ROWS + 7
        scans = [store.scan("feeds", b"%08d" % 0, b"%08d" % end) for _ in range(20)]
        taken = [b"%08d" % 1 for _ in range(1_000)]  # what lies where the bounds lay, if they went
        assert [sum(1 for _ in scan) for scan in scans] == [end] * 20
        del taken
