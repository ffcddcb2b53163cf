"""What a simulation found: the truth of every arm, and beside it what its slate log would say."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from training.evaluation.counterfactual import CounterfactualReport

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

__all__ = ["REPORT_VERSION", "ArmReport", "DayReport", "SimulationReport"]

REPORT_VERSION = 1
"""Rises when a field changes its meaning."""


class DayReport(msgspec.Struct, frozen=True, kw_only=True):
    """The means over the visits of one day; values are in the worth of engagements per visit.

    `served` is the expected worth of what was shown, `observed` what came of it, `optimum` that of
    the best slates there were, and `arms` that of each arm's slates for the same visits.
    """

    day: int
    visits: int
    events: int
    served: float
    observed: float
    optimum: float
    arms: Mapping[str, float]


class ArmReport(msgspec.Struct, frozen=True, kw_only=True):
    """One arm on the visits that were judged.

    `value` is the true worth of its slates per visit, `regret` what it lacks to the optimum,
    `difference` what it is more than the serving arm. `estimate` is what the log alone says of it
    (None for the serving arm), and `covered` tells by estimator whether the interval holds the
    truth. `lived` is its true worth on each day of a community of its own, where it served from the
    start; empty where that was not simulated.
    """

    name: str
    value: float
    regret: float
    difference: float
    estimate: CounterfactualReport | None = None
    covered: Mapping[str, bool] = {}
    lived: tuple[float, ...] = ()


class SimulationReport(msgspec.Struct, frozen=True, kw_only=True):
    """A simulation: its settings, its days, and every arm. `platform` is `service` or `local`."""

    version: int = REPORT_VERSION
    platform: str
    serving: str
    config: Mapping[str, Any]  # Any: numbers and texts of `SimulationConfig`
    counts: Mapping[str, int]
    value: float
    """The true worth of what was served, per visit."""
    observed: float
    """What came of it."""
    optimum: float
    """That of the best slates."""
    judged: int
    """Visits that the arms were judged on."""
    days: tuple[DayReport, ...]
    arms: tuple[ArmReport, ...]
    statements: tuple[str, ...]
    """What a reader must know beside the figures, a sentence each."""
    seconds: float = 0.0

    def of(self, name: str) -> ArmReport:
        """One arm's; raises `KeyError` with the names there are."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise KeyError(f"there is no arm {name}: {', '.join(arm.name for arm in self.arms)}")

    def as_dict(self) -> dict[str, Any]:  # Any: JSON
        """As JSON types."""
        answer: dict[str, Any] = msgspec.to_builtins(self)
        return answer

    def to_json(self) -> bytes:
        """As indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    @classmethod
    def from_json(cls, text: bytes | str) -> "SimulationReport":
        """Read what `to_json` wrote."""
        return msgspec.json.decode(text, type=cls)

    def to_frame(self) -> "pd.DataFrame":
        """One row an arm, by its name: true value, regret, and each estimate with its interval."""
        import pandas as pd  # noqa: PLC0415 - half a second that only notebooks pay

        return pd.DataFrame([_row(arm) for arm in self.arms]).set_index("arm")

    def days_frame(self) -> "pd.DataFrame":
        """One row a day: visits, events, served, observed, optimum, and each arm's true value."""
        import pandas as pd  # noqa: PLC0415 - as above

        rows = [{name: getattr(day, name) for name in _DAY} | dict(day.arms) for day in self.days]
        return pd.DataFrame(rows).set_index("day")

    def table(self) -> "Table":
        """For the terminal: every arm's truth, and the estimate from the log beside it."""
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - only where a table is shown
        from rich.table import Table  # noqa: PLC0415

        title = (
            f"{self.counts['users']} members, {len(self.days)} days, {self.judged} visits judged; "
            f"served {self.value:.3f} a visit, the best there was {self.optimum:.3f}"
        )
        table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0))
        table.add_column("arm", no_wrap=True)
        for heading in ("true value", "regret", "to served", "estimate", "95 % interval", ""):
            table.add_column(heading, justify="right", no_wrap=True)
        for arm in self.arms:
            table.add_row(
                f"{arm.name} *" if arm.name == self.serving else arm.name,
                f"{arm.value:.3f}",
                f"{arm.regret:.3f}",
                "" if arm.name == self.serving else f"{arm.difference:+.3f}",
                *_told(arm),
            )
        return table


_DAY = ("day", "visits", "events", "served", "observed", "optimum")


def _told(arm: ArmReport) -> tuple[str, str, str]:
    """The last estimate (that of DR), its interval, and whether it holds the truth."""
    if arm.estimate is None:
        return ("", "", "")
    if not arm.estimate.estimates:
        return ("", "too little overlap", "")
    one = arm.estimate.estimates[-1]
    low, high = one.interval
    return (
        f"{one.value:.3f}",
        f"{low:.3f}-{high:.3f}",
        "holds" if arm.covered[one.name] else "misses",
    )


def _row(arm: ArmReport) -> dict[str, object]:
    row: dict[str, object] = {
        "arm": arm.name,
        "value": arm.value,
        "regret": arm.regret,
        "difference": arm.difference,
    }
    for one in arm.estimate.estimates if arm.estimate else ():
        name = one.name.lower()
        row |= {name: one.value, f"{name}_low": one.interval[0], f"{name}_high": one.interval[1]}
    return row
