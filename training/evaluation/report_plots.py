"""The plots of an evaluation report, as matplotlib figures that are drawn without a display.

One colour is the model's; what it is compared with is grey. Words stand beside what they name, and
no plot needs a legend that is longer than it.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from training.evaluation.rankings import BASELINES, RankerResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from training.evaluation.report import EvaluationReport

__all__ = ["FAINT", "INK", "MODEL", "OTHER", "VERDICTS", "as_png", "as_svg", "plots_of", "styled"]

MODEL: Final = "#1f6f8b"
OTHER: Final = "#8a8f98"
FAINT: Final = "#d9dce1"
INK: Final = "#22262b"
VERDICTS: Final = {"better": "#2e7d4f", "level": "#8a8f98", "worse": "#b3423a"}

WIDTH: Final = 7.6
IMPORTANT_MAX: Final = 12
"""Features that the plot of importance names."""

_STYLE: Final[Any] = {  # Any: matplotlib names every key it takes
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "svg.hashsalt": "headwater",  # the same report gives the same file
}


def styled() -> AbstractContextManager[None]:
    """What is drawn within looks like the plots here."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second that only reports pay

    return mpl.rc_context(_STYLE)


def plots_of(report: "EvaluationReport") -> dict[str, "Figure"]:
    """The plots that the report has data for, by name."""
    with styled():
        drawn = {"intervals": _intervals(report), "reach": _reach(report)}
        if report.bands:
            drawn["bands"] = _bands(report)
        if report.reliability is not None:
            drawn["reliability"] = _reliability(report)
        drawn["catalogue"] = _catalogue(report)
        if report.importance:
            drawn["importance"] = _importance(report.importance)
    return drawn


def as_svg(figure: "Figure") -> str:
    """The figure as an SVG element, to stand in an HTML page."""
    stream = io.StringIO()
    with styled():
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def as_png(figure: "Figure", dpi: int = 150) -> bytes:
    """The figure as the bytes of a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi)
    return stream.getvalue()


def _intervals(report: "EvaluationReport") -> "Figure":
    """NDCG of every ranking with its interval; and the model's difference to each baseline."""
    rankers = sorted(report.rankers, key=lambda ranker: ranker.ndcg)
    compared = _compared(report)
    figure, (left, right) = _axes(
        2, max(len(rankers), len(compared)) + (report.live is not None), ratios=(1.15, 1)
    )
    rows = list(range(len(rankers)))
    for row, ranker in zip(rows, rankers, strict=True):
        colour = MODEL if ranker.name == report.model else OTHER
        _whisker(left, row, ranker.ndcg, ranker.interval, colour)
    names = [ranker.name for ranker in rankers]
    if report.live is not None:
        rows.append(len(rows))
        names.append(f"live (version {report.live.version})")
        left.plot(report.live.ndcg, rows[-1], "D", color=INK, markersize=5)
        _number_above(left, rows[-1], report.live.ndcg)
    _rows(left, names, bold=report.model)
    left.set_xlim(left=0)
    left.set_title(f"NDCG@{report.k}, 95 % interval over users")
    right.axvline(0, color=INK, linewidth=0.8)
    for row, (_, value, interval, verdict) in enumerate(compared):
        _whisker(right, row, value, interval, VERDICTS[verdict])
    _rows(right, [f"to {name}" for name, *_ in compared])
    right.set_title(f"{report.model}: difference")
    return figure


def _compared(
    report: "EvaluationReport",
) -> list[tuple[str, float, tuple[float, float], str]]:
    """What the model is compared with: name, difference, interval and verdict, the least first."""
    found = [
        (one.baseline, one.difference, one.interval, one.verdict)
        for one in report.result.comparisons
    ]
    if (live := report.live) is not None:
        low, high = live.interval
        verdict = "better" if low > 0 else "worse" if high < 0 else "level"
        found.append(("live", live.difference, live.interval, verdict))
    return sorted(found, key=lambda one: one[1])


def _reach(report: "EvaluationReport") -> "Figure":
    """Of what users touched, the share that was a candidate at all."""
    shares = {part.name: part.reach for part in report.parts}
    if report.explore is not None:
        shares["explore (test)"] = report.explore.reach
    figure, (axes,) = _axes(1, len(shares))
    for row, share in enumerate(reversed(shares.values())):
        axes.barh(row, 1, color=FAINT, height=0.55)
        axes.barh(row, share, color=MODEL, height=0.55)
        axes.text(1.015, row, f"{share:.0%}", va="center")
    _rows(axes, list(reversed(shares)))
    axes.set_xlim(0, 1.08)
    axes.set_xticks([])
    axes.set_title("Reach: share of what users touched that was a candidate")
    return figure


def _bands(report: "EvaluationReport") -> "Figure":
    """NDCG by how much users had engaged before, of the model and the baselines."""
    figure, (axes,) = _axes(1, 6)
    bands = report.bands
    names = [ranker.name for ranker in bands[0].rankers]
    shift = 0.7 / max(len(names), 1)
    greys = dict(zip(BASELINES, ("#c3c7cd", "#a4a9b1", "#7d838c", "#565b63"), strict=True))
    for number, name in enumerate(names):
        colour = greys.get(name, MODEL)
        places = [place + (number - (len(names) - 1) / 2) * shift for place in range(len(bands))]
        results = [_of(band.rankers, name) for band in bands]
        values = [result.ndcg for result in results]
        below = [max(r.ndcg - r.interval[0], 0) for r in results]
        above = [max(r.interval[1] - r.ndcg, 0) for r in results]
        axes.errorbar(
            places, values, [below, above], fmt="o", color=colour, label=name, markersize=5
        )
    labels = [f"{band.name}\n{band.users} users, {band.requests} requests" for band in bands]
    axes.set_xticks(range(len(bands)), labels)
    axes.set_xlim(-0.6, len(bands) - 0.4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"NDCG@{report.k}")
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_title("By what the user had engaged with before")
    axes.legend(frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    return figure


def _reliability(report: "EvaluationReport") -> "Figure":
    """Predicted probabilities beside what came true."""
    curve = report.reliability
    assert curve is not None
    figure, (axes,) = _axes(1, 8, width=4.6)
    top = max((*curve.predicted, *curve.observed, 1e-6)) * 1.08
    axes.plot([0, top], [0, top], color=OTHER, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(top * 0.93, top * 0.97, "as predicted", ha="right", va="bottom", color=OTHER)
    axes.plot(curve.predicted, curve.observed, "o-", color=MODEL, markersize=5, linewidth=1.2)
    for scale in (axes.set_xscale, axes.set_yscale):  # most probabilities are small
        scale("function", functions=(_root, _square))
    axes.set_xlim(0, top)
    axes.set_ylim(0, top * 1.08)
    axes.set_xlabel("predicted probability (square root scale)")
    axes.set_ylabel("observed share")
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_title(f"Reliability, ECE {curve.error:.4f}")
    return figure


def _root(values: Any) -> Any:  # Any: whatever matplotlib scales
    return np.sqrt(np.maximum(values, 0))


def _square(values: Any) -> Any:  # Any: as above
    return np.square(values)


def _catalogue(report: "EvaluationReport") -> "Figure":
    """Coverage, novelty and Gini of every ranking."""
    rankers = list(reversed(report.rankers))
    panels: Sequence[tuple[str, Mapping[str, float | None]]] = (
        ("coverage", {r.name: r.coverage for r in rankers}),
        ("novelty, bits", {r.name: r.novelty for r in rankers}),
        ("Gini", {r.name: r.gini for r in rankers}),
    )
    figure, axes = _axes(3, len(rankers), share_y=True)
    for number, (one, (title, values)) in enumerate(zip(axes, panels, strict=True)):
        for row, (name, value) in enumerate(values.items()):
            colour = MODEL if name == report.model else FAINT
            one.barh(row, value or 0.0, color=colour, height=0.6)
            one.text(value or 0.0, row, f" {_number(value)}", va="center", fontsize=8.5)
        one.set_xlim(0, max((value or 0 for value in values.values()), default=1) * 1.3 or 1)
        one.set_xticks([])
        one.set_title(title)
        if not number:
            _rows(one, list(values), bold=report.model)
    return figure


def _importance(importance: Mapping[str, float]) -> "Figure":
    """The features that move the score most."""
    shown = list(importance.items())[:IMPORTANT_MAX][::-1]
    figure, (axes,) = _axes(1, len(shown))
    axes.barh(range(len(shown)), [size for _, size in shown], color=MODEL, height=0.6)
    _rows(axes, [name for name, _ in shown])
    axes.set_xlabel("mean absolute contribution to the score")
    more = len(importance) - len(shown)
    axes.set_title(f"What moves the score{f' (and {more} more features)' if more > 0 else ''}")
    return figure


def _axes(
    panels: int,
    rows: int,
    *,
    width: float = WIDTH,
    ratios: Sequence[float] | None = None,
    share_y: bool = False,
) -> tuple["Figure", Sequence["Axes"]]:
    """A figure with panels side by side, high enough for so many rows."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, 1.1 + 0.34 * max(rows, 2)), layout="constrained")
    grid = figure.subplots(1, panels, squeeze=False, width_ratios=ratios, sharey=share_y)
    for axes in grid[0]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=0)
    return figure, list(grid[0])


def _whisker(
    axes: "Axes", row: int, value: float, interval: tuple[float, float], colour: str
) -> None:
    """A value with its interval, and the number above it."""
    axes.plot(interval, (row, row), color=colour, linewidth=2.2, solid_capstyle="round")
    axes.plot(value, row, "o", color=colour, markersize=6)
    _number_above(axes, row, value)


def _number_above(axes: "Axes", row: int, value: float) -> None:
    axes.annotate(
        f"{value:.3f}",
        (value, row),
        (0, 6),
        textcoords="offset points",
        ha="center",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
    )


def _rows(axes: "Axes", names: Sequence[str], bold: str = "") -> None:
    """Names of the rows from the bottom up."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.spines["left"].set_visible(False)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name == bold else "normal")


def _of(rankers: Sequence[RankerResult], name: str) -> RankerResult:
    return next(ranker for ranker in rankers if ranker.name == name)


def _number(value: Any) -> str:  # Any: a number or None
    return "none" if value is None else f"{value:.2f}"
