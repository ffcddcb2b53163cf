"""How the cost of a ranked read grows with the data, as plots.

    python benchmarks/growth_ranking.py                   # all of it, into docs/growth
    python benchmarks/growth_ranking.py follows tenants   # some: the others stay as they were
    python benchmarks/growth_ranking.py --draw            # the plots again, from the numbers
    python benchmarks/growth_ranking.py --short --out /tmp/growth   # two points of each: a trial

One thing grows at a time; all else is as `headwater bench rank` has it: 500 candidates, 30
features, 100 trees, 800 activities, 8 follows, one tenant. The service is a process of its own on
one core, one connection over loopback. `cpu_ms` is the CPU time of the whole service process for
each read, HTTP and all; other work on the machine changes it less than the times by the wall.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import numpy as np
import typer
from growth_points import OUT, Again, Out, Point, Seconds, Short, Work, check_names, each_point
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from ranking.features import FEATURES
from serving.bench_community import Shape
from serving.bench_http import activities_for, check_candidates
from serving.bench_server import Client, Server, client_cores, on_core
from serving.bench_site import Site, follow_request, read_request
from serving.bench_workers import Memory
from serving.measure import Stopwatch, rounds

NAME = "ranking"
CANDIDATES = 500
TURNS = 5
"""Times that CPU time is taken; the median counts."""

FEW_TABLES_BYTES = 5 * 1024 * 1024
"""Room for 16 tables of small tenants."""
PANEL_MS = (0.5, 200.0)


@dataclass(frozen=True, slots=True)
class Growth:
    """What grows, and how a point of it is measured."""

    label: str
    sizes: tuple[int, ...]
    shape: Callable[[int], Shape]
    measure: Callable[[Site, Shape, int, float], Point]
    lines: dict[str, str] = field(
        default_factory=lambda: {"cpu_ms": "CPU", "p50_ms": "p50", "p99_ms": "p99"}
    )


def one_reader(site: Site, shape: Shape, size: int, seconds: float) -> Point:
    """Reads of 500 candidates."""
    del shape, size
    return of_candidates(site, Shape(), CANDIDATES, seconds)


def of_candidates(site: Site, shape: Shape, size: int, seconds: float) -> Point:
    """Reads of so many candidates."""
    del shape
    with site.service(size) as service:
        check_candidates(service, size)
        return _reads(service, [read_request()], seconds)


def with_follows(site: Site, shape: Shape, size: int, seconds: float) -> Point:
    """Reads of a reader with follows that are held, and of one who has just followed another."""
    point = of_candidates(site, shape, CANDIDATES, seconds)
    after = Stopwatch()
    with site.service(CANDIDATES) as service, closing(service.client()) as client:
        for number in rounds(seconds / 2):
            client.ask(follow_request(f"user:late{size}-{number}"))
            with after:
                client.ask()
    return {**point, "after_follow_p50_ms": round(after.times().p50_us / 1e3, 3)}


def of_tenants(site: Site, shape: Shape, size: int, seconds: float) -> Point:
    """Reads of one tenant after the other: all tables held, and few of them."""
    del size
    requests = [read_request(number=number) for number in range(shape.tenants)]
    with site.service(CANDIDATES) as service:
        _warm(service, requests)
        point = _reads(service, requests, seconds)
        memory = Memory.of(service.process.pid).peak_rss_mb
    with site.service(CANDIDATES, tables_bytes_max=FEW_TABLES_BYTES) as service:
        _warm(service, requests)
        few = _reads(service, requests, seconds / 2)
    return {**point, "few_tables_cpu_ms": few["cpu_ms"], "peak_rss_mb": round(memory)}


def _warm(service: Server, requests: Sequence[bytes]) -> None:
    """Ask once for each tenant, and until each is ranked by its model."""
    deadline = time.monotonic() + 120
    with closing(service.client()) as client:
        while True:
            unranked = sum(b'"degraded":null' not in client.ask(request) for request in requests)
            if not unranked:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{unranked} tenants are not ranked by their model")


def _reads(service: Server, requests: Sequence[bytes], seconds: float) -> Point:
    """CPU time and wall times of requests in turn."""
    watch, cpu_ms = Stopwatch(), []
    with closing(service.client()) as client, on_core(client_cores()):
        turns = cycle(requests)
        _ask(client, (next(turns) for _ in range(20)))
        for _ in range(TURNS):
            began_ns, count = service.cpu_ns(), 0
            for number in rounds(seconds / TURNS):
                with watch:
                    client.ask(next(turns))
                count = number + 1
            cpu_ms.append((service.cpu_ns() - began_ns) / count / 1e6)
    times = watch.times()
    return {
        "cpu_ms": round(float(np.median(cpu_ms)), 3),
        "p50_ms": round(times.p50_us / 1e3, 3),
        "p99_ms": round(times.p99_us / 1e3, 3),
        "reads": times.repeats,
    }


def _ask(client: Client, requests: Iterable[bytes]) -> None:
    for request in requests:
        client.ask(request)


def _with(**grown: Callable[[int], int]) -> Callable[[int], Shape]:
    """The shape in which something is as large as its function says."""
    return lambda size: Shape(**{name: function(size) for name, function in grown.items()})


def _same(size: int) -> int:
    return size


MEASUREMENTS: dict[str, Growth] = {
    "candidates": Growth(
        "candidates",
        (50, 100, 200, 500, 1_000, 2_000),
        _with(activities=activities_for),
        of_candidates,
    ),
    "features": Growth(
        "features of the model", (10, 20, 30, len(FEATURES)), _with(features=_same), one_reader
    ),
    "trees": Growth("trees of depth 6", (10, 30, 100, 300, 1_000), _with(trees=_same), one_reader),
    "follows": Growth(
        "follows of the reader",
        (1, 8, 100, 1_000, 5_000),
        lambda size: Shape(followed=size, activities=8_000),
        with_follows,
        {
            "cpu_ms": "CPU",
            "p50_ms": "p50",
            "p99_ms": "p99",
            "after_follow_p50_ms": "p50 of the first read after a follow",
        },
    ),
    "activities": Growth(
        "activities in the table",
        (1_000, 3_000, 10_000, 30_000, 100_000),
        lambda size: Shape(activities=size, events=15_000),
        one_reader,
    ),
    "events": Growth(
        "events counted in the table",
        (1_000, 10_000, 100_000, 1_000_000),
        _with(events=_same),
        one_reader,
    ),
    "tenants": Growth(
        "small tenants, read in turn",
        (1, 10, 100, 1_000),
        lambda size: Shape(tenants=size, activities=100, events=300, trees=5),
        of_tenants,
        {
            "cpu_ms": "CPU, all tables held",
            "p50_ms": "p50",
            "p99_ms": "p99",
            "few_tables_cpu_ms": "CPU, 16 tables held",
        },
    ),
}


def measured(name: str, seconds: float, directory: Path, size: int) -> Point:
    """A point of a measurement."""
    growth = MEASUREMENTS[name]
    shape = growth.shape(size)
    site = Site.made(directory / "site", shape)
    return {name: size, **growth.measure(site, shape, size, seconds)}


def draw(report: dict[str, Any], out: Path) -> None:  # Any: JSON
    """A panel for each thing that grows, and memory; all times on one scale."""
    mpl.use("Agg")
    drawn = [name for name in MEASUREMENTS if name in report]
    rows = -(-(len(drawn) + ("tenants" in drawn)) // 2)
    figure, panels = plt.subplots(rows, 2, figsize=(9, 2.9 * rows), dpi=90, squeeze=False)
    places = list(panels.flat)
    for axes, name in zip(places, drawn, strict=False):
        _panel(axes, name, report[name]["points"])
    if "tenants" in drawn:
        _memory_panel(places[len(drawn)], report["tenants"]["points"])
    for axes in places[len(drawn) + ("tenants" in drawn) :]:
        axes.axis("off")
    figure.suptitle("A ranked read, as one thing grows: 500 candidates, 30 features, 100 trees")
    figure.tight_layout()
    figure.savefig(out / f"{NAME}.png", bbox_inches="tight")
    plt.close(figure)


def _panel(axes: Axes, name: str, points: list[Point]) -> None:
    growth = MEASUREMENTS[name]
    sizes = [point[name] for point in points]
    for key, label in growth.lines.items():
        style = "o-" if key == "cpu_ms" else ".--"
        axes.plot(sizes, [point[key] for point in points], style, label=label, ms=4, lw=1)
    last = points[-1]["cpu_ms"]
    axes.plot(
        sizes, [last * size / sizes[-1] for size in sizes], ":", color="gray", label="in proportion"
    )
    for size, point in zip(sizes, points, strict=True):
        axes.annotate(
            f"{point['cpu_ms']:.2g}",
            (size, point["cpu_ms"]),
            (0, -10),
            textcoords="offset points",
            fontsize=7,
            ha="center",
        )
    axes.set(xscale="log", yscale="log", xlabel=growth.label, ylabel="ms")
    axes.set_ylim(*PANEL_MS)
    _finish(axes, sizes)


def _memory_panel(axes: Axes, points: list[Point]) -> None:
    sizes = [point["tenants"] for point in points]
    axes.plot(sizes, [point["peak_rss_mb"] for point in points], "o-", label="peak RSS", ms=4, lw=1)
    axes.set(xscale="log", yscale="log", xlabel="small tenants, all tables held", ylabel="MB")
    axes.set_ylim(50, 2_000)
    _finish(axes, sizes)


def _finish(axes: Axes, sizes: list[int]) -> None:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="upper left")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_formatter(StrMethodFormatter(""))


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(MEASUREMENTS)}; else all of it.")
    ] = None,
    seconds: Seconds = 3.0,
    work: Work = Path(".headwater"),
    out: Out = OUT,
    redraw: Again = False,
    short: Short = False,
) -> None:
    """Measure how the cost of a ranked read grows, and draw it (about 15 minutes, 1 GB of disk).

    Run it with nothing else running, or at real-time priority: chrt -r 1 python ...
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{NAME}.json"
    reports = json.loads(path.read_text()) if path.exists() else {}
    for name in () if redraw else check_names(names, MEASUREMENTS):
        measure = partial(measured, name, seconds)
        for report in each_point(name, MEASUREMENTS[name].sizes, measure, work, short=short):
            reports[name] = report
        path.write_text(json.dumps(reports, indent=2) + "\n")
    draw(reports, out)
    print(out / f"{NAME}.png")


if __name__ == "__main__":
    typer.run(main)
