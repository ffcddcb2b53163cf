"""What the commands of the feed engine have in common: opening it, and telling what came of it.

What writes opens the engine in its own process, so no service may have the data directory
meanwhile; the error then names the process that has it. What only reads goes on beside it. With
`--engine`, both go through a running node of a cluster.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from feeds.errors import DataDirectoryLocked, FeedsError

if TYPE_CHECKING:
    from feeds.engine import FeedEngine
    from feeds.reader import StoreReader

__all__ = ["opened", "progress", "read", "show", "told", "write_json"]


@contextlib.contextmanager
def opened(data_dir: Path, engine_socket: Path | None) -> Iterator["FeedEngine"]:
    """The engine on a data directory, or beside a node, until the command ends."""
    from feeds.engine import FeedEngine  # noqa: PLC0415 - the CLI starts without the engine

    if engine_socket is not None:
        from feeds.remote import open_remote  # noqa: PLC0415 - as above

        with open_remote(engine_socket) as engine:
            yield engine
    else:
        with FeedEngine.open(data_dir) as engine:
            yield engine


@contextlib.contextmanager
def read(data_dir: Path, engine_socket: Path | None) -> Iterator["StoreReader"]:
    """The engine, or where another process has it, what that process has written so far."""
    from feeds.opening import open_reader  # noqa: PLC0415 - as above

    with contextlib.ExitStack() as stack:
        reader: StoreReader
        try:
            reader = stack.enter_context(opened(data_dir, engine_socket))
        except DataDirectoryLocked:
            reader = stack.enter_context(open_reader(data_dir))
        yield reader


@contextlib.contextmanager
def told(json: bool, *also: type[Exception]) -> Iterator[None]:
    """Tell an error as JSON where a program reads; for people the shell writes its sentence.

    `also` are kinds of errors besides ours of feeds. One that holds several `problems` tells each.
    """
    kinds: tuple[type[Exception], ...] = (FeedsError, *also)
    try:
        yield
    except kinds as error:
        if not json:
            raise
        problems = {"problems": list(found)} if (found := getattr(error, "problems", ())) else {}
        write_json({"error": str(error), "exception": type(error).__name__, **problems})
        raise typer.Exit(1) from None


@contextlib.contextmanager
def progress(doing: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
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


def show(title: str, shown: dict[str, Any], answer: dict[str, Any], *, json: bool) -> None:
    """A table for people or an object for programs; Any: whatever JSON holds."""
    if json:
        write_json(answer)
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


def write_json(answer: dict[str, Any]) -> None:  # Any: whatever JSON holds
    """The one object that a program reads."""
    import orjson  # noqa: PLC0415 - as above

    sys.stdout.write(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode() + "\n")
