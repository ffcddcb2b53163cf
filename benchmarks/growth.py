"""How the cost of the replicated store grows with the data, as plots.

    python benchmarks/growth.py page            # into docs/growth/page.json and page.png
    python benchmarks/growth.py --help

Each measurement writes its numbers beside its plot, so that a plot can be drawn again without
measuring (`--draw`). Run it with nothing else running, on a disk that fdatasync reaches.
"""

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import typer
from matplotlib import pyplot as plt
from matplotlib.ticker import StrMethodFormatter
from rich.progress import track

from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.model import FeedId, TenantId
from serving.bench import machine
from serving.bench_store import fill_rows
from serving.measure import Stopwatch, rounds

TENANT = TenantId("bench")
OUT = Path(__file__).parent.parent / "docs" / "growth"
PAGE_ROWS = 100

Points = list[dict[str, Any]]  # Any: numbers and texts, as JSON holds them


def page(work: Path, seconds: float) -> Points:
    """A page of 100 rows against the length of the feed, in a store of a million rows."""
    points = []
    for length in track((100, 1_000, 10_000, 100_000, 1_000_000), "page"):
        data = work / f"page-{length}"
        feeds = fill_rows(data, 1_000_000, length)
        times = _pages(data, feeds, seconds, FeedsConfig()).times()
        points.append({"feed_rows": length, "p50_us": times.p50_us, "p99_us": times.p99_us})
        shutil.rmtree(data)
    return points


def memory(work: Path, seconds: float) -> Points:
    """A page of 100 rows against the data, with a block cache of 16 MiB for all of it."""
    points = []
    config = FeedsConfig(block_cache_bytes=16 * 1024 * 1024)
    for rows in track((100_000, 300_000, 1_000_000, 3_000_000, 10_000_000), "memory"):
        data = work / f"memory-{rows}"
        feeds = fill_rows(data, rows, 1_000)
        size = sum(file.stat().st_size for file in (data / "store").rglob("*.sst"))
        times = _pages(data, feeds, seconds, config).times()
        points.append(
            {
                "rows": rows,
                "sst_mb": size / 1e6,
                "p50_us": times.p50_us,
                "p99_us": times.p99_us,
            }
        )
        shutil.rmtree(data)
    return points


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


def _draw(name: str, points: Points) -> None:
    """The measurement's plot: both axes logarithmic, as growth is what one wants to see."""
    mpl.use("Agg")
    x, lines, x_label, y_label, title = PLOTS[name]
    figure, axes = plt.subplots(figsize=(7, 4), dpi=110)
    for key, label in lines:
        values = [point[key] for point in points]
        axes.plot([point[x] for point in points], values, marker="o", label=label)
        for point, value in zip(points, values, strict=True):
            place = (point[x], value)
            axes.annotate(
                f"{value:,.0f}", place, (0, 6), textcoords="offset points", ha="center", size=8
            )
    axes.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label, title=title)
    axes.grid(alpha=0.3, which="both")
    axes.margins(x=0.1, y=0.3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.set_minor_formatter(StrMethodFormatter(""))
    if len(lines) > 1:
        axes.legend()
    figure.tight_layout()
    figure.savefig(OUT / f"{name}.png")
    plt.close(figure)


MEASUREMENTS: dict[str, Callable[[Path, float], Points]] = {"page": page, "memory": memory}

QUANTILES = [("p50_us", "median"), ("p99_us", "99th percentile")]

PLOTS: dict[str, tuple[str, list[tuple[str, str]], str, str, str]] = {
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
    names: Annotated[list[str] | None, typer.Argument(help="What to measure; all of it.")] = None,
    seconds: Annotated[float, typer.Option(help="About how long each point takes.")] = 3.0,
    work: Annotated[Path, typer.Option(help="Where to work; not on a tmpfs.")] = Path(".headwater"),
    draw: Annotated[bool, typer.Option("--draw", help="Draw again what was measured.")] = False,
) -> None:
    """Measure how costs grow, and draw it into docs/growth."""
    if unknown := set(names or ()) - set(MEASUREMENTS):
        raise typer.BadParameter(f"{min(unknown)!r} is none of {', '.join(MEASUREMENTS)}")
    OUT.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    for name in names or MEASUREMENTS:
        path = OUT / f"{name}.json"
        if not draw:
            with tempfile.TemporaryDirectory(dir=work, prefix="growth-") as directory:
                points = MEASUREMENTS[name](Path(directory), seconds)
                told = {"machine": machine(work), "points": points}
            path.write_text(json.dumps(told, indent=2) + "\n")
        _draw(name, json.loads(path.read_text())["points"])
        print(f"{name}: {path.with_suffix('.png')}")


if __name__ == "__main__":
    typer.run(main)
