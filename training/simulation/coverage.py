"""How often counterfactual intervals hold the truth: many communities, each with its own log."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from training.cluster import Workers
from training.evaluation.counterfactual import CounterfactualConfig
from training.simulation.config import SimulationConfig
from training.simulation.policy import Arm
from training.simulation.report import ArmReport
from training.simulation.run import simulate
from training.sources.base import Progress, no_progress

__all__ = ["Coverage", "measure_coverage"]


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """One estimator for one arm over many seeds.

    Of `seeds` communities the interval held the true value in `covered`, and in `refused` nothing
    was said. `width` is the mean width of the intervals, `bias` the mean of estimate less truth,
    `value` the mean truth, all in the worth of a visit.
    """

    arm: str
    estimator: str
    seeds: int
    covered: int
    refused: int
    width: float
    bias: float
    value: float


def measure_coverage(
    config: SimulationConfig,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    workers: Workers,
    counterfactual: CounterfactualConfig | None = None,
    progress: Progress = no_progress,
) -> list[Coverage]:
    """Simulate a community for each seed, the first of the `arms` serving, and count."""
    tasks = [
        workers.submit(_simulated, replace(config, seed=seed), tuple(arms), counterfactual)
        for seed in seeds
    ]
    reports = []
    for number, task in enumerate(tasks):
        progress("communities", number, len(tasks))
        reports.append(task.result())
    progress("communities", len(tasks), len(tasks))
    return [
        found
        for place, arm in enumerate(arms[1:], 1)
        for found in _counted(arm.name, [report[place] for report in reports])
    ]


def _simulated(
    config: SimulationConfig, arms: tuple[Arm, ...], counterfactual: CounterfactualConfig | None
) -> tuple[ArmReport, ...]:
    return simulate(config, arms, counterfactual=counterfactual).report.arms


def _counted(arm: str, reports: Sequence[ArmReport]) -> list[Coverage]:
    told = [each for each in reports if each.estimate is not None and each.estimate.estimates]
    names = [one.name for one in told[0].estimate.estimates] if told else []  # type: ignore[union-attr]
    return [_of(arm, name, told, len(reports)) for name in names]


def _of(arm: str, estimator: str, told: Sequence[ArmReport], seeds: int) -> Coverage:
    ones = [each.estimate.of(estimator) for each in told if each.estimate]
    return Coverage(
        arm=arm,
        estimator=estimator,
        seeds=seeds,
        covered=sum(each.covered[estimator] for each in told),
        refused=seeds - len(told),
        width=float(np.mean([one.interval[1] - one.interval[0] for one in ones])),
        bias=float(np.mean([one.value - each.value for one, each in zip(ones, told, strict=True)])),
        value=float(np.mean([each.value for each in told])),
    )
