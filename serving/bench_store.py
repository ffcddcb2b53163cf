"""Benchmarks of pages out of a large store, beside RocksDB's own db_bench on as many rows.

Both stores hold as many rows, of as many bytes, written in random order, compacted to one sorted
run (else one may have a young file more than the other, which is a fifth of the time) and opened
anew, with one configuration where it touches reads (block cache, blocks, indexes, compression,
filters, levels; compared option by option in the OPTIONS files of both: what differs is the version
of the table format). db_bench's own defaults stand beside it too (keys of 16 bytes, values of 100,
8 MiB of cache, snappy). The stores are read in turn, so that whatever else the machine does falls
on all. What the binding takes by itself, an object of Python for each key and nothing of ours, is
measured too.
"""

import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.keys import FeedRowKey, after, write_number
from feeds.model import FeedId, Position, TenantId
from feeds.opening import open_parts
from feeds.store.base import Store, Write
from feeds.store.rocks import RocksConfig, RocksStore
from serving.measure import Doing, Figure, Sizes, Stopwatch, Times, rounds

__all__ = ["fill_rows", "page_at_scale"]

PAGE_ROWS: Final = 100
BATCH_ROWS: Final = 1_000
TURNS: Final = 3
"""How often each store has its turn; once in a run of less than as many seconds."""

DB_BENCH_S_MAX: Final = 600

_TENANT: Final = TenantId("bench")
_MEDIAN: Final = re.compile(r"seekrandom.*?Percentiles: P50: ([\d.]+) .*?P99: ([\d.]+)", re.DOTALL)
_COUNT: Final = re.compile(r"seekrandom.*?Count: (\d+)", re.DOTALL)
_VALUE: Final = write_number(1)


def page_at_scale(directory: Path, seconds: float, sizes: Sizes) -> Iterator[Doing | Figure]:
    """The newest rows of feeds at random in a large store; nothing without db_bench."""
    if shutil.which("db_bench") is None:
        return
    rows, data = sizes.page_rows, directory / "page-scale"
    references = [
        _DbBench(directory / "db_bench", rows, "rows and options as ours", _like_ours(rows)),
        _DbBench(directory / "db_bench-stock", rows, "its own defaults", ()),
    ]
    for place, reference in enumerate(references):
        yield Doing(f"db_bench writes {rows:,} rows, {reference.what}", 0.1 + 0.2 * place)
        reference.fill()
    yield Doing(f"writing {rows:,} rows", 0.5)
    feeds = fill_rows(data, rows, PAGE_ROWS)
    yield Doing("reading, in turn with db_bench", 0.7)
    pages, scans, rng = Stopwatch(), Stopwatch(), random.Random(1)  # noqa: S311 - the same each time
    turns = TURNS if seconds >= TURNS else 1
    store, replica_factory, release = open_parts(data, FeedsConfig())
    with FeedEngine.embedded(store, replica_factory, release=release) as engine:
        for _ in range(turns):
            for reference in references:
                reference.seek(seconds / turns)
            for _ in rounds(seconds / turns):
                _read_page(engine, FeedId("timeline", f"u{rng.randrange(feeds)}"), pages)
                _read_keys(store, f"timeline:u{rng.randrange(feeds)}", scans)
    like_ours, _ = references
    yield Figure.of_times(
        "page",
        f"the keys of {PAGE_ROWS} rows, in one call of the store: the binding alone",
        scans.times(),
        f"db_bench: seek + {PAGE_ROWS}, among {rows:,} rows, {like_ours.what}",
        like_ours.times(),
        rows=PAGE_ROWS,
    )
    for reference in references:
        yield Figure.of_times(
            "page",
            f"the newest {PAGE_ROWS} rows of a feed, among {rows:,} rows",
            pages.times(),
            f"db_bench: seek + {PAGE_ROWS}, among {rows:,} rows, {reference.what}",
            reference.times(),
            goal="100 us and 1.25 x db_bench",
            rows=PAGE_ROWS,
            key_bytes=_key_bytes(rows),
            value_bytes=len(_VALUE),
        )


def _read_page(engine: FeedEngine, feed: FeedId, pages: Stopwatch) -> None:
    with pages:
        found = engine.rows(_TENANT, feed, PAGE_ROWS)
    if len(found) != PAGE_ROWS:
        raise RuntimeError(f"{feed} has {len(found)} rows: {PAGE_ROWS} were written")


def _read_keys(store: Store, feed: str, scans: Stopwatch) -> None:
    start, stop = FeedRowKey.bounds(_TENANT, feed)
    with scans:
        found = store.keys("feeds", start, stop, PAGE_ROWS)
    if len(found) != PAGE_ROWS:
        raise RuntimeError(f"{feed} has {len(found)} rows: {PAGE_ROWS} were written")


def fill_rows(data: Path, rows: int, feed_rows: int, seed: int = 1) -> int:
    """Write so many rows into feeds of `feed_rows` each, in random order; how many feeds.

    They are compacted then, so that every run reads tables of one shape.
    """
    feeds = rows // feed_rows
    order = list(range(rows))
    random.Random(seed).shuffle(order)  # noqa: S311 - a workload that can be made again
    with FeedEngine.open(data) as engine:
        engine.create_tenant(_TENANT).result()
    with RocksStore.open(data / "store") as store:
        for start in range(0, rows, BATCH_ROWS):
            store.write(
                [
                    Write("feeds", _row(number % feeds, number).encode(), _VALUE)
                    for number in order[start : start + BATCH_ROWS]
                ]
            )
        first, _ = FeedRowKey.bounds(_TENANT, "timeline:u")
        store.compact("feeds", first[:-1], after(first[:-1]))
    return feeds


def _row(feed: int, number: int) -> FeedRowKey:
    position = Position((2**63 - number).to_bytes(8) + number.to_bytes(8))
    return FeedRowKey(_TENANT, f"timeline:u{feed}", position, "topic:t0")


def _key_bytes(rows: int) -> int:
    return len(_row(rows // PAGE_ROWS // 2, rows // 2).encode())


def _like_ours(rows: int) -> tuple[str, ...]:
    """Rows of as many bytes as ours, and our store's options."""
    limits, rocks = FeedsConfig(), RocksConfig()
    return (
        f"--key_size={_key_bytes(rows)}",
        f"--value_size={len(_VALUE)}",
        f"--cache_size={limits.block_cache_bytes}",
        f"--write_buffer_size={limits.write_buffer_bytes}",
        f"--bloom_bits={rocks.bloom_bits_per_key}",
        f"--open_files={rocks.open_files_max}",
        f"--max_background_jobs={rocks.background_jobs_max}",
        "--compression_type=lz4",
        "--cache_index_and_filter_blocks=1",
        "--pin_l0_filter_and_index_blocks_in_cache=1",
        "--partition_index_and_filters=1",
        "--pin_top_level_index_and_filter=1",
        f"--metadata_block_size={rocks.metadata_block_bytes}",
        "--level_compaction_dynamic_level_bytes=1",
    )


class _DbBench:
    """A store of db_bench's; each run is a process of its own, which opens it anew."""

    def __init__(self, directory: Path, rows: int, what: str, options: tuple[str, ...]) -> None:
        self.what = what
        self._common = (f"--db={directory}", f"--num={rows}", "--seed=1", *options)
        self._found: list[Times] = []

    def fill(self) -> None:
        """Write every row once, in random order, and compact them."""
        self._run("--benchmarks=filluniquerandom,compact", "--use_existing_db=0")

    def seek(self, seconds: float) -> None:
        """Seeks at random and the rows behind them, on one thread; for a second at least."""
        told = self._run(
            *("--benchmarks=seekrandom", "--use_existing_db=1", f"--seek_nexts={PAGE_ROWS}"),
            *(f"--duration={max(1, round(seconds))}", "--histogram=1"),
        )
        quantiles, count = _MEDIAN.search(told), _COUNT.search(told)
        if quantiles is None or count is None:
            raise RuntimeError(
                "db_bench printed no percentiles of seekrandom: is it another version?"
            )
        self._found.append(Times(int(count[1]), float(quantiles[1]), float(quantiles[2])))

    def times(self) -> Times:
        """Those of the turn whose median is the middle one."""
        return sorted(self._found, key=lambda times: times.p50_us)[len(self._found) // 2]

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(  # noqa: S603 - db_bench, with arguments of ours
            [str(shutil.which("db_bench")), *self._common, *arguments],
            capture_output=True,
            text=True,
            timeout=DB_BENCH_S_MAX,
            check=False,
        )
        if done.returncode:
            told = done.stderr.strip()[-500:]
            raise RuntimeError(f"db_bench ended with {done.returncode}: {told}")
        return done.stdout
