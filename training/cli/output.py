"""What the commands of training tell: answers on standard output, progress on standard error."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from training.errors import TOLD

if TYPE_CHECKING:
    from training.evaluation.counterfactual import CounterfactualReport
    from training.evaluation.report import EvaluationReport
    from training.gates.parity import ParityReport
    from training.gates.verdicts import GateReport
    from training.protocols import ProtocolReport
    from training.sources import Progress

__all__ = [
    "print_answer",
    "print_counterfactual",
    "print_gates",
    "print_protocol",
    "print_report",
    "progress_bar",
    "say",
    "told",
    "write_json",
]


def print_report(report: "EvaluationReport") -> None:
    """The report's table, and every sentence that belongs to it."""
    from rich.console import Console  # noqa: PLC0415 - only where a table is shown

    console = Console()
    console.print(report.table())
    if (explore := report.explore_table()) is not None:
        console.print(explore)
    for sentence in report.statements:
        console.print(f"• {sentence}", highlight=False)


def print_gates(report: "GateReport") -> None:
    """The gates' table, and what they come to."""
    from rich.console import Console  # noqa: PLC0415 - only where a table is shown

    console = Console()
    console.print(report.table())
    if report.passed:
        console.print(report.sentence)


def print_protocol(report: "ProtocolReport") -> None:
    """The protocol's table, and every sentence that belongs to it."""
    from rich.console import Console  # noqa: PLC0415 - only where a table is shown

    console = Console()
    console.print(report.table())
    for sentence in report.lines():
        console.print(f"• {sentence}", highlight=False, markup=False)


def print_counterfactual(report: "CounterfactualReport", parity: "ParityReport | None") -> None:
    """The estimates, or why there are none, and whether served scores come out again."""
    from rich.console import Console  # noqa: PLC0415 - only where a table is shown

    console = Console()
    console.print(report.table())
    console.print(f"• {report.verdict}", highlight=False, markup=False)
    if parity is not None:
        console.print(f"• Parity: {parity.sentence}.", highlight=False, markup=False)


@contextlib.contextmanager
def told(json: bool) -> Iterator[None]:
    """Tell an error as JSON where a program reads; for people the shell writes its sentence."""
    try:
        yield
    except TOLD as error:
        if not json:
            raise
        write_json({"error": str(error), "exception": type(error).__name__})
        raise typer.Exit(1) from None


@contextlib.contextmanager
def progress_bar(json: bool) -> Iterator["Progress"]:
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
                say(f"{time.monotonic() - started:6.1f} s  {what}", sys.stderr)
            told[0] = what

        yield tell


def print_answer(title: str, shown: dict[str, Any], answer: dict[str, Any], json: bool) -> None:
    """A table of `shown` for people, or `answer` for programs; Any: whatever JSON holds."""
    if json:
        write_json(answer)
        return
    from rich.console import Console  # noqa: PLC0415 - only where a table is shown
    from rich.table import Table  # noqa: PLC0415

    say(title)
    if shown:
        table = Table(show_header=False)
        for name, value in shown.items():
            table.add_row(name, str(value))
        Console().print(table)


def say(line: str, stream: Any = None) -> None:  # Any: a text stream
    """Write a line, to standard output unless another stream is given."""
    (stream or sys.stdout).write(line + "\n")


def write_json(answer: dict[str, Any]) -> None:  # Any: whatever JSON holds
    """Write one JSON object to standard output."""
    import orjson  # noqa: PLC0415

    say(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode())
