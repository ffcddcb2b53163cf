"""The commands of training: `headwater prepare`, `train`, `evaluate`, `models`.

Answers go to standard output, progress to standard error. Heavy libraries are imported by the
command that runs.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ranking.errors import RankingError
from training.errors import TrainingError

if TYPE_CHECKING:
    from ranking.registry import ModelRegistry, ModelVersion
    from training.config import TrainingConfig
    from training.report import EvaluationReport
    from training.sources import Progress

__all__ = ["evaluate", "models", "prepare", "train"]

Dataset = Literal["movielens", "stackexchange"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Tenant = Annotated[str, typer.Option("--tenant", help="The tenant's name.")]
Events = Annotated[
    Path, typer.Option("--events", help="The directory that `headwater export` wrote to.")
]
Registry = Annotated[
    str | None,
    typer.Option(
        "--registry",
        envvar="HEADWATER_REGISTRY",
        help="Model registry: mlflow+sqlite:///FILE or dir:DIRECTORY. Unset: MLflow on SQLite in "
        "the data directory.",
    ),
]
DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="HEADWATER_DATA_DIR",
        help="Where the registry lies if --registry is not given.",
    ),
]
Described = Annotated[
    Dataset | None,
    typer.Option(
        "--dataset",
        help="The public data set that the events came from: sets the split that its published "
        "figures use, and what the report says was derived.",
    ),
]

DATA_DIR = Path(".headwater/data")
CACHE = Path(".headwater/cache")

models = typer.Typer(
    name="models", help="List, show, promote and roll back models.", no_args_is_help=True
)


def prepare(
    dataset: Annotated[Dataset, typer.Option("--dataset", help="Which public data set.")],
    out: Annotated[Path, typer.Option("--out", help="The action log to write, JSON Lines.")],
    path: Annotated[
        Path | None,
        typer.Option(
            "--path",
            help="The data: a Stack Exchange dump directory, or the recbole 1.2.1 wheel "
            "(MovieLens; downloaded once if not given).",
        ),
    ] = None,
    cache: Annotated[
        Path,
        typer.Option(
            "--cache", envvar="HEADWATER_CACHE", help="Where a downloaded data set is kept."
        ),
    ] = CACHE,
    json: Json = False,
) -> None:
    """Turn a public data set into an action log that `headwater import` replays."""
    from training.sources import prepare as prepare_log  # noqa: PLC0415 - heavy imports inside

    with _told(json), _progress(json) as progress:
        report = prepare_log(dataset, path, out, cache, progress)
    answer = report.as_dict() | {"out": str(out), "statements": list(report.derived)}
    _print(f"{dataset} as actions in {out}", dict(report.counts), answer, json)


def train(
    tenant: Annotated[
        list[str], typer.Option("--tenant", help="The tenant's name; may be repeated.")
    ],
    events: Events,
    out: Annotated[
        Path, typer.Option("--out", help="Where bundles and reports go, a folder a tenant.")
    ] = Path(".headwater/training"),
    dataset: Described = None,
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    promote: Annotated[
        bool, typer.Option("--promote/--no-promote", help="Make the new version live at once.")
    ] = False,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            help="A Dask scheduler, tcp://HOST:PORT; `inline` runs in this process. Unset: a local "
            "cluster.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Processes of the local cluster.")
    ] = 2,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random choice.")] = None,
    json: Json = False,
) -> None:
    """Train, judge and publish a model for each tenant from its exported events."""
    from training.config import ClusterConfig  # noqa: PLC0415 - heavy imports inside
    from training.flow import train_all  # noqa: PLC0415

    with _told(json), _progress(json) as progress:
        results = train_all(
            events,
            tenant,
            out=out,
            registry=_registry_uri(registry, data_dir),
            promote=promote,
            config=_config(dataset, seed),
            scheduler=scheduler,
            cluster=ClusterConfig(workers=workers),
            progress=progress,
        )
    if json:
        answers = [result.as_dict() for result in results]
        _write_json(answers[0] if len(answers) == 1 else {"results": answers})
        return
    for result in results:
        _print_report(result.report)
        state = "live" if promote else "published"
        _say(f"Version {result.version} is {state}; the report is {result.report_path}")
        if not promote:
            _say(f"Make it live: headwater models promote {result.tenant} {result.version}")


def evaluate(
    tenant: Tenant,
    events: Events,
    version: Annotated[
        str, typer.Option("--version", help="A version's number, or live, previous, shadow.")
    ] = "live",
    dataset: Described = None,
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    json: Json = False,
) -> None:
    """Judge a published model on the last part of an export, beside the baselines."""
    from training.flow import evaluate as evaluate_version  # noqa: PLC0415 - heavy imports inside

    with _told(json):
        report = evaluate_version(
            events,
            tenant,
            registry=_registry_uri(registry, data_dir),
            version=_version(version),
            config=_config(dataset, None),
        )
    if json:
        _write_json(report.as_dict())
    else:
        _print_report(report)


@models.command("list")
def list_(
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Only this tenant's versions.")
    ] = None,
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    json: Json = False,
) -> None:
    """List the published versions, newest first."""
    with _told(json), _opened(registry, data_dir) as opened:
        names = [_tenant(tenant)] if tenant else opened.tenants()
        versions = [version for name in names for version in _described(opened, name)]
        shown = {
            f"{v['tenant']} {v['version']}": f"{v['kind']} {' '.join(v['aliases'])}"
            for v in versions
        }
        _print(f"{len(versions)} versions", shown, {"versions": versions}, json)


@models.command("show")
def show(
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    version: Annotated[
        str, typer.Argument(help="A version's number, or live, previous, shadow.")
    ] = "live",
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    json: Json = False,
) -> None:
    """Show one version: its kind, digest, metrics and notes."""
    from training.flow import find_version  # noqa: PLC0415 - heavy imports inside

    with _told(json), _opened(registry, data_dir) as opened:
        found = find_version(opened, _tenant(tenant), _version(version))
        answer = next(d for d in _described(opened, found.tenant) if d["version"] == found.version)
        shown = {name: value for name, value in answer.items() if name != "metrics"}
        metrics = {name: f"{value:.4f}" for name, value in sorted(answer["metrics"].items())}
        _print(f"{found.tenant} version {found.version}", shown | metrics, answer, json)


@models.command("promote")
def promote(
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    version: Annotated[int, typer.Argument(help="The version's number.")],
    expected: Annotated[
        int | None,
        typer.Option("--expected", help="Only if this version is live now; 0: if none is."),
    ] = None,
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    json: Json = False,
) -> None:
    """Make a version live; a running service swaps to it, and the former one is kept."""
    with _told(json), _opened(registry, data_dir) as opened:
        live = opened.promote(_tenant(tenant), version, expected)
        _print_live(live, json)


@models.command("rollback")
def rollback(
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    registry: Registry = None,
    data_dir: DataDir = DATA_DIR,
    json: Json = False,
) -> None:
    """Exchange the live and the previous version."""
    with _told(json), _opened(registry, data_dir) as opened:
        live = opened.roll_back(_tenant(tenant))
        _print_live(live, json)


def _config(dataset: Dataset | None, seed: int | None) -> "TrainingConfig":
    from dataclasses import replace  # noqa: PLC0415 - heavy imports inside

    from training.config import preset  # noqa: PLC0415
    from training.sources import derived_facts  # noqa: PLC0415

    config = preset(dataset or "default")
    config = replace(config, derived=derived_facts(dataset) if dataset else ())
    return config if seed is None else replace(config, seed=seed)


def _registry_uri(registry: str | None, data_dir: Path) -> str:
    file = (data_dir / "registry" / "mlflow.db").absolute()
    return registry or f"mlflow+sqlite:///{file}"


def _version(text: str) -> Any:  # Any: a number or one of the aliases, checked here
    if text.isdecimal():
        return int(text)
    if text in ("live", "previous", "shadow"):
        return text
    raise TrainingError(f"{text!r} is no version: give its number, or live, previous or shadow")


def _tenant(text: str) -> Any:  # Any: a TenantId, whose module the CLI need not import
    from feeds.model import check_tenant_id  # noqa: PLC0415

    return check_tenant_id(text)


@contextlib.contextmanager
def _opened(registry: str | None, data_dir: Path) -> Iterator["ModelRegistry"]:
    from ranking.registry import open_registry  # noqa: PLC0415 - heavy imports inside

    opened = open_registry(_registry_uri(registry, data_dir))
    try:
        yield opened
    finally:
        opened.close()


def _described(registry: "ModelRegistry", tenant: Any) -> list[dict[str, Any]]:
    # Any: a TenantId; and whatever JSON holds.
    import msgspec  # noqa: PLC0415

    aliases = {name: registry.alias(tenant, name) for name in ("live", "previous", "shadow")}
    return [
        msgspec.to_builtins(version)
        | {"aliases": [n for n, a in aliases.items() if a and a.version == version.version]}
        for version in registry.versions(tenant)
    ]


def _print_live(live: "ModelVersion", json: bool) -> None:
    answer = {"tenant": live.tenant, "live": live.version}
    _print(f"version {live.version} of {live.tenant} is live", {}, answer, json)


def _print_report(report: "EvaluationReport") -> None:
    from rich.console import Console  # noqa: PLC0415 - only where a table is shown

    console = Console()
    console.print(report.table())
    for sentence in report.statements:
        console.print(f"• {sentence}", highlight=False)


@contextlib.contextmanager
def _told(json: bool) -> Iterator[None]:
    """Tell an error as JSON where a program reads; for people the shell writes its sentence."""
    from feeds.errors import FeedsError  # noqa: PLC0415

    try:
        yield
    except (TrainingError, RankingError, FeedsError) as error:
        if not json:
            raise
        _write_json({"error": str(error), "exception": type(error).__name__})
        raise typer.Exit(1) from None


@contextlib.contextmanager
def _progress(json: bool) -> Iterator["Progress"]:
    """A bar on a terminal's standard error, or a line a step where it is no terminal."""
    from rich.console import Console  # noqa: PLC0415 - only where there is progress
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)
        told, started = [""], time.monotonic()

        def tell(what: str, done: int, total: int | None) -> None:
            bar.update(task, description=what, completed=done, total=total)
            if not (console.is_terminal or json) and what != told[0]:
                _say(f"{time.monotonic() - started:6.1f} s  {what}", sys.stderr)
            told[0] = what

        yield tell


def _print(title: str, shown: dict[str, Any], answer: dict[str, Any], json: bool) -> None:
    # Any: whatever JSON holds.
    if json:
        _write_json(answer)
        return
    from rich.console import Console  # noqa: PLC0415 - only where a table is shown
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in shown.items():
        table.add_row(name, str(value))
    Console().print(table if shown else title)


def _say(line: str, stream: Any = None) -> None:  # Any: a text stream
    (stream or sys.stdout).write(line + "\n")


def _write_json(answer: dict[str, Any]) -> None:  # Any: whatever JSON holds
    import orjson  # noqa: PLC0415

    _say(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode())
