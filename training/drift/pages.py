"""A drift report for people: Markdown, one HTML file with its plots inside, and a PNG."""

from typing import TYPE_CHECKING, Final

from training.drift.plots import overview, plots_of
from training.evaluation.report_pages import markdown_table
from training.evaluation.report_plots import as_png, as_svg
from training.pages import html_page

if TYPE_CHECKING:
    from training.drift.measure import DriftReport

__all__ = ["HTML", "MARKDOWN", "PNG", "as_html", "as_markdown", "rendered"]

HTML: Final = "drift.html"
MARKDOWN: Final = "drift.md"
PNG: Final = "drift.png"

NOTES: Final = {
    "psi": (
        "The population stability index of each column, in bins at the deciles of then. Left of "
        "the tick, chance explains it: grey, whatever the number."
    ),
    "scores": "Scores beyond those of then stand in the outermost bins.",
    "moves": (
        "Filled: then; lines: now. Bins from low to high values; none: the feature is missing."
    ),
}
"""What each plot says."""

HEADER: Final = ("column", "PSI", "by chance below", "moved", "missing then", "missing now")


def rendered(report: "DriftReport") -> dict[str, bytes]:
    """The pages as documents, by file name; no PNG where no drift is told."""
    pages = {MARKDOWN: as_markdown(report).encode(), HTML: as_html(report).encode()}
    figure = overview(report)
    return pages if figure is None else pages | {PNG: as_png(figure)}


def as_markdown(report: "DriftReport") -> str:
    """A table and sentences, for a pull request or a log."""
    lines = [f"# {title(report)}", "", *(f"* {sentence}" for sentence in sentences(report))]
    if report.columns:
        lines += ["", *markdown_table(HEADER, rows(report))]
    return "\n".join(lines) + "\n"


def as_html(report: "DriftReport") -> str:
    """One HTML file: no script, nothing from elsewhere; the same report gives the same bytes."""
    plots = [
        {"name": name, "svg": as_svg(figure), "note": NOTES[name]}
        for name, figure in plots_of(report).items()
    ]
    return html_page(
        "drift.html",
        title=title(report),
        sentences=sentences(report),
        plots=plots,
        header=HEADER,
        rows=rows(report),
    )


def title(report: "DriftReport") -> str:
    """Whose drift it is."""
    return f"{report.tenant}, version {report.model_version}: drift"


def sentences(report: "DriftReport") -> list[str]:
    """What was found, and what a reader must know."""
    return [
        report.sentence,
        (
            f"{report.slates_now:,} slates of the last day, {report.degraded_share:.1%} of them "
            f"ordered by time; the model was trained {report.age_days:.1f} days before the last."
        ),
        f"PSI from {report.moderate:g} on is a drift, from {report.large:g} on a large one.",
        *report.notes,
    ]


def rows(report: "DriftReport") -> list[list[str]]:
    """A column a row, as text in the order of `HEADER`."""
    return [
        [
            each.name,
            f"{each.psi:.3f}",
            f"{each.chance:.3f}",
            "" if each.verdict == "none" else each.verdict,
            f"{each.before.missing:.1%}",
            f"{each.now.missing:.1%}",
        ]
        for each in report.columns
    ]
