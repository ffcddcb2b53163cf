"""`headwater bench`: the hot paths of this installation, each beside a reference of the same run.

The figures come from the modules `serving.bench_*`; benchmarks/README.md says what they mean.
"""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:  # the figures' modules bring numpy, RocksDB and XGBoost: not for `--help`
    from serving.measure import Doing, Figure, Sizes, Times

    Run = Callable[[Path, float, Sizes], Iterator[Doing | Figure]]

__all__ = ["command", "machine"]

_OWN: Final = (
    "commit",
    "replay",
    "page",
    "fanout",
    "failover",
    "lag",
    "restart",
    "rank",
    "workers",
    "memory",
    "overload",
    "ranker",
    "tenants",
)

BENCH_GROUP: Final = "headwater.benches"
"""The entry-point group of other packages' benches: functions of (directory, seconds).

Such a function yields what it does next as (text, share that is done), and its figures as mappings:
`what`, `per_s`, `reference`, `reference_per_s`, perhaps `goal`, and any numbers as details.
"""

_OUTSIDE: Final = {found.name: found for found in entry_points(group=BENCH_GROUP)}
_NAMES: Final = (*_OWN, *sorted(_OUTSIDE))

_LIBRARIES: Final = ("numpy", "orjson", "rocksdict", "xgboost-cpu")
_SHORT_S: Final = 0.1


def command(
    bench: Annotated[
        str, typer.Argument(help=f"What to measure: all, {', '.join(_NAMES)}.", metavar="BENCH")
    ] = "all",
    seconds: Annotated[
        float, typer.Option(min=0.1, max=600, help="About how long to measure each, in seconds.")
    ] = 5.0,
    rows: Annotated[
        int | None, typer.Option(min=1_000, help="page: rows in the store; a million.")
    ] = None,
    followers: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="fanout: followers of a post; 1,000.")
    ] = None,
    entries: Annotated[
        int | None, typer.Option(min=100, help="restart: entries in the log; a million.")
    ] = None,
    kills: Annotated[
        int | None, typer.Option(min=1, max=1_000, help="failover: kills of the leader; 5.")
    ] = None,
    bentoml_python: Annotated[
        Path | None,
        typer.Option(
            help="rank: a Python that has bentoml and xgboost; this one if it is not given.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    short: Annotated[
        bool,
        typer.Option(
            "--short", help="The smallest sizes: to see that it runs. Its figures mean nothing."
        ),
    ] = False,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir", help="Where to work; a folder there is made and removed. Not on a tmpfs."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure the hot paths against references of the same run.

    Each figure stands beside what the disk, the store, the model, etcd or db_bench can do on this
    machine (the last two where they are installed); compare the ratios, with nothing else running.

    commit, failover, lag: three nodes on loopback with TLS. A durable write of one client and of 64
    at once; from kill -9 of the leader to the next write; from a write's answer to its sight in a
    secondary.

    fanout: rows a second before the followers of a post, to the last follower. page: 100 rows of a
    feed. restart: from a node's start to its first write, with a long log. replay: an action log
    into one engine. rank: 500 candidates in one process, then 100, 500 and 2,000 from HTTP request
    to reply, beside `mlflow models serve` and BentoML where they are installed. ranker: 500
    candidates, no engine. workers: reads a second by workers. memory: of a worker, 100 tenants.
    overload: reads at twice the load that a worker carries, from when they were due.
    tenants: a read beside a tenant that asks for ten times its quota. point_in_time: the features
    of every impression of a log. train: LightFM, ALS and XGBoost beside the libraries alone.

    For example: headwater bench commit --seconds 3; headwater bench restart --entries 100000 --json
    """
    if bench not in (*_NAMES, "all"):
        raise typer.BadParameter(f"there is no bench {bench!r}: name all, {', '.join(_NAMES)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted = _sizes(rows, followers, entries, kills, short=short)
    wanted = replace(wanted, bentoml_python=bentoml_python)
    benches = _benches()
    names = list(benches) if bench == "all" else [bench]
    parent = directory or Path(".headwater")
    parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    try:
        chosen = {name: benches[name] for name in names}
        figures = _measure(chosen, work, _SHORT_S if short else seconds, wanted)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _print_json(figures, work) if as_json else _print_table(figures, work)


def _sizes(
    rows: int | None,
    followers: int | None,
    entries: int | None,
    kills: int | None,
    *,
    short: bool,
) -> "Sizes":
    from serving.measure import Sizes  # noqa: PLC0415 - as in `_benches`

    sizes = Sizes.short() if short else Sizes()
    return replace(
        sizes,
        page_rows=rows or sizes.page_rows,
        followers=followers or sizes.followers,
        log_entries=entries or sizes.log_entries,
        kills=kills or sizes.kills,
    )


def _measure(
    benches: "Mapping[str, Run]", work: Path, seconds: float, sizes: "Sizes"
) -> list["Figure"]:
    """The figures of each; what is under way and how far it is, is told on standard error."""
    from rich.console import Console  # noqa: PLC0415 - only where something is measured
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    from serving.measure import Doing  # noqa: PLC0415 - as in `_benches`

    figures: list[Figure] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for name, run in benches.items():
            bar = progress.add_task(name, total=1.0)
            for told in run(work, seconds, sizes):
                if isinstance(told, Doing):
                    what = f"{name}: {told.what}"
                    progress.update(bar, description=what, completed=told.share)
                else:
                    figures.append(told)
            progress.update(bar, description=name, completed=1.0)
            progress.stop_task(bar)
    return figures


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


def _benches() -> "Mapping[str, Run]":
    """What can be measured, by name; these modules bring everything that serving needs."""
    from serving import (  # noqa: PLC0415 - only where something is measured
        bench_cluster,
        bench_fanout,
        bench_feeds,
        bench_http,
        bench_lag,
        bench_overload,
        bench_rank,
        bench_restart,
        bench_store,
        bench_tenants,
        bench_workers,
    )

    def alone(run: "Callable[[Path, float], Iterator[Figure]]") -> "Run":
        return lambda work, seconds, _: iter(run(work, seconds))

    def commit(work: Path, seconds: float, sizes: "Sizes") -> Iterator["Doing | Figure"]:
        yield from bench_feeds.commit(work, seconds)
        yield from bench_cluster.commit(work, seconds, sizes)

    def page(work: Path, seconds: float, sizes: "Sizes") -> Iterator["Doing | Figure"]:
        yield from bench_feeds.page(work, seconds)
        yield from bench_store.page_at_scale(work, seconds, sizes)

    def rank(work: Path, seconds: float, sizes: "Sizes") -> Iterator["Doing | Figure"]:
        yield from bench_rank.rank(work, seconds)
        yield from bench_http.rank_http(work, seconds, sizes)

    return {
        "commit": commit,
        "replay": alone(bench_feeds.replay),
        "page": page,
        "fanout": bench_fanout.fanout,
        "failover": bench_cluster.failover,
        "lag": bench_lag.lag,
        "restart": bench_restart.restart,
        "rank": rank,
        "workers": bench_workers.workers,
        "memory": bench_workers.memory,
        "overload": bench_overload.overload,
        "ranker": alone(bench_rank.ranker),
        "tenants": bench_tenants.tenants,
        **{name: _outside(found) for name, found in sorted(_OUTSIDE.items())},
    }


def _outside(found: EntryPoint) -> "Run":
    """Another package's bench, told as ours are."""

    def run(work: Path, seconds: float, _: "Sizes") -> Iterator["Doing | Figure"]:
        from serving.measure import Doing, Figure  # noqa: PLC0415 - as in `_benches`

        for told in found.load()(work, seconds):
            if isinstance(told, Mapping):
                yield Figure.of_rates(found.name, **told)
            else:
                yield Doing(*told)

    return run


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
        for unit, heading in (("_us", "microseconds by stage"), ("_mb", "MB")):
            found = {name: each for name, each in figure.details.items() if name.endswith(unit)}
            if found:
                told = ", ".join(f"{name[:-3]} {value:.0f}" for name, value in found.items())
                console.print(f"{figure.bench}: {heading}: {told}", soft_wrap=True)
    told = ", ".join(f"{name} {value}" for name, value in machine(work.parent).items())
    console.print(f"[dim]{told}[/dim]", soft_wrap=True, highlight=False)


def _cells(times: "Times | None", per_s: float) -> tuple[str, str, str]:
    """The median, the 99th percentile and the rate, as a reader wants them."""
    rate = f"{per_s:,.0f}/s"
    return (_duration(times.p50_us), _duration(times.p99_us), rate) if times else ("", "", rate)


def _duration(us: float) -> str:
    return f"{us / 1e3:.2f} ms" if us >= 1_000 else f"{us:.0f} us"  # noqa: PLR2004 - a millisecond
