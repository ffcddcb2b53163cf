"""A simulation as pictures: value and regret per day, estimates against the truth, learning."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from training.simulation.learning import LearningPoint
    from training.simulation.report import SimulationReport

__all__ = ["plot_days", "plot_estimates", "plot_learning", "save_plots"]

_DPI = 120
_SHIFT = 0.22


def save_plots(report: "SimulationReport", out: Path) -> list[Path]:
    """`days.png` and `estimates.png` in a directory that exists; returns their paths."""
    drawn = {"days.png": plot_days(report), "estimates.png": plot_estimates(report)}
    return [_saved(figure, out / name) for name, figure in drawn.items()]


def plot_days(report: "SimulationReport") -> Any:  # Any: a matplotlib figure
    """The value of a visit, day by day: left for the same visits, right where an arm served."""
    lived = [arm for arm in report.arms if arm.lived]
    figure, panels = _figure(2 if lived else 1)
    days = [day.day for day in report.days]
    left = panels[0]
    left.plot(days, [day.optimum for day in report.days], "k--", label="the best slates")
    for arm in report.arms:
        label = f"{arm.name} (served)" if arm.name == report.serving else arm.name
        left.plot(days, [day.arms[arm.name] for day in report.days], label=label)
    _labelled(left, "Slates for the same visits", "day", "true value of a visit")
    if lived:
        right = panels[1]
        served = [day.served for day in report.days]
        right.plot(days, served, label=f"{report.serving} (served)")
        for arm in lived:
            right.plot(range(len(arm.lived)), arm.lived, label=arm.name)
        _labelled(right, "Had it served from the start", "day", "true value of a visit")
    return figure


def plot_estimates(report: "SimulationReport") -> Any:  # Any: a matplotlib figure
    """What the log says of each arm, with intervals, and the truth beside it."""
    judged = [arm for arm in report.arms if arm.estimate and arm.estimate.estimates]
    figure, (axes,) = _figure(1)
    names = [one.name for one in judged[0].estimate.estimates] if judged else []  # type: ignore[union-attr]
    for number, name in enumerate(names):
        ones = [arm.estimate.of(name) for arm in judged if arm.estimate]
        values = [one.value for one in ones]
        below = [one.value - one.interval[0] for one in ones]
        above = [one.interval[1] - one.value for one in ones]
        heights = [row + (number - (len(names) - 1) / 2) * _SHIFT for row in range(len(judged))]
        axes.errorbar(values, heights, xerr=[below, above], fmt="o", capsize=3, label=name)
    axes.plot([arm.value for arm in judged], range(len(judged)), "k|", ms=34, label="truth")
    axes.axvline(report.of(report.serving).value, color="grey", ls=":", label="served")
    axes.set_yticks(range(len(judged)), [arm.name for arm in judged])
    axes.margins(y=0.35)
    _labelled(axes, "Estimates from the slate log, 95 % intervals", "value of a visit", "")
    return figure


def plot_learning(points: Sequence["LearningPoint"]) -> Any:  # Any: a matplotlib figure
    """Regret of models by the events that they were trained on, beside that of no model."""
    figure, (axes,) = _figure(1)
    points, untrained = [p for p in points if p.events], [p for p in points if not p.events]
    low = [max(point.regret - point.interval[0], 0) for point in points]
    high = [max(point.interval[1] - point.regret, 0) for point in points]
    events = [point.events for point in points]
    axes.errorbar(events, [point.regret for point in points], yerr=[low, high], fmt="o-", capsize=3)
    for point in points:
        axes.annotate(point.model, (point.events, point.regret), (4, 6), textcoords="offset points")
    for point in untrained:
        axes.axhline(point.regret, color="grey", ls=":", label=f"{point.model}, without a model")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    _labelled(axes, "Regret against the best slates", "events trained on", "value of a visit lost")
    return figure


def _figure(panels: int) -> tuple[Any, Sequence[Any]]:  # Any: a figure and its axes
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second that only plots pay

    figure = Figure(figsize=(6 * panels, 4), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False, sharey=True)[0]


def _labelled(axes: "Axes", title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _saved(figure: Any, path: Path) -> Path:  # Any: a matplotlib figure
    figure.savefig(path, dpi=_DPI)
    return path
