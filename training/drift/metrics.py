"""Drift for Prometheus: a file for the textfile collector, rewritten as a whole."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from training.drift.measure import DriftReport

__all__ = ["GAUGES", "Gauge", "exposition"]


class Gauge(NamedTuple):
    """A metric: its name, what it says, and its labels."""

    name: str
    doc: str
    labels: tuple[str, ...]


AGE: Final = Gauge(
    "headwater_model_age_days",
    "Days from the training of the live model to the tenant's last slate.",
    ("tenant",),
)
DEGRADED: Final = Gauge(
    "headwater_slates_degraded_share",
    "Share of the last day's slates that were ordered by time, 0 to 1.",
    ("tenant",),
)
PSI: Final = Gauge(
    "headwater_drift_psi",
    "Population stability index of a feature, or of the score, on the last day against what the "
    "model learnt from.",
    ("tenant", "column"),
)
PROBLEM: Final = Gauge(
    "headwater_drift_problem", "1 where no drift could be told of the tenant, else 0.", ("tenant",)
)

GAUGES: Final = (AGE, DEGRADED, PSI, PROBLEM)
"""Every metric that is told here."""

_ESCAPED: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def exposition(reports: Iterable[DriftReport], failed: Sequence[str] = ()) -> str:
    """The metrics of the reports' tenants, and of those of which there is none, as text."""
    rows: dict[Gauge, list[str]] = {gauge: [] for gauge in GAUGES}

    def tell(gauge: Gauge, value: float, *labels: str) -> None:
        named = zip(gauge.labels, labels, strict=True)
        shown = ",".join(f'{name}="{label.translate(_ESCAPED)}"' for name, label in named)
        rows[gauge].append(f"{gauge.name}{{{shown}}} {value:.6g}")

    for report in reports:
        tell(AGE, report.age_days, report.tenant)
        tell(DEGRADED, report.degraded_share, report.tenant)
        tell(PROBLEM, bool(report.problem), report.tenant)
        for drift in report.columns:
            tell(PSI, drift.psi, report.tenant, drift.name)
    for tenant in failed:
        tell(PROBLEM, 1, tenant)
    lines = [
        line
        for gauge, told in rows.items()
        if told
        for line in (f"# HELP {gauge.name} {gauge.doc}", f"# TYPE {gauge.name} gauge", *told)
    ]
    return "\n".join(lines) + "\n"
