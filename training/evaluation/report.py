"""EvaluationReport: what a training run or an evaluation found, as JSON, a frame and a table."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ranking.files import replace_file
from training.evaluation.rankings import CHRONOLOGICAL, RankerResult
from training.evaluation.report_details import BandReport, ReliabilityReport

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

__all__ = ["REPORT", "EvaluationReport", "ExploreReport", "HeadReport", "LiveReport", "PartReport"]

CAPTION_COLUMNS = 72
"""Width of the sentences below a report's table."""

REPORT = "report.json"
"""The document of a version that holds its report."""

REPORT_VERSION = 2
"""Rises when a field changes its meaning."""


class PartReport(msgspec.Struct, frozen=True):
    """One part of the split: from `start` to the next part's, and the requests in it.

    `reach` is the share of touched activities that were candidates at all.
    """

    name: str
    start: str
    requests: int
    users: int
    candidates_median: float
    reach: float


class ExploreReport(msgspec.Struct, frozen=True, kw_only=True):
    """The explore feed: test requests that touched something outside of what the user followed.

    `reach` is the share of what they touched there that was a candidate. `rankers` are the
    baselines, then the chosen model, which was not trained for it; `verdict` sets it against
    chronological.
    """

    requests: int
    users: int
    reach: float
    rankers: tuple[RankerResult, ...]
    verdict: str
    not_better: tuple[str, ...] = ()
    """Where the model is level with a baseline or worse, by either mean; empty: nowhere."""


class LiveReport(msgspec.Struct, frozen=True):
    """The version that was live, on the same requests, and the model's difference to it.

    `interval` is the difference's.
    """

    version: int
    ndcg: float
    difference: float
    interval: tuple[float, float]
    sentence: str


class HeadReport(msgspec.Struct, frozen=True):
    """A head of the value model that was tried, chosen or not: its worth and its error (ECE).

    `positives` are the engagements it learnt from; `ece` is out of sample, with calibration, and
    `ece_before` without; None where validation cannot tell.
    """

    kind: str
    weight: float
    positives: int
    ece: float | None
    ece_before: float | None


class EvaluationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, on what, how, and what it means; every name in it is explained by itself.

    `rankers` are the baselines, then every model that was trained; `model` names the chosen one.
    """

    version: int = REPORT_VERSION
    tenant: str
    model: str
    model_kind: str
    model_version: int | None = None
    k: int
    young: str = ""
    """A sentence that the data spans too few days (`EvaluationConfig.young_days`), or empty."""
    verdicts: tuple[str, ...]
    """The model against each of chronological, popular and latest activity."""
    not_better: tuple[str, ...] = ()
    """Where the model is level with a baseline or worse, by either mean; empty: nowhere.

    Of the personalized feed; what `explore` has is its own.
    """
    rankers: tuple[RankerResult, ...]
    explore: ExploreReport | None = None
    """The explore feed; None where no request touched a candidate of it."""
    live: LiveReport | None = None
    """What was live; None where nothing was, or where nothing was published."""
    bands: tuple[BandReport, ...] = ()
    """The baselines and the model by how much their users had engaged before."""
    reliability: ReliabilityReport | None = None
    """How far the model's scores are probabilities; None where validation cannot tell."""
    heads: tuple[HeadReport, ...] = ()
    """The heads of the value model that was tried; empty: none was trained."""
    importance: dict[str, float] = {}
    """Mean absolute contribution of each feature to the model's score; empty: it has none."""
    validation: dict[str, float]
    """NDCG of every model on validation, by which the model was chosen where `validation_shown`
    is empty."""
    validation_shown: dict[str, float] = {}
    """What every model is worth of what was shown on validation (`training.evaluation.shown`), by
    which it was chosen; empty where it is not known what was shown."""
    reach: float
    parts: tuple[PartReport, ...]
    split: dict[str, float]
    counts: dict[str, int]
    seconds: dict[str, float]
    """Seconds by step, measured where the step ran; `all` is the whole run by the clock."""
    derived: tuple[str, ...] = ()
    conventions: tuple[str, ...] = ()
    example_users: tuple[str, ...] = ()
    """Users of the test part with the most requests, whose feeds are worth a look."""
    events_fingerprint: str = ""
    training_fingerprint: str = ""

    @property
    def statements(self) -> tuple[str, ...]:
        """All that a reader must know beside the figures, a sentence each."""
        live = (self.live.sentence,) if self.live else ()
        explored = (self.explore.verdict,) if self.explore else ()
        young = (self.young,) if self.young else ()
        return (*young, *self.verdicts, *live, *explored, *self.derived, *self.conventions)

    @property
    def result(self) -> RankerResult:
        """The chosen model's."""
        return self.of(self.model)

    def of(self, name: str) -> RankerResult:
        """One ranking's; raises `KeyError` with the names there are."""
        for ranker in self.rankers:
            if ranker.name == name:
                return ranker
        raise KeyError(f"{name} is not in the report: {', '.join(r.name for r in self.rankers)}")

    def as_dict(self) -> dict[str, Any]:  # Any: whatever JSON holds
        """As JSON types, with the statements in one list."""
        return {**msgspec.to_builtins(self), "statements": list(self.statements)}

    def to_json(self) -> bytes:
        """As indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self.as_dict()), indent=2)

    @classmethod
    def from_json(cls, text: bytes | str) -> "EvaluationReport":
        """Read what `to_json` wrote."""
        return msgspec.json.decode(text, type=cls)

    def to_markdown(self) -> str:
        """As Markdown, without plots."""
        from training.evaluation.report_pages import as_markdown  # noqa: PLC0415 - only where it is written

        return as_markdown(self)

    def to_html(self) -> str:
        """As one HTML file with its plots inside; nothing is loaded from elsewhere."""
        from training.evaluation.report_pages import as_html  # noqa: PLC0415 - only where it is written

        return as_html(self)

    def write(self, directory: Path) -> None:
        """Leave `report.json`, `report.md` and `report.html` in a directory; made if need be."""
        from training.evaluation.report_pages import rendered  # noqa: PLC0415 - only where it is written

        directory.mkdir(parents=True, exist_ok=True)
        for name, content in {REPORT: self.to_json(), **rendered(self)}.items():
            replace_file(directory / name, content)

    def to_frame(self) -> "pd.DataFrame":
        """One row a ranking, by its name: NDCG with interval, the other figures, the difference."""
        import pandas as pd  # noqa: PLC0415 - half a second that only notebooks pay

        rows = [self._row(ranker) for ranker in self.rankers]
        return pd.DataFrame(rows).set_index("ranker")

    def bands_frame(self) -> "pd.DataFrame":
        """One row a band of users and ranking: requests, users, NDCG with its interval."""
        import pandas as pd  # noqa: PLC0415 - as above

        names = ["band", "ranker", "requests", "users", f"ndcg@{self.k}", "low", "high"]
        rows = [
            (band.name, one.name, band.requests, band.users, one.ndcg, *one.interval)
            for band in self.bands
            for one in band.rankers
        ]
        return pd.DataFrame(rows, columns=names).set_index(["band", "ranker"])

    def _row(self, ranker: RankerResult) -> dict[str, object]:
        comparison = next((c for c in ranker.comparisons if c.baseline == CHRONOLOGICAL), None)
        return {
            "ranker": ranker.name,
            f"ndcg@{self.k}": ranker.ndcg,
            "low": ranker.interval[0],
            "high": ranker.interval[1],
            "by_user": ranker.ndcg_by_user,
            "mrr": ranker.mrr,
            f"recall@{self.k}": ranker.recall,
            "coverage": ranker.coverage,
            "difference": comparison.difference if comparison else 0.0,
            "verdict": comparison.verdict if comparison else "",
            "chosen": ranker.name == self.model,
        }

    def table(self) -> "Table":
        """For the terminal, 80 columns wide; below it, where the model is not better."""
        test = self.parts[-1]
        title = (
            f"{self.tenant}: {test.requests} test requests of {test.users} users, "
            f"reach {self.reach:.0%} (* chosen)"
        )
        table = self._table(title, self.rankers, self.not_better)
        if self.young:
            table.caption = f"{textwrap.fill(self.young, CAPTION_COLUMNS)}\n{table.caption}"
        return table

    def explore_table(self) -> "Table | None":
        """The same of the explore feed; None where it was not judged."""
        if (explore := self.explore) is None:
            return None
        title = (
            f"explore: {explore.requests} of these requests, of {explore.users} users, "
            f"reach {explore.reach:.0%} (* chosen)"
        )
        return self._table(title, explore.rankers, explore.not_better)

    def _table(
        self, title: str, rankers: tuple[RankerResult, ...], not_better: tuple[str, ...]
    ) -> "Table":
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - only where a table is shown
        from rich.table import Table  # noqa: PLC0415

        table = Table(
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            title=title,
            caption=_caption(not_better),
            title_justify="left",
            caption_justify="left",
        )
        table.add_column("ranking", no_wrap=True)
        for heading in (f"NDCG@{self.k}", "95 % interval", "by user", "MRR", "recall"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("to chronological", min_width=13)
        for ranker in rankers:
            row = self._row(ranker)
            chosen = ranker.name == self.model
            table.add_row(
                f"{ranker.name} *" if chosen else ranker.name,
                f"{ranker.ndcg:.3f}",
                f"{ranker.interval[0]:.3f}-{ranker.interval[1]:.3f}",
                f"{ranker.ndcg_by_user:.3f}",
                f"{ranker.mrr:.3f}",
                f"{ranker.recall:.3f}",
                f"{row['difference']:+.3f} {row['verdict']}" if row["verdict"] else "",
                style="bold" if chosen else None,
            )
        return table


def _caption(not_better: tuple[str, ...]) -> str:
    if not not_better:
        return "Better than every baseline, by request and by user."
    # Folded here: rich cuts the end of a caption's line that just fits.
    lines = [
        textwrap.fill(f"- {sentence}", CAPTION_COLUMNS, subsequent_indent="  ")
        for sentence in not_better
    ]
    return "\n".join(("Not better:", *lines))
