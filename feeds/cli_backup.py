"""`headwater backup`, `restore` and `verify`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from feeds.errors import FeedsError

__all__ = ["backup", "restore", "verify"]

_Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@contextmanager
def _sentences() -> Iterator[None]:
    """An error is a sentence, and the command ends with 1."""
    try:
        yield
    except (FeedsError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def backup(
    out: Annotated[Path, typer.Argument(help="Where the backup is written; must not exist.")],
    engine: Annotated[
        Path | None, typer.Option(help="The socket of a node, which goes on serving.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="A data directory that no process has open.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Back up a store, as of one place in the log, with a checksum of every file."""
    from feeds.backup import backup_directory, backup_node  # noqa: PLC0415 - `--help` does without

    if (engine is None) == (data_dir is None):
        raise typer.BadParameter("name a node with --engine, or a directory with --data-dir")
    with _sentences():
        manifest = (
            backup_node(engine, out) if engine else backup_directory(Path(str(data_dir)), out)
        )
    told = {"out": str(out), "index": manifest.index, "bytes": manifest.bytes}
    if as_json:
        typer.echo(json.dumps({**told, "files": len(manifest.files)}))
    else:
        size = f"{manifest.bytes / 1e6:.1f} MB in {len(manifest.files)} files"
        typer.echo(f"{out}: {size}, up to log index {manifest.index}")


def restore(
    source: Annotated[Path, typer.Argument(help="The backup.")],
    data_dir: Annotated[Path, typer.Option(help="The directory to make; absent or empty.")],
) -> None:
    """Make a data directory of a backup, once every checksum was found right."""
    from feeds.backup import restore as restore_backup  # noqa: PLC0415 - as above

    with _sentences():
        manifest = restore_backup(source, data_dir)
    typer.echo(f"{data_dir}: restored up to log index {manifest.index}")


def verify(
    path: Annotated[Path, typer.Argument(help="A backup, or a data directory nobody has open.")],
    as_json: _Json = False,
) -> None:
    """Read everything, and say what is damaged, if anything is."""
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.progress import track  # noqa: PLC0415 - as above

    from feeds import backup as backups  # noqa: PLC0415 - as above
    from feeds.config import FeedsConfig  # noqa: PLC0415 - as above

    progress = Console(stderr=True)
    with _sentences():
        if (path / "manifest.json").exists():
            files = len(backups.load_manifest(path).files)
            checked = backups.verify(path)
            count = sum(1 for _ in track(checked, "verify", total=files, console=progress))
            told: dict[str, int] = {"files": count}
        else:
            told = dict(backups.verify_data(path, FeedsConfig()))
    if as_json:
        typer.echo(json.dumps({"path": str(path), "sound": True, **told}))
    else:
        numbers = ", ".join(f"{what} {count:,}" for what, count in told.items() if count)
        typer.echo(f"{path}: sound ({numbers or 'nothing in it'})")
