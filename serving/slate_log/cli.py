"""`headwater slates`: what the slate log holds, exported or shown. A running service goes on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feeds.cli_options import DATA_DIR, AsJson
from feeds.errors import FeedsError, NotFound
from feeds.model import TenantId, check_tenant_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from ranking.config import RankingConfig

__all__ = ["slates"]

slates = typer.Typer(
    name="slates", help="Export or show the slates that were served.", no_args_is_help=True
)

DataDir = Annotated[
    Path,
    typer.Option("--data-dir", envvar="HEADWATER_DATA_DIR", help="The service's data directory."),
]
LogDir = Annotated[
    Path | None,
    typer.Option(
        "--slate-log-dir",
        envvar="HEADWATER_SLATE_LOG_DIR",
        help="The slate log, where it is not in the data directory.",
    ),
]
Shadow = Annotated[
    bool, typer.Option("--shadow", help="What models on trial would have shown instead.")
]

_FEATURES_SHOWN = 3


@slates.command("export")
def export(
    tenant: Annotated[str, typer.Option("--tenant", help="The tenant's name.")],
    out: Annotated[Path, typer.Option("--out", help="The directory to export to.")],
    data_dir: DataDir = DATA_DIR,
    slate_log_dir: LogDir = None,
    shadow: Shadow = False,
    json: AsJson = False,
) -> None:
    """Export a tenant's logged slates as Parquet by day; what was exported before is not repeated.

    docs/slates.md describes every column.
    """
    from dataclasses import asdict  # noqa: PLC0415 - `--help` does without

    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    from serving.slate_log.export import export_slates  # noqa: PLC0415

    console = Console(stderr=True)
    try:
        with Progress(console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("exporting", total=None)
            report = export_slates(
                _log_path(data_dir, slate_log_dir, shadow=shadow),
                check_tenant_id(tenant),
                out,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except FeedsError as error:
        _tell(error, json=json)
    told = asdict(report)
    if json:
        _write_json(told)
    else:
        for name, value in told.items():
            typer.echo(f"{name}: {value}")


@slates.command("show")
def show(
    slate: Annotated[str, typer.Argument(metavar="ID", help="The slate's id.")],
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="The tenant's name; without it, all are tried.")
    ] = None,
    data_dir: DataDir = DATA_DIR,
    slate_log_dir: LogDir = None,
    shadow: Shadow = False,
    json: AsJson = False,
) -> None:
    """Show one slate as it was served, scored again by the model version that served it."""
    try:
        log = _log_path(data_dir, slate_log_dir, shadow=shadow)
        found = _explained(slate, tenant, data_dir, log)
    except FeedsError as error:
        _tell(error, json=json)
    if json:
        _write_json(found)
    else:
        _print(found)


def _log_path(data_dir: Path, slate_log_dir: Path | None, *, shadow: bool) -> Path:
    """Where the log lies, or its twin for models on trial."""
    from serving.settings_slates import shadow_log  # noqa: PLC0415 - as above

    directory = slate_log_dir or data_dir / "slates"
    return shadow_log(directory) if shadow else directory


def _explained(
    slate_id: str, tenant: str | None, data_dir: Path, directory: Path
) -> dict[str, Any]:  # Any: JSON
    from serving.slate_log.explain import ModelVersions, explain  # noqa: PLC0415 - as above
    from serving.slate_log.shelf import find_slate, tenants_of  # noqa: PLC0415

    named = [check_tenant_id(tenant)] if tenant is not None else tenants_of(directory)
    for each in named:
        if (logged := find_slate(directory, each, slate_id)) is not None:
            versions = ModelVersions(lambda _: None, data_dir / "models", _configs(data_dir))
            return {"tenant": each, **explain(logged, versions, None)}
    raise NotFound(
        f"slate {slate_id[:80]!r} is not in {directory}: it was not drawn, or has left; or name "
        "another directory with --data-dir or --slate-log-dir"
    )


def _configs(data_dir: Path) -> "Callable[[TenantId, int], RankingConfig]":
    """Ranking configs by version, from the store: opened where a slate needs one."""
    from feeds.cli_common import read  # noqa: PLC0415 - as above
    from ranking.config import RankingConfig  # noqa: PLC0415
    from serving.configs import read_config  # noqa: PLC0415

    def version(tenant: TenantId, number: int) -> RankingConfig:
        if number == 0:
            return RankingConfig.default()
        with read(data_dir, None) as store:
            return read_config(store.ranking_config(tenant, number))

    return version


def _print(found: dict[str, Any]) -> None:  # Any: JSON
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415

    console = Console(soft_wrap=True)
    for name in ("tenant", "slate_id", "user", "kind", "time", "scorer", "model_version"):
        console.print(f"{name}: {found[name]}", highlight=False, markup=False)
    again = found["recomputed"]
    identical = {True: "yes", False: f"no, {again['different']} differ", None: again["problem"]}
    console.print(f"degraded: {found['degraded']}", highlight=False, markup=False)
    console.print(
        f"scored again, bit for bit: {identical[again['bit_identical']]}",
        highlight=False,
        markup=False,
    )
    columns = ("position", "activity_id", "score", "propensity", "source", "reason")
    table = Table(*columns, "what moved it most")
    for activity in found["activities"]:
        cells = [str(activity[name]) for name in columns]
        table.add_row(*cells, _moved(activity["contributions"]))
    console.print(table)


def _moved(contributions: dict[str, float] | None) -> str:
    """The features that added or took away most."""
    if contributions is None:
        return ""
    most = sorted(contributions.items(), key=lambda each: -abs(each[1]))[:_FEATURES_SHOWN]
    return ", ".join(f"{name} {value:+.3g}" for name, value in most if value)


def _tell(error: FeedsError, *, json: bool) -> None:
    """An error as JSON where a program reads; for people the shell writes its sentence."""
    if not json:
        raise error
    _write_json({"error": str(error), "exception": type(error).__name__})
    raise typer.Exit(1) from None


def _write_json(answer: dict[str, Any]) -> None:  # Any: whatever JSON holds
    import orjson  # noqa: PLC0415 - as above

    typer.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode())
