"""What the scripts that measure growth share: their options, and how points come about.

Each point is measured in a directory of its own, which is removed before the next; the numbers say
when and on which machine they were taken, and stand beside the plot, so that it can be drawn again.
"""

import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from serving.bench import machine

__all__ = ["OUT", "Again", "Out", "Point", "Seconds", "Short", "Work", "check_names", "each_point"]

OUT = Path(__file__).parent.parent / "docs" / "growth"

SHORT_POINTS = 2
"""How many points a trial takes."""

Point = dict[str, Any]  # Any: numbers, as JSON holds them; None where it could not be measured

Seconds = Annotated[float, typer.Option(help="About how long each point is measured.")]
Work = Annotated[Path, typer.Option(help="Where to work; not on a tmpfs.")]
Out = Annotated[Path, typer.Option(help="Where numbers and plots are written.")]
Again = Annotated[bool, typer.Option("--draw", help="Draw again what was measured.")]
Short = Annotated[bool, typer.Option("--short", help="Two points of each: to see that it runs.")]


def check_names(names: Sequence[str] | None, known: Collection[str]) -> Sequence[str]:
    """What to measure: all where nothing is named; raises `BadParameter` where one is unknown."""
    if unknown := set(names or ()) - set(known):
        raise typer.BadParameter(f"{min(unknown)!r} is none of {', '.join(known)}")
    return names or list(known)


def each_point(
    name: str,
    sizes: Sequence[int],
    measure: Callable[[Path, int], Point],
    work: Path,
    *,
    short: bool,
) -> Iterator[dict[str, Any]]:  # Any: JSON
    """The report after each point: when and where it was measured, and the points so far."""
    work.mkdir(parents=True, exist_ok=True)
    points = []
    for size in track(sizes[:SHORT_POINTS] if short else sizes, name):
        with tempfile.TemporaryDirectory(dir=work, prefix=f"growth-{name}-") as directory:
            points.append(measure(Path(directory), size))
        measured = datetime.now(UTC).isoformat(timespec="seconds")
        yield {"measured": measured, "machine": machine(work), "points": points}
