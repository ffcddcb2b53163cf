"""`headwater digest`: the digests of all users of a tenant as files."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from feeds.model import TenantId
    from feeds.reader import StoreReader
    from ranking.config import RankingConfig
    from serving.digest_export import Format
    from serving.settings import Settings

__all__ = ["command"]


def command(
    tenant: Annotated[str, typer.Option("--tenant", help="The tenant's name.")],
    out: Annotated[Path, typer.Option("--out", help="The directory of this run.")],
    file_format: Annotated[
        str, typer.Option("--format", help="What is written: jsonl or parquet.")
    ] = "jsonl",
    since: Annotated[
        str, typer.Option("--since", help="ISO 8601 time to go back to; 7 days unless told.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", help="Activities of a user, 1 to 100.")] = 10,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="A ranking config as JSON, instead of the tenant's active one."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="The service's data directory, as for `headwater serve`."),
    ] = None,
    engine: Annotated[
        Path | None,
        typer.Option("--engine", help="The socket of a running engine node instead."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Write the digests of all users of a tenant; a run that was stopped goes on where it was.

    A running service goes on meanwhile. The same options and directory go on; another run needs
    another directory.
    """
    from feeds.engine import system_clock_us  # noqa: PLC0415 - the CLI starts without the engine
    from feeds.errors import InvalidInput  # noqa: PLC0415
    from feeds.export import ExportDisk  # noqa: PLC0415
    from feeds.model import check_tenant_id, parse_time  # noqa: PLC0415
    from serving.compose import clock_from  # noqa: PLC0415
    from serving.digest import DigestMaker, check_since, digest_config  # noqa: PLC0415
    from serving.digest_export import DigestExport, RunOptions, count_users  # noqa: PLC0415
    from serving.models import ModelCache  # noqa: PLC0415
    from serving.settings import load_settings  # noqa: PLC0415
    from serving.table_loading import load_table  # noqa: PLC0415

    if file_format not in ("jsonl", "parquet"):
        raise InvalidInput(f"format is {file_format[:80]!r}: use jsonl or parquet")
    chosen: Format = "parquet" if file_format == "parquet" else "jsonl"
    settings = load_settings(**({} if data_dir is None else {"data_dir": data_dir}))
    clock_us = clock_from(settings.clock_start_us) if settings.clock_start else system_clock_us
    name = check_tenant_id(tenant)
    with _opened(settings.data_dir, engine or settings.engine) as store:
        created_us = store.tenant(name).created_us
        since_us = parse_time(since) if since else None
        check_since(since_us, clock_us())
        options = RunOptions(name, created_us, chosen, limit, since_us)
        run = DigestExport(out, options, ExportDisk())
        models = ModelCache(settings.models_path)
        asyncio.run(models.refresh())
        with run.begun(clock_us()) as begun:
            as_of_us = begun.as_of_us
            ranking = digest_config(
                _config(config, settings, store, name), check_since(since_us, as_of_us), as_of_us
            )
            table = load_table(store, name, settings.table_capacity)
            maker = DigestMaker(
                store,
                name,
                table,
                ranking,
                settings.home_group,
                as_of_us,
                models.get(name),
                settings.candidates_max,
            )
            with _progress(count_users(store, name, settings.home_group)) as progress:
                manifest = run.run(maker, begun, progress)
    told = {
        "out": str(out),
        "users": manifest.users,
        "rows": manifest.rows,
        "files": len(manifest.files),
    }
    if as_json:
        typer.echo(json.dumps(told))
    else:
        typer.echo(
            f"digests of {manifest.users} users of {name}: {manifest.rows} rows in "
            f"{len(manifest.files)} files in {out}"
        )


def _config(
    path: Path | None, settings: "Settings", store: "StoreReader", tenant: "TenantId"
) -> "RankingConfig":
    """The ranking config of a file, or the tenant's active one."""
    from feeds.errors import InvalidInput  # noqa: PLC0415 - as above
    from ranking.config import RankingConfig  # noqa: PLC0415
    from serving.configs import ActiveVersion, active_version, service_config  # noqa: PLC0415

    if path is None:
        default = ActiveVersion(0, service_config(settings))
        return active_version(store, tenant, default).config
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} is no ranking config: {error}") from None
    return RankingConfig.parse(document)


@contextmanager
def _opened(data_dir: Path, engine: Path | None) -> Iterator["StoreReader"]:
    """The store of a node, of a directory, or of one that another process writes to."""
    from feeds.engine import FeedEngine  # noqa: PLC0415 - as above
    from feeds.errors import DataDirectoryLocked  # noqa: PLC0415
    from feeds.opening import open_reader  # noqa: PLC0415
    from feeds.remote import open_remote  # noqa: PLC0415

    with ExitStack() as stack:
        if engine is not None:
            yield stack.enter_context(open_remote(engine))
            return
        store: StoreReader
        try:
            store = stack.enter_context(FeedEngine.open(data_dir))
        except DataDirectoryLocked:
            store = stack.enter_context(open_reader(data_dir))
        yield store


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar of users on a terminal's standard error."""
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("users"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("users", total=total)
        yield lambda done: bar.update(task, completed=done)
