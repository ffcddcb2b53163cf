"""The commands that move data in and out of the feed engine: `headwater import|export`."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from feeds.cli_common import progress, told
from feeds.cli_options import OnEngine, grouped
from feeds.errors import InvalidInput, NotFound
from feeds.model import TenantId, check_tenant_id

__all__ = ["export", "import_"]

Tenant = Annotated[str, typer.Option("--tenant", help="The tenant's name.")]


@grouped
def import_(
    actions: Annotated[
        Path, typer.Argument(metavar="ACTIONS.jsonl", help="An action log, in time order.")
    ],
    tenant: Tenant,
    *,
    at: OnEngine,
) -> None:
    """Replay an action log through the engine; the tenant is created if it does not exist.

    The same log again adds nothing twice.
    """
    from feeds.actions import read_actions  # noqa: PLC0415 - the CLI starts without the engine
    from feeds.importer import replay  # noqa: PLC0415

    with told(at.json), _opened_log(actions) as stream, at.opened() as engine:
        engine.create_tenant(tenant).result()
        with progress("importing", _lines(actions)) as moved:
            report = replay(engine, TenantId(tenant), read_actions(stream, actions.name), moved)
        shown = report.counts | {
            "actions": report.actions,
            "last_index": report.last_index,
            "seconds": round(report.seconds, 2),
            "actions_per_s": round(report.actions_per_s),
        }
        at.show(f"imported into {tenant}", shown, asdict(report))


@grouped
def export(
    tenant: Tenant,
    out: Annotated[Path, typer.Option("--out", help="The directory to export to.")],
    *,
    at: OnEngine,
) -> None:
    """Export a tenant's events as Parquet by day; what was exported before is not repeated.

    A running service goes on meanwhile: its data directory is read beside it.
    """
    from feeds.export import export as export_events  # noqa: PLC0415 - as above

    with at.read() as reader:
        check_tenant_id(tenant)
        with progress("exporting") as moved:
            report = export_events(reader, TenantId(tenant), out, progress=moved)
        shown = asdict(report) | {"seconds": round(report.seconds, 2)}
        at.show(f"exported {tenant}", shown, asdict(report))


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


def _lines(path: Path) -> int:
    """How many lines a log has, for the length of a bar."""
    with path.open("rb") as stream:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b""))
