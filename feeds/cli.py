"""The commands of the feed engine: `headwater import`, `headwater export`, `headwater tenants`.

What writes opens the engine in its own process, so no service may have the data directory
meanwhile; the error then names the process that has it. What only reads goes on beside it. With
`--engine`, both go through a running node of a cluster.
"""

import contextlib
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from feeds.errors import DataDirectoryLocked, FeedsError, InvalidInput, NotFound
from feeds.model import TenantId, check_tenant_id

if TYPE_CHECKING:
    from feeds.engine import FeedEngine
    from feeds.reader import StoreReader

__all__ = ["export", "import_", "tenants"]

DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="HEADWATER_DATA_DIR",
        help="The engine's data directory.",
    ),
]
Engine = Annotated[
    Path | None,
    typer.Option(
        "--engine",
        envvar="HEADWATER_ENGINE",
        help="The socket of a running engine node, instead of a data directory.",
    ),
]
Tenant = Annotated[str, typer.Option("--tenant", help="The tenant's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

DATA_DIR = Path(".headwater/data")

tenants = typer.Typer(
    name="tenants", help="Create tenants and their API keys.", no_args_is_help=True
)


def import_(
    actions: Annotated[
        Path, typer.Argument(metavar="ACTIONS.jsonl", help="An action log, in time order.")
    ],
    tenant: Tenant,
    data_dir: DataDir = DATA_DIR,
    engine_socket: Engine = None,
    json: AsJson = False,
) -> None:
    """Replay an action log through the engine; the tenant is created if it does not exist.

    The same log again adds nothing twice.
    """
    from feeds.actions import read_actions  # noqa: PLC0415 - the CLI starts without the engine
    from feeds.importer import replay  # noqa: PLC0415

    with _told(json), _opened_log(actions) as stream, _opened(data_dir, engine_socket) as engine:
        engine.create_tenant(tenant).result()
        with _progress("importing", _lines(actions)) as progress:
            report = replay(engine, TenantId(tenant), read_actions(stream, actions.name), progress)
        shown = report.counts | {
            "actions": report.actions,
            "last_index": report.last_index,
            "seconds": round(report.seconds, 2),
            "actions_per_s": round(report.actions_per_s),
        }
        _print(f"imported into {tenant}", shown, asdict(report), json=json)


def export(
    tenant: Tenant,
    out: Annotated[Path, typer.Option("--out", help="The directory to export to.")],
    data_dir: DataDir = DATA_DIR,
    engine_socket: Engine = None,
    json: AsJson = False,
) -> None:
    """Export a tenant's events as Parquet by day; what was exported before is not repeated.

    A running service goes on meanwhile: its data directory is read beside it.
    """
    from feeds.export import export as export_events  # noqa: PLC0415 - as above

    with _told(json), _read(data_dir, engine_socket) as reader:
        check_tenant_id(tenant)
        with _progress("exporting") as progress:
            report = export_events(reader, TenantId(tenant), out, progress=progress)
        shown = asdict(report) | {"seconds": round(report.seconds, 2)}
        _print(f"exported {tenant}", shown, asdict(report), json=json)


@tenants.command("create")
def create(
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    data_dir: DataDir = DATA_DIR,
    engine_socket: Engine = None,
    json: AsJson = False,
) -> None:
    """Create a tenant and its first API key, which is printed once and not stored."""
    with _told(json), _opened(data_dir, engine_socket) as engine:
        check_tenant_id(tenant)
        if tenant in engine.tenants():
            raise InvalidInput(
                f"tenant {tenant!r} exists: `headwater tenants keys {tenant} --create` makes a key"
            )
        engine.create_tenant(tenant).result()
        made = _make_key(engine, TenantId(tenant))
        _print(f"created {tenant}: keep the API key, it is shown once", made, made, json=json)


@tenants.command("list")
def list_(data_dir: DataDir = DATA_DIR, engine_socket: Engine = None, json: AsJson = False) -> None:
    """List the tenants and how many API keys each has."""
    with _told(json), _read(data_dir, engine_socket) as reader:
        found = {str(tenant): len(reader.keys(tenant)) for tenant in reader.tenants()}
        listed = {"tenants": [{"tenant": name, "keys": keys} for name, keys in found.items()]}
        shown = {name: f"{keys} API keys" for name, keys in found.items()}
        _print(f"{len(found)} tenants", shown, listed, json=json)


@tenants.command("keys")
def keys(
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    create: Annotated[bool, typer.Option("--create", help="Make another API key.")] = False,
    data_dir: DataDir = DATA_DIR,
    engine_socket: Engine = None,
    json: AsJson = False,
) -> None:
    """List a tenant's API keys by their public ids, or make another one with --create."""
    with _told(json), _opened(data_dir, engine_socket) as engine:
        if create:
            made = _make_key(engine, TenantId(tenant))
            _print("keep the API key, it is shown once", made, made, json=json)
            return
        found = {key.key_id: list(key.scopes) for key in engine.keys(TenantId(tenant))}
        listed = {"tenant": tenant, "keys": [{"key_id": k, "scopes": s} for k, s in found.items()]}
        shown = {key_id: ", ".join(scopes) for key_id, scopes in found.items()}
        _print(f"API keys of {tenant}", shown, listed, json=json)


def _make_key(engine: "FeedEngine", tenant: TenantId) -> dict[str, str]:
    from feeds.credentials import format_api_key, hash_secret  # noqa: PLC0415 - as above

    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    engine.add_key(tenant, key_id, hash_secret(secret)).result()
    return {
        "tenant": str(tenant),
        "key_id": key_id,
        "api_key": format_api_key(key_id, secret),
    }


@contextlib.contextmanager
def _opened(data_dir: Path, engine_socket: Path | None) -> Iterator["FeedEngine"]:
    """The engine on a data directory, or beside a node, until the command ends."""
    from feeds.engine import FeedEngine  # noqa: PLC0415 - as above

    if engine_socket is not None:
        from feeds.remote import open_remote  # noqa: PLC0415 - as above

        with open_remote(engine_socket) as engine:
            yield engine
    else:
        with FeedEngine.open(data_dir) as engine:
            yield engine


@contextlib.contextmanager
def _read(data_dir: Path, engine_socket: Path | None) -> Iterator["StoreReader"]:
    """The engine, or where another process has it, what that process has written so far."""
    from feeds.opening import open_reader  # noqa: PLC0415 - as above

    with contextlib.ExitStack() as stack:
        reader: StoreReader
        try:
            reader = stack.enter_context(_opened(data_dir, engine_socket))
        except DataDirectoryLocked:
            reader = stack.enter_context(open_reader(data_dir))
        yield reader


@contextlib.contextmanager
def _opened_log(path: Path) -> Iterator[BinaryIO]:
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist: make one with `headwater prepare`") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None
    with stream:
        yield stream


@contextlib.contextmanager
def _told(json: bool) -> Iterator[None]:
    """Tell an error as JSON where a program reads; for people the shell writes its sentence."""
    try:
        yield
    except FeedsError as error:
        if not json:
            raise
        _write_json({"error": str(error), "exception": type(error).__name__})
        raise typer.Exit(1) from None


@contextlib.contextmanager
def _progress(doing: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's standard error, whatever goes to standard output."""
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda count: bar.update(task, completed=count)


def _lines(path: Path) -> int:
    """How many lines a log has, for the length of a bar."""
    with path.open("rb") as stream:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b""))


def _print(title: str, shown: dict[str, Any], answer: dict[str, Any], *, json: bool) -> None:
    """A table for people or an object for programs; Any: whatever JSON holds."""
    if json:
        _write_json(answer)
        return
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in shown.items():
        table.add_row(name, str(value))
    # A key must come out whole, whatever the terminal's width.
    Console(soft_wrap=True, width=max(100, *(len(str(v)) + 40 for v in shown.values()), 0)).print(
        table
    )


def _write_json(answer: dict[str, Any]) -> None:  # Any: whatever JSON holds
    import orjson  # noqa: PLC0415 - as above

    sys.stdout.write(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode() + "\n")
