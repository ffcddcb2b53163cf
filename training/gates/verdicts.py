"""May this version replace the live one? Every gate, its verdict and its reason.

A gate passes, fails, or says that it could not judge and why. A version passes where no gate fails.
Each gate is a function of evidence; nothing here reads a clock, a file or a registry.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import numpy as np

from ranking.bundle import ModelBundle
from training.config import GateConfig
from training.evaluation.comparison import ComparisonReport
from training.evaluation.counterfactual import CounterfactualReport
from training.gates.parity import ParityReport
from training.gates.trained_users import trained_on
from training.sets.dataset import TrainingSet

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "GATES",
    "Gate",
    "GateReport",
    "better_gate",
    "counterfactual_gate",
    "deleted_users_gate",
    "fairness_gate",
    "latency_gate",
    "parity_gate",
    "size_gate",
    "unjudged",
]

GATES: Final = "gates.json"
"""The document of a version that holds its `GateReport`."""

Verdict = Literal["passed", "failed", "not judged"]

NO_SLATES: Final = "no exported slates were given (`headwater models gate --slates`)"
"""Why gates that need slates could not judge."""

_NAMED_MAX: Final = 5


class Gate(msgspec.Struct, frozen=True):
    """One gate: its name, verdict, the reason as a sentence, and the figures behind it."""

    name: str
    verdict: Verdict
    reason: str
    figures: dict[str, float] = {}


class GateReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the gates said of a bundle (by its digest), and against which version that was live.

    `live` is 0 where none was live: then it was set against chronological, which is served without
    a model. `judged_us` is microseconds since 1970.
    """

    tenant: str
    digest: str
    live: int
    judged_us: int
    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        """Whether no gate failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Gate, ...]:
        """The gates that failed."""
        return tuple(gate for gate in self.gates if gate.verdict == "failed")

    @property
    def sentence(self) -> str:
        """What it comes to."""
        if self.passed:
            return "Every gate that could judge passed: it may replace what is live."
        reasons = "; ".join(f"{gate.name}: {gate.reason}" for gate in self.failures)
        return f"It may not replace what is live. {reasons}"

    def to_json(self) -> bytes:
        """As indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    @classmethod
    def from_json(cls, text: bytes) -> "GateReport":
        """Read what `to_json` wrote; raises `msgspec.MsgspecError`."""
        return msgspec.json.decode(text, type=cls)

    def table(self) -> "Table":
        """For the terminal."""
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - only where a table is shown
        from rich.table import Table  # noqa: PLC0415

        against = f"version {self.live}" if self.live else "chronological"
        table = Table(box=SIMPLE_HEAD, title=f"{self.tenant}: gates, against {against}")
        table.title_justify = "left"
        table.add_column("gate", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        table.add_column("reason")
        styles = {"passed": "green", "failed": "bold red", "not judged": "yellow"}
        for gate in self.gates:
            table.add_row(gate.name, f"[{styles[gate.verdict]}]{gate.verdict}[/]", gate.reason)
        return table


def better_gate(comparison: ComparisonReport, config: GateConfig) -> Gate:
    """Better than what is live on the test part, with its interval: by what was shown if known."""
    figures = {
        "ndcg": comparison.first_ndcg,
        "live_ndcg": comparison.second_ndcg,
        "difference": comparison.difference,
        "low": comparison.interval[0],
        "high": comparison.interval[1],
    }
    if shown := comparison.shown:
        figures |= {
            "share": shown.first_share,
            "live_share": shown.second_share,
            "share_difference": shown.difference,
            "share_low": shown.interval[0],
            "share_high": shown.interval[1],
        }
    judged = shown or comparison
    if judged.interval[0] > config.gain_min:
        return Gate("better", "passed", f"{judged.sentence}.", figures)
    wanted = f"the interval must lie above {config.gain_min:+g} (gain_min)"
    return Gate("better", "failed", f"{judged.sentence}; {wanted}.", figures)


def fairness_gate(comparison: ComparisonReport, config: GateConfig) -> Gate:
    """Worse for no band of user activity: by what was shown, if that is known."""
    bands = (comparison.shown or comparison).bands
    judged = [band for band in bands if band.users >= config.band_users_min]
    if not judged:
        return unjudged(
            "fairness",
            f"no band of user activity has {config.band_users_min} users (band_users_min).",
        )
    figures = {band.name: band.difference for band in judged}
    told = "; ".join(
        f"{band.name}: {band.difference:+.3f} [{band.interval[0]:+.3f}, {band.interval[1]:+.3f}] "
        f"of {band.users} users"
        for band in judged
    )
    if worse := [band.name for band in judged if band.verdict == "worse"]:
        return Gate(
            "fairness",
            "failed",
            f"it is worse for users with {', '.join(worse)} ({told}).",
            figures,
        )
    return Gate("fairness", "passed", f"worse for no band of users ({told}).", figures)


def latency_gate(
    bundle: ModelBundle, test: TrainingSet, config: GateConfig, timer: Callable[[], float]
) -> Gate:
    """Fast enough for a request; `timer` gives seconds, as `time.perf_counter`."""
    features = test.columns(bundle.spec.names)
    rows = np.arange(config.latency_candidates) % len(features)
    scorer, features = bundle.scorer(), features.take(rows)
    scorer.score(features)  # the first time allocates
    took = []
    for _ in range(config.latency_rounds):
        start = timer()
        scorer.score(features)
        took.append(timer() - start)
    median_ms = float(np.median(took)) * 1_000
    told = (
        f"{config.latency_candidates} candidates are scored in {median_ms:.2f} ms, at most "
        f"{config.latency_ms_max:g} are allowed (latency_ms_max)."
    )
    verdict: Verdict = "passed" if median_ms <= config.latency_ms_max else "failed"
    return Gate("latency", verdict, told, {"median_ms": median_ms})


def size_gate(bundle: ModelBundle, config: GateConfig) -> Gate:
    """Small enough to be kept in memory beside those of other tenants."""
    size = bundle.file_bytes
    told = f"its files have {size:,} bytes, at most {config.bundle_bytes_max:,} are allowed."
    verdict: Verdict = "passed" if size <= config.bundle_bytes_max else "failed"
    return Gate("size", verdict, told, {"bytes": float(size)})


def deleted_users_gate(tenant: str, trained_users: bytes | None, deleted: Iterable[str]) -> Gate:
    """Nothing was learnt from a deleted user; `trained_users` is the version's document."""
    name, listed = "deleted users", sorted(set(deleted))
    if trained_users is None:
        return unjudged(name, "the version does not say whom it learnt from: train anew.")
    found = trained_on(tenant, trained_users, listed)
    figures = {"deleted": float(len(listed)), "found": float(len(found))}
    if not found:
        return Gate(
            name, "passed", f"it learnt from none of the {len(listed)} deleted users.", figures
        )
    named = ", ".join(found[:_NAMED_MAX]) + (", …" if len(found) > _NAMED_MAX else "")
    told = f"it learnt from {len(found)} deleted users ({named}): train anew without them."
    return Gate(name, "failed", told, figures)


def parity_gate(report: ParityReport | None) -> Gate:
    """What was served comes out again, bit for bit; None where no slates were given."""
    if report is None:
        return unjudged("parity", f"{NO_SLATES}.")
    figures = {"slates": float(report.slates), "different": float(report.different_scores)}
    if report.identical is None:
        return unjudged("parity", f"{report.sentence}.")
    verdict: Verdict = "passed" if report.identical else "failed"
    return Gate("parity", verdict, f"{report.sentence}.", figures)


def counterfactual_gate(report: CounterfactualReport | str | None) -> Gate:
    """Not worse than what was served, on the logged slates; a text says why none can be used.

    It fails where a whole interval of a difference lies below 0, of any estimator.
    """
    name = "counterfactual"
    if report is None:
        return unjudged(name, f"{NO_SLATES}.")
    if isinstance(report, str):
        return unjudged(name, f"{report}.")
    if report.refusal is not None:
        return unjudged(name, report.refusal)
    figures = {one.name: one.difference for one in report.estimates}
    worse = any(one.verdict == "worse" for one in report.estimates)
    return Gate(name, "failed" if worse else "passed", report.verdict, figures)


def unjudged(name: str, reason: str) -> Gate:
    """A gate that had nothing to judge by."""
    return Gate(name, "not judged", reason)
