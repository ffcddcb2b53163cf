"""The plots of a drift report: how far each column moved, and which way the largest ones did."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from training.drift.histograms import Histogram
from training.evaluation.report_plots import FAINT, INK, MODEL, OTHER, VERDICTS, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from training.drift.measure import Drift, DriftReport

__all__ = ["overview", "plots_of"]

COLUMNS_SHOWN: Final = 20
"""Columns whose index is drawn, those that moved most."""

MOVES_SHOWN: Final = 6
"""Columns whose bins are drawn."""

_ACROSS: Final = 3
_COLOURS: Final = {"none": OTHER, "moderate": "#c98a1b", "large": VERDICTS["worse"]}


def plots_of(report: "DriftReport") -> dict[str, "Figure"]:
    """The plots that the report has data for, by name; none where no drift is told."""
    if not report.columns:
        return {}
    with styled():
        drawn = {"psi": _psi(report)}
        if report.score_shape is not None:
            drawn["scores"] = _scores(report)
        drawn["moves"] = _moves(report.columns)
    return drawn


def overview(report: "DriftReport") -> "Figure | None":
    """Index and scores side by side, for a PNG; None where no drift is told."""
    if not report.columns:
        return None
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second that only reports pay

    with styled():
        shown = min(len(report.columns), COLUMNS_SHOWN)
        figure = Figure(figsize=(11, max(3.4, 1.2 + 0.3 * shown)), layout="constrained")
        panels = 1 if report.score_shape is None else 2
        axes = figure.subplots(1, panels, squeeze=False)[0]
        _draw_psi(axes[0], report)
        if report.score_shape is not None:
            _draw_scores(axes[1], report.score_shape, report.against)
        figure.suptitle(
            f"{report.tenant}, version {report.model_version}: the last day against the "
            f"{report.against}",
            x=0.01,
            ha="left",
            fontsize=11,
        )
    return figure


def _psi(report: "DriftReport") -> "Figure":
    from matplotlib.figure import Figure  # noqa: PLC0415

    shown = min(len(report.columns), COLUMNS_SHOWN)
    figure = Figure(figsize=(7.6, 1.3 + 0.3 * max(shown, 2)), layout="constrained")
    _draw_psi(figure.subplots(), report)
    return figure


def _scores(report: "DriftReport") -> "Figure":
    from matplotlib.figure import Figure  # noqa: PLC0415

    assert report.score_shape is not None
    figure = Figure(figsize=(7.6, 3), layout="constrained")
    _draw_scores(figure.subplots(), report.score_shape, report.against)
    return figure


def _draw_psi(axes: "Axes", report: "DriftReport") -> None:
    """A bar a column, the largest on top, with what chance alone gives as a tick."""
    ranked = sorted(report.columns, key=lambda each: (-each.psi, each.name))
    shown = ranked[:COLUMNS_SHOWN][::-1]
    rows = np.arange(len(shown))
    axes.barh(
        rows,
        [each.psi for each in shown],
        color=[_COLOURS[each.verdict] for each in shown],
        height=0.62,
    )
    axes.plot([each.chance for each in shown], rows, "|", color=INK, markersize=9)
    for row, each in zip(rows.tolist(), shown, strict=True):
        axes.text(max(each.psi, each.chance), row, f"  {each.psi:.2f}", va="center", fontsize=8.5)
    top = max(1.25 * report.large, 1.18 * max(max(each.psi, each.chance) for each in shown))
    for limit, name in ((report.moderate, "moved"), (report.large, "a lot")):
        axes.axvline(limit, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axes.text(limit, len(shown) - 0.42, f" {name}: {limit:g}", fontsize=8, va="bottom")
    axes.set_xlim(0, top)
    axes.set_ylim(-0.6, len(shown) + 0.25)
    axes.set_yticks(rows, [each.name for each in shown])
    for label, each in zip(axes.get_yticklabels(), shown, strict=True):
        label.set_fontweight("bold" if each.name == "score" else "normal")
    more = len(ranked) - len(shown)
    axes.set_xlabel("PSI; the tick is what chance alone stays below, 95 %")
    axes.set_title(f"How far each column moved{f' (and {more} more)' if more else ''}")
    _clean(axes)


def _draw_scores(axes: "Axes", shape: tuple[Histogram, Histogram], against: str) -> None:
    """The share of rows by score, in bins of equal width; what lies beyond is in the outer bins."""
    before, now = shape
    if len(before.edges) < 2:  # noqa: PLR2004 - one score, or none: no width to draw
        axes.text(0.5, 0.5, "all scores are one number", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    edges = np.asarray(before.edges)
    first, last = (_inside(each) for each in (before, now))
    axes.stairs(first, edges, fill=True, color=FAINT, label=f"then ({against})")
    axes.stairs(first, edges, color=OTHER, linewidth=1)
    axes.stairs(last, edges, color=MODEL, linewidth=1.8, label="now (last day)")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("score of the model")
    axes.set_ylabel("share of rows")
    axes.set_title("Scores, then and now")
    axes.legend(frameon=False)
    _clean(axes)


def _inside(histogram: Histogram) -> np.ndarray:
    """The shares between the edges, with what lies below and above them in the outer ones."""
    shares = histogram.shares[:-1]
    inner = shares[1:-1].copy()
    inner[0] += shares[0]
    inner[-1] += shares[-1]
    found: np.ndarray = inner
    return found


def _moves(columns: Sequence["Drift"]) -> "Figure":
    """Share of the rows in each bin, then and now, of the columns that moved most."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    shown = sorted(columns, key=lambda each: (-each.psi, each.name))[:MOVES_SHOWN]
    rows = -(-len(shown) // _ACROSS)
    figure = Figure(figsize=(7.6, 0.5 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, _ACROSS, squeeze=False).ravel()
    for axes, each in zip(grid, shown, strict=False):
        bins = len(each.before.edges) + 1
        places = np.append(np.arange(bins), bins + 1.2)  # the missing stand apart
        axes.bar(places, each.before.shares, width=0.9, color=FAINT)
        axes.hlines(each.now.shares, places - 0.45, places + 0.45, color=MODEL, linewidth=2)
        axes.set_title(f"{each.name}, {each.psi:.2f}", fontsize=8.5)
        axes.set_xticks([0, bins - 1, bins + 1.2], ["low", "high", "none"], fontsize=7.5)
        axes.tick_params(axis="y", labelsize=7.5)
        axes.set_ylim(bottom=0)
        _clean(axes)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    return figure


def _clean(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)
