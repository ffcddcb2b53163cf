"""`headwater bench`: the hot paths of this installation, each beside a reference of the same run.

The figures come from `serving.bench_feeds` and `serving.bench_rank`; benchmarks/README.md says what
they mean.
"""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

if TYPE_CHECKING:  # the figures' modules bring numpy, RocksDB and XGBoost: not for `--help`
    from serving.measure import Figure, Times

__all__ = ["command", "machine"]

Bench = Literal["commit", "replay", "page", "fanout", "failover", "rank", "ranker", "all"]

_LIBRARIES: Final = ("numpy", "orjson", "rocksdict", "xgboost-cpu")


def command(
    bench: Annotated[Bench, typer.Argument(help="What to measure.")] = "all",
    seconds: Annotated[
        float, typer.Option(min=0.1, max=600, help="About how long to measure each, in seconds.")
    ] = 5.0,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir", help="Where to work; a folder there is made and removed. Not on a tmpfs."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure the hot paths against references of the same run.

    Each figure stands beside what the disk, the store or the model alone can do on this machine;
    compare the ratios.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    benches = _benches()
    names = list(benches) if bench == "all" else [bench]
    parent = directory or Path(".headwater")
    parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    figures: list[Figure] = []
    try:
        for name in names:
            typer.echo(f"{name}: about {seconds:g} s", err=True)
            figures.extend(benches[name](work, seconds))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _print_json(figures, work) if as_json else _print_table(figures, work)


def machine(work: Path) -> dict[str, Any]:  # Any: JSON for whoever compares runs
    """What the figures were taken on: cores, versions, the disk's file system."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": os.getloadavg()[0],
        "file_system": _file_system(work),
        "headwater": version("headwater"),
        **{name: version(name) for name in _LIBRARIES},
    }


def _benches() -> Mapping[str, Callable[[Path, float], Iterator["Figure"]]]:
    """What can be measured, by name; these modules bring everything that serving needs."""
    from serving import (  # noqa: PLC0415 - only where something is measured
        bench_cluster,
        bench_feeds,
        bench_rank,
        bench_store,
    )

    def commit(work: Path, seconds: float) -> Iterator["Figure"]:
        yield from bench_feeds.commit(work, seconds)
        yield from bench_cluster.commit(work, seconds)

    def page(work: Path, seconds: float) -> Iterator["Figure"]:
        yield from bench_feeds.page(work, seconds)
        yield from bench_store.page_at_scale(work, seconds)

    return {
        "commit": commit,
        "replay": bench_feeds.replay,
        "page": page,
        "fanout": bench_cluster.fanout,
        "failover": bench_cluster.failover,
        "rank": bench_rank.rank,
        "ranker": bench_rank.ranker,
    }


def _file_system(path: Path) -> str:
    """The type of the file system that a path lies on, as the kernel mounts it."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    place = path.resolve()
    types = {mount[1]: mount[2] for mount in mounts}
    return next((types[str(up)] for up in (place, *place.parents) if str(up) in types), "unknown")


def _print_json(figures: list["Figure"], work: Path) -> None:
    import msgspec  # noqa: PLC0415 - as in `_benches`

    measured = datetime.now(UTC).isoformat(timespec="seconds")
    report = {"measured": measured, "machine": machine(work.parent), "figures": figures}
    typer.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())


def _print_table(figures: list["Figure"], work: Path) -> None:
    from rich.console import Console  # noqa: PLC0415 - only where a table is printed
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table(box=None, pad_edge=False)
    table.add_column("bench")
    table.add_column("what", overflow="fold")
    for heading in ("p50", "p99", "rate"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("goal")
    table.add_column("ratio", justify="right", no_wrap=True)
    for figure in figures:
        table.add_row(
            figure.bench, figure.what, *_cells(figure.measured, figure.per_s), figure.goal, ""
        )
        ratio = f"{figure.ratio:.2f} x"
        cells = _cells(figure.reference_times, figure.reference_per_s)
        table.add_row("", f"[dim]{figure.reference}[/dim]", *cells, "", ratio)
    console = Console()
    console.print(table)
    for figure in figures:
        stages = {name: value for name, value in figure.details.items() if name.endswith("_us")}
        if stages:
            told = ", ".join(f"{name[:-3]} {value:.0f}" for name, value in stages.items())
            console.print(f"{figure.bench}: microseconds by stage: {told}", soft_wrap=True)
    told = ", ".join(f"{name} {value}" for name, value in machine(work.parent).items())
    console.print(f"[dim]{told}[/dim]", soft_wrap=True, highlight=False)


def _cells(times: "Times | None", per_s: float) -> tuple[str, str, str]:
    """The median, the 99th percentile and the rate, as a reader wants them."""
    rate = f"{per_s:,.0f}/s"
    return (_duration(times.p50_us), _duration(times.p99_us), rate) if times else ("", "", rate)


def _duration(us: float) -> str:
    return f"{us / 1e3:.2f} ms" if us >= 1_000 else f"{us:.0f} us"  # noqa: PLR2004 - a millisecond
