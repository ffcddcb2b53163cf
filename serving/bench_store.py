"""Benchmarks of pages out of a large store, beside RocksDB's own db_bench on as many rows."""

import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from feeds.engine import FeedEngine
from feeds.keys import FeedRowKey, write_number
from feeds.model import FeedId, Position, TenantId
from feeds.store.base import Write
from feeds.store.rocks import RocksStore
from serving.measure import Figure, Stopwatch, Times, rounds

__all__ = ["fill_rows", "page_at_scale"]

ROWS: Final = 1_000_000
"""Rows of all feeds together, written in random order and not compacted, on both sides."""

PAGE_ROWS: Final = 100
BATCH_ROWS: Final = 1_000
DB_BENCH_S_MAX: Final = 600

_TENANT: Final = TenantId("bench")
_MEDIAN: Final = re.compile(r"seekrandom.*?Percentiles: P50: ([\d.]+) .*?P99: ([\d.]+)", re.DOTALL)
_COUNT: Final = re.compile(r"seekrandom.*?Count: (\d+)", re.DOTALL)


def page_at_scale(directory: Path, seconds: float) -> Iterator[Figure]:
    """The newest rows of feeds at random in a store of a million; nothing without db_bench."""
    if shutil.which("db_bench") is None:
        return
    reference = _db_bench(directory / "db_bench", seconds)
    data, pages, rng = directory / "page-scale", Stopwatch(), random.Random(1)  # noqa: S311
    feeds = fill_rows(data, ROWS, PAGE_ROWS)
    with FeedEngine.open(data) as engine:
        for _ in rounds(seconds):
            feed = FeedId("timeline", f"u{rng.randrange(feeds)}")
            with pages:
                found = engine.rows(_TENANT, feed, PAGE_ROWS)
            if len(found) != PAGE_ROWS:
                raise RuntimeError(f"{feed} has {len(found)} rows: {PAGE_ROWS} were written")
    yield Figure.of_times(
        "page",
        f"the newest {PAGE_ROWS} rows of a feed, among {ROWS:,} rows",
        pages.times(),
        f"db_bench: seek + {PAGE_ROWS}, among {ROWS:,} rows",
        reference,
        goal="1.25 x of db_bench",
        rows=PAGE_ROWS,
    )


def fill_rows(data: Path, rows: int, feed_rows: int, seed: int = 1) -> int:
    """Write so many rows into feeds of `feed_rows` each, in random order; how many feeds."""
    feeds = rows // feed_rows
    order = list(range(rows))
    random.Random(seed).shuffle(order)  # noqa: S311 - a workload that can be made again
    value = write_number(1)
    with FeedEngine.open(data) as engine:
        engine.create_tenant(_TENANT).result()
    with RocksStore.open(data / "store") as store:
        for start in range(0, rows, BATCH_ROWS):
            store.write(
                [
                    Write("feeds", _row(number % feeds, number).encode(), value)
                    for number in order[start : start + BATCH_ROWS]
                ]
            )
    return feeds


def _row(feed: int, number: int) -> FeedRowKey:
    position = Position((2**63 - number).to_bytes(8) + number.to_bytes(8))
    return FeedRowKey(_TENANT, f"timeline:u{feed}", position, "topic:t0")


def _db_bench(directory: Path, seconds: float) -> Times:
    """db_bench with its own defaults: keys of 16 bytes, values of 100, one thread."""
    done = subprocess.run(  # noqa: S603 - db_bench, with arguments of ours
        [
            str(shutil.which("db_bench")),
            "--benchmarks=fillrandom,seekrandom",
            *(f"--db={directory}", f"--num={ROWS}", f"--seek_nexts={PAGE_ROWS}"),
            *(f"--duration={max(1, round(seconds))}", "--histogram=1"),
        ],
        capture_output=True,
        text=True,
        timeout=DB_BENCH_S_MAX,
        check=True,
    )
    shutil.rmtree(directory)
    quantiles, count = _MEDIAN.search(done.stdout), _COUNT.search(done.stdout)
    if quantiles is None or count is None:
        raise RuntimeError("db_bench printed no percentiles of seekrandom: is it another version?")
    return Times(int(count[1]), float(quantiles[1]), float(quantiles[2]))
