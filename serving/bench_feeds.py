"""Benchmarks of the engine, each beside what the disk or the store alone can do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from feeds import bench
from feeds.engine import FeedEngine
from feeds.model import ActivityDraft, FeedId, TenantId
from feeds.store.rocks import RocksStore
from serving.measure import Figure, Stopwatch, SyncedFile, Times, rounds

__all__ = ["commit", "page", "replay"]

TENANT: Final = TenantId("bench")
EVENTS_PER_S_EXPECTED: Final = 10_000
"""Sizes the replay so that it takes about the seconds that were asked for."""

READS_PER_S_EXPECTED: Final = 8_000
"""Sizes the page bench likewise."""

PAGE_ROWS: Final = 100
GROUP_OPS: Final = 64
"""Commands in each synced append of the replay's reference."""


def commit(directory: Path, seconds: float) -> Iterator[Figure]:
    """One client posts, and waits until each post is durable and applied."""
    data, feed = directory / "commit", FeedId("user", "a")
    posts, appends = Stopwatch(), Stopwatch()
    with FeedEngine.open(data) as engine, SyncedFile(directory / "commit.raw") as raw:
        engine.create_tenant(TENANT).result()
        engine.post(TENANT, feed, _draft(-1)).result()
        record = b"x" * _bytes_per_command(data, engine.status().last_index)
        for number in rounds(seconds):
            with posts:
                engine.post(TENANT, feed, _draft(number)).result()
            with appends:
                raw.append(record)
    yield Figure.of_times(
        "commit",
        "a durable post, one client",
        posts.times(),
        "fdatasync of as many bytes",
        appends.times(),
        bytes=len(record),
    )


def replay(directory: Path, seconds: float) -> Iterator[Figure]:
    """An action log through the engine, with fdatasync on."""
    data, appends = directory / "replay", Stopwatch()
    report = bench.replay(data, events=max(1_000, int(seconds * EVENTS_PER_S_EXPECTED)))
    size = _bytes_per_command(data, report.commands)
    with SyncedFile(directory / "replay.raw") as raw:
        for _ in rounds(seconds / 2):
            with appends:
                raw.append(b"x" * size * GROUP_OPS)
    yield Figure.of_rates(
        "replay",
        "actions through the engine, fdatasync on",
        report.actions_per_s,
        f"appends alone, {GROUP_OPS} to an fdatasync",
        GROUP_OPS * 1e6 / appends.times().p50_us,
        goal="5,000 events/s",
        actions=report.actions,
        commands=report.commands,
        seconds=report.seconds,
        bytes_per_command=size,
    )


def page(directory: Path, seconds: float) -> Iterator[Figure]:
    """The newest rows of one long feed."""
    data, scans = directory / "page", Stopwatch()
    reads = max(200, int(seconds * READS_PER_S_EXPECTED))
    report = bench.page(data, rows=PAGE_ROWS, reads=reads)
    with RocksStore.open(data / "store") as store:
        for _ in rounds(seconds / 2):
            with scans:
                rows = list(store.scan("feeds", b"", b"\xff", PAGE_ROWS))
    yield Figure.of_times(
        "page",
        f"the newest {report.rows} rows of a feed",
        Times(report.reads, report.p50_us, report.p99_us),
        f"a scan of {len(rows)} rows in the store",
        scans.times(),
        goal="100 us p50",
        rows=report.rows,
    )


def _draft(number: int) -> ActivityDraft:
    return ActivityDraft(actor="user:a", verb="post", object=f"note:{number}")


def _bytes_per_command(data: Path, commands: int) -> int:
    """Bytes that a command took in the log of a data directory, on average, at least 1."""
    files = (path for path in (data / "log").rglob("*") if path.is_file())
    return max(1, sum(path.stat().st_size for path in files) // commands)
