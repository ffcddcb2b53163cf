"""An evaluation report as pages: Markdown, and one HTML file with its plots inside."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from training.evaluation.report_plots import as_svg, plots_of
from training.pages import html_page

if TYPE_CHECKING:
    from training.evaluation.rankings import RankerResult
    from training.evaluation.report import EvaluationReport

__all__ = ["HTML", "MARKDOWN", "PLOT_NOTES", "as_html", "as_markdown", "markdown_table", "rendered"]

HTML: Final = "report.html"
MARKDOWN: Final = "report.md"

PLOT_NOTES: Final = {
    "intervals": (
        "Left: every ranking on the same requests. Right: the model against each, on the same "
        "draws of users, which tells them apart better than intervals side by side; green is "
        "better, grey not distinguishable, red worse."
    ),
    "reach": "What was no candidate could not be ranked: no model can make up for it.",
    "bands": "Who is new is served by less knowledge: a mean over all hides whom a model fails.",
    "reliability": "On the diagonal, a probability of 10 % comes true in one of ten cases.",
    "catalogue": (
        "What the first places went to: which share of the catalogue, how little known (bits), and "
        "how unequally (0: all alike)."
    ),
    "importance": "By exact SHAP values of candidates of the test part: what a score is made of.",
}
"""What each plot says, a sentence each."""


def rendered(report: "EvaluationReport") -> dict[str, bytes]:
    """The report's pages as documents, by file name."""
    return {HTML: as_html(report).encode(), MARKDOWN: as_markdown(report).encode()}


def as_html(report: "EvaluationReport") -> str:
    """One HTML file: no script, nothing from elsewhere; the same report gives the same bytes."""
    plots = [
        {"name": name, "svg": as_svg(figure), "note": PLOT_NOTES[name]}
        for name, figure in plots_of(report).items()
    ]
    return html_page(
        "report.html",
        title=f"{report.tenant}: {report.model}",
        report=report,
        plots=plots,
        header=_header(report),
        rows=_rows(report),
        heads_header=_HEADS_HEADER,
        head_rows=_head_rows(report),
        lead=_lead(report),
    )


def as_markdown(report: "EvaluationReport") -> str:
    """Tables and sentences, for a pull request or a log."""
    lines = [f"# {_title(report)}", "", *(f"* {sentence}" for sentence in _lead(report)), ""]
    lines += markdown_table(_header(report), _rows(report))
    if report.bands:
        names = [ranker.name for ranker in report.bands[0].rankers]
        lines += ["", "## By what the user had engaged with before", ""]
        lines += markdown_table(
            ["users with", "users", "requests", *names],
            [
                [band.name, str(band.users), str(band.requests), *map(_ndcg, band.rankers)]
                for band in report.bands
            ],
        )
    if report.reliability is not None:
        lines += ["", "## Reliability", ""]
        lines += [f"ECE {report.reliability.error:.4f}. {report.reliability.basis}"]
    if report.heads:
        lines += ["", "## Heads of the value model", ""]
        lines += markdown_table(_HEADS_HEADER, _head_rows(report))
    if report.importance:
        lines += ["", "## What moves the score", ""]
        shares = [[f"`{name}`", f"{size:.4f}"] for name, size in report.importance.items()]
        lines += markdown_table(["feature", "mean absolute contribution"], shares[:20])
    lines += ["", "## What to know", "", *(f"* {sentence}" for sentence in report.statements)]
    return "\n".join(lines) + "\n"


def _title(report: "EvaluationReport") -> str:
    version = "" if report.model_version is None else f", version {report.model_version}"
    return f"{report.tenant}: {report.model}{version}"


def _lead(report: "EvaluationReport") -> list[str]:
    """The first sentences: on what, and where the model is not better."""
    test = report.parts[-1]
    first = (
        f"{test.requests:,} test requests of {test.users:,} users since {test.start}; "
        f"{report.reach:.0%} of what they touched was a candidate."
    )
    young = (report.young,) if report.young else ()
    return [
        first,
        *young,
        *(report.not_better or ("Better than every baseline, by request and by user.",)),
    ]


def _header(report: "EvaluationReport") -> list[str]:
    return [
        "ranking",
        f"NDCG@{report.k}",
        "95 % interval",
        "by user",
        "MRR",
        f"recall@{report.k}",
        "coverage",
        "novelty",
        "Gini",
    ]


def _rows(report: "EvaluationReport") -> list[list[str]]:
    return [
        [
            f"{one.name} (chosen)" if one.name == report.model else one.name,
            f"{one.ndcg:.3f}",
            f"{one.interval[0]:.3f} to {one.interval[1]:.3f}",
            f"{one.ndcg_by_user:.3f}",
            f"{one.mrr:.3f}",
            f"{one.recall:.3f}",
            f"{one.coverage:.3f}",
            "" if one.novelty is None else f"{one.novelty:.2f}",
            "" if one.gini is None else f"{one.gini:.2f}",
        ]
        for one in report.rankers
    ]


_HEADS_HEADER: Final = ("kind", "worth", "engagements", "ECE", "ECE before calibration")


def _head_rows(report: "EvaluationReport") -> list[list[str]]:
    """A row a head, as text."""
    return [
        [
            head.kind,
            f"{head.weight:g}",
            f"{head.positives:,}",
            *("" if each is None else f"{each:.4f}" for each in (head.ece, head.ece_before)),
        ]
        for head in report.heads
    ]


def _ndcg(ranker: "RankerResult") -> str:
    return f"{ranker.ndcg:.3f} [{ranker.interval[0]:.3f}, {ranker.interval[1]:.3f}]"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, numbers to the right of the first column."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]
