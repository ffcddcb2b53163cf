"""What a protocol is asked and what it answers: figures beside the published ones, and checks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from training.sources.base import Progress

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Check", "Figure", "ProtocolOptions", "ProtocolReport", "RunProtocol"]

CHECK_COLUMNS = 76
"""Width of the sentences below a report's table."""


@dataclass(frozen=True, slots=True)
class ProtocolOptions:
    """Where the data is, and how thorough the run is."""

    data: Path = Path("../shared/data")
    """The directory of data sets that cannot be downloaded."""
    cache: Path = Path(".headwater/cache")
    """Where downloaded data sets are kept."""
    short: bool = False
    """Fewer things tried, to see that it runs: checks of the long form may fail."""
    seed: int = 20_180_312
    """Seeds every random choice."""
    draws: int = 2_000
    """Bootstrap draws of users, for 95 % intervals."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A measured figure beside a published one, where there is one, and the least to reach."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    published: float | None = None
    least: float | None = None
    chosen: str = ""
    """What validation chose, such as hyperparameters; empty where nothing was chosen."""


class Check(msgspec.Struct, frozen=True):
    """Whether something that must hold does, as a sentence."""

    passed: bool
    sentence: str


class ProtocolReport(msgspec.Struct, frozen=True, kw_only=True):
    """A protocol's answer.

    `unit` is what the figures are of, such as NDCG@10, and `beside` what stands beside them.
    """

    protocol: str
    title: str
    unit: str
    beside: str = "published"
    figures: tuple[Figure, ...]
    published: tuple[Figure, ...] = ()
    """Figures of others on the same protocol, which are not measured here."""
    verdicts: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    conventions: tuple[str, ...] = ()
    counts: dict[str, float] = {}
    short: bool = False
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether all checks hold."""
        return all(check.passed for check in self.checks)

    def of(self, name: str) -> Figure:
        """One figure; raises `KeyError` with the names there are."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(f"{name} is not in the report: {', '.join(f.name for f in self.figures)}")

    def as_dict(self) -> dict[str, Any]:  # Any: whatever JSON holds
        """As JSON types, with `passed`."""
        return {**msgspec.to_builtins(self), "passed": self.passed}

    def table(self) -> "Table":
        """For the terminal, 80 columns wide."""
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - only where a table is shown
        from rich.table import Table  # noqa: PLC0415

        title = f"{self.protocol}: {self.title}{' (short form)' if self.short else ''}"
        table = Table(
            box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left", width=80
        )
        table.add_column("")
        for heading in (self.unit, "95 % interval", self.beside, "at least"):
            table.add_column(heading, justify="right", no_wrap=True)
        for figure in self.figures:
            interval = "" if figure.interval is None else "{:.4f} {:.4f}".format(*figure.interval)
            bounds = [_shown(figure.published), _shown(figure.least)]
            table.add_row(figure.name, _shown(figure.value), interval, *bounds)
        for figure in self.published:
            table.add_row(figure.name, "", "", _shown(figure.published), "", style="dim")
        return table

    def lines(self) -> list[str]:
        """What a reader must know beside the figures."""
        marks = {True: "holds", False: "DOES NOT HOLD"}
        counted = ", ".join(f"{name} {value:g}" for name, value in self.counts.items())
        chosen = [f"{f.name}: chosen on validation: {f.chosen}" for f in self.figures if f.chosen]
        return [
            *self.verdicts,
            *(f"{marks[check.passed]}: {check.sentence}" for check in self.checks),
            *chosen,
            *self.conventions,
            *([f"Counts: {counted}."] if counted else []),
            f"Took {self.seconds:.0f} s.",
        ]


RunProtocol = Callable[[ProtocolOptions, Progress], ProtocolReport]
"""What the module of a protocol has under the name `run`."""


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
