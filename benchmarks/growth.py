"""How the cost of the replicated store grows with the data, as plots.

    python benchmarks/growth.py                 # all of it, into docs/growth
    python benchmarks/growth.py commit fanout   # some: docs/growth/commit.json, commit.png, ...
    python benchmarks/growth.py --draw          # the plots again, from the numbers that are there
    python benchmarks/growth.py --short --out /tmp/growth   # the first two points of each: a trial

Each measurement writes its numbers beside its plot, so that a plot can be drawn again without
measuring (`--draw`). Run it with nothing else running, on a disk that fdatasync reaches.
"""

import json
import math
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import typer
from growth_points import OUT, Again, Out, Point, Seconds, Short, Work, check_names, each_point
from matplotlib import pyplot as plt
from matplotlib.ticker import StrMethodFormatter

from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.model import FeedId, TenantId
from serving.bench_cluster import etcd_rate, nodes_rate
from serving.bench_fanout import fan_out_rate
from serving.bench_store import fill_rows
from serving.measure import Stopwatch, rounds

TENANT = TenantId("bench")
PAGE_ROWS = 100


def page(work: Path, length: int, seconds: float) -> Point:
    """A page of 100 rows against the length of the feed, in a store of a million rows."""
    feeds = fill_rows(work, 1_000_000, length)
    times = _pages(work, feeds, seconds, FeedsConfig()).times()
    return {"feed_rows": length, "p50_us": times.p50_us, "p99_us": times.p99_us}


def memory(work: Path, rows: int, seconds: float) -> Point:
    """A page of 100 rows against the data, with a block cache of 16 MiB for all of it."""
    feeds = fill_rows(work, rows, 1_000)
    size = sum(file.stat().st_size for file in (work / "store").rglob("*.sst"))
    config = FeedsConfig(block_cache_bytes=16 * 1024 * 1024)
    times = _pages(work, feeds, seconds, config).times()
    return {"rows": rows, "sst_mb": size / 1e6, "p50_us": times.p50_us, "p99_us": times.p99_us}


def commit(work: Path, value_bytes: int, seconds: float) -> Point:
    """Durable commits a second on three nodes against the bytes of each, beside three of etcd."""
    return {
        "value_bytes": value_bytes,
        "etcd_per_s": etcd_rate(work / "etcd", seconds, value_bytes),
        "plain_per_s": nodes_rate(work / "plain", seconds, value_bytes, plain=True),
        "tls_per_s": nodes_rate(work / "tls", seconds, value_bytes, plain=False),
    }


def fanout(work: Path, followers: int, seconds: float) -> Point:
    """Rows a second on three nodes against the followers of a post, until the last row is there."""
    rate = fan_out_rate(work / "fanout", followers, seconds)
    return {
        "followers": followers,
        "rows_per_s": rate,
        "posts_per_s": rate / (followers + 1),
    }


def _pages(data: Path, feeds: int, seconds: float, config: FeedsConfig) -> Stopwatch:
    """Times of first pages of feeds taken at random."""
    watch, rng = Stopwatch(), random.Random(1)  # noqa: S311 - the same feeds each time
    with FeedEngine.open(data, config) as engine:
        for _ in rounds(seconds):
            feed = FeedId("timeline", f"u{rng.randrange(feeds)}")
            with watch:
                found = engine.rows(TENANT, feed, PAGE_ROWS)
            assert len(found) == PAGE_ROWS
    return watch


def _draw(name: str, points: list[Point], out: Path) -> None:
    """The measurement's plot, both axes logarithmic, and its numbers in a table below it."""
    mpl.use("Agg")
    x, lines, x_label, y_label, title = PLOTS[name]
    lines = [line for line in lines if any(point.get(line[0]) is not None for point in points)]
    figure, (axes, below) = plt.subplots(
        2, figsize=(7, 4.6), dpi=110, height_ratios=(4, 0.5 + 0.25 * len(lines))
    )
    colors = []
    for key, label in lines:
        found = [(point[x], point[key]) for point in points if point.get(key) is not None]
        (drawn,) = axes.plot(*zip(*found, strict=True), "o-", label=label)
        colors.append(drawn.get_color())
    axes.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label, title=title)
    axes.set_ylim(*_decades(axes.get_ylim()))
    axes.grid(alpha=0.3, which="both")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.set_minor_formatter(StrMethodFormatter(""))
    below.axis("off")
    table = below.table(
        [[_number(point.get(key)) for point in points] for key, _ in lines],
        rowLabels=[label for _, label in lines],
        colLabels=[_number(point[x]) for point in points],
        loc="center",
        edges="horizontal",
    )
    for row, color in enumerate(colors, 1):
        table[row, -1].set_text_props(color=color, weight="bold")
    figure.tight_layout()
    figure.savefig(out / f"{name}.png", bbox_inches="tight")
    plt.close(figure)


def _decades(limits: tuple[float, float]) -> tuple[float, float]:
    """The powers of ten around limits: what grows little looks so, and has labels."""
    low, high = limits
    return 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))


def _number(value: float | None) -> str:
    """As a table shows it: three digits at least where it is small."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"  # noqa: PLR2004


MEASUREMENTS: dict[str, tuple[Callable[..., Point], tuple[int, ...]]] = {
    "commit": (commit, (100, 1_000, 10_000, 100_000)),
    "fanout": (fanout, (10, 100, 1_000, 10_000, 100_000)),
    "page": (page, (100, 1_000, 10_000, 100_000, 1_000_000)),
    "memory": (memory, (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)),
}

QUANTILES = [("p50_us", "median"), ("p99_us", "99th percentile")]

PLOTS: dict[str, tuple[str, list[tuple[str, str]], str, str, str]] = {
    "commit": (
        "value_bytes",
        [
            ("plain_per_s", "three nodes, plain"),
            ("etcd_per_s", "etcd, three nodes, plain"),
            ("tls_per_s", "three nodes, TLS"),
        ],
        "bytes of a value",
        "durable commits a second",
        "Durable commits, 64 in flight, by the size of a value",
    ),
    "fanout": (
        "followers",
        [("rows_per_s", "rows"), ("posts_per_s", "posts")],
        "followers of the feed that is posted to",
        "a second, on three nodes",
        "Fan-out, until the last follower has the row",
    ),
    "page": (
        "feed_rows",
        QUANTILES,
        "rows in each feed (1,000,000 in all)",
        "microseconds",
        "The newest 100 rows of a feed",
    ),
    "memory": (
        "sst_mb",
        QUANTILES,
        "megabytes of table files (16 MiB of block cache)",
        "microseconds",
        "The newest 100 rows of a feed, as the data outgrows the cache",
    ),
}


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(MEASUREMENTS)}; else all of it.")
    ] = None,
    seconds: Seconds = 3.0,
    work: Work = Path(".headwater"),
    out: Out = OUT,
    draw: Again = False,
    short: Short = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers, too.")] = False,
) -> None:
    """Measure how costs grow, and draw it.

    commit: durable commits a second against the bytes of a value, etcd beside (about 3 minutes).
    fanout: rows a second against followers (2 minutes). page: a page against the length of its feed
    (1 minute). memory: a page against data that outgrows the cache (3 minutes, and 1 GB of disk).
    Run it with nothing else running.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in check_names(names, MEASUREMENTS):
        path = out / f"{name}.json"
        measure, sizes = MEASUREMENTS[name]
        measured = partial(measure, seconds=seconds)
        for report in () if draw else each_point(name, sizes, measured, work, short=short):
            path.write_text(json.dumps(report, indent=2) + "\n")
        _draw(name, json.loads(path.read_text())["points"], out)
        print(path.read_text() if as_json else f"{name}: {path.with_suffix('.png')}")


if __name__ == "__main__":
    typer.run(main)
