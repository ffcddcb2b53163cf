"""P5: simulated communities with a known truth: regret falls, and intervals hold the truth.

Models that learn from ever more days of a community are judged at the same visits, against the best
slates there were. And the counterfactual estimate of other rankings, from the slate log of one that
explores, is set beside their true value, in one community after another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ranking.config import RankingConfig
from ranking.metrics import Interval, bootstrap_interval, paired_difference
from ranking.scorers.popularity import PopularityScorer
from training.cluster import open_workers
from training.evaluation.counterfactual import CounterfactualConfig
from training.protocols.base import Check, Figure, ProtocolOptions, ProtocolReport
from training.simulation.config import SimulationConfig
from training.simulation.coverage import Coverage, measure_coverage
from training.simulation.learning import LearningPoint, learning_curve
from training.simulation.policy import Arm, default_arms
from training.sources.base import Progress

__all__ = ["TITLE", "run"]

TITLE = "simulated communities: regret against the best slates, estimates against the truth"

COVERED_SHARE = 0.9
"""Share of the communities whose intervals must hold the true value, of every estimator."""

EXPLORED_RATE = 0.8
"""Share of places that chance fills in the logs that the estimates are made from."""

CANDIDATES = 12
"""Candidates of a visit in those communities: the newest of what the member follows."""

CONVENTIONS = (
    (
        "Values are the true worth of a visit: a click 1, a like 1 more, a hide -1, each by its "
        "probability, where a place is looked at with probability (1 / place) ** 0.7."
    ),
    (
        "Regret is what the slates of a model lack to the best slates of all that is new to the "
        "member, at the same visits for every model; intervals are from a bootstrap of members."
    ),
    (
        "Models learn from served slates whose log explores in three places of ten: a logistic "
        "regression for each kind of reaction, with the place as a feature that serving holds "
        "constant."
    ),
    "The share of communities whose interval holds the truth counts a refusal as a miss.",
)


@dataclass(frozen=True, slots=True)
class _Form:
    """How much is simulated."""

    learning: SimulationConfig
    learning_days: tuple[int, ...]
    learning_seeds: int
    coverage: SimulationConfig
    coverage_seeds: int
    scheduler: str | None


_LONG = _Form(
    learning=SimulationConfig(users=100),
    learning_days=(4, 8, 16, 32),
    learning_seeds=4,
    coverage=SimulationConfig(users=120, days=6, places=5),
    coverage_seeds=100,
    scheduler=None,
)
_SHORT = _Form(
    learning=SimulationConfig(users=40, topics=4),
    learning_days=(10,),
    learning_seeds=1,
    coverage=SimulationConfig(users=60, days=5, places=5),
    coverage_seeds=6,
    scheduler="inline",
)


def run(options: ProtocolOptions, progress: Progress) -> ProtocolReport:
    """Simulate the communities, train, estimate, and count."""
    form = _SHORT if options.short else _LONG
    with open_workers(form.scheduler) as workers:
        curves = [
            workers.submit(_curve, replace(form.learning, seed=options.seed + number), form)
            for number in range(form.learning_seeds)
        ]
        learnt = []
        for number, curve in enumerate(curves):
            progress("learning", number, len(curves))
            learnt.append(curve.result())
        seeds = range(options.seed, options.seed + form.coverage_seeds)
        counterfactual = CounterfactualConfig(draws=options.draws)
        covered = measure_coverage(
            form.coverage, _logged_arms(), seeds, workers, counterfactual, progress
        )
    points = [list(point) for point in zip(*learnt, strict=True)]
    return ProtocolReport(
        protocol="p5",
        title=TITLE,
        unit="regret, or share",
        figures=(
            *(_regret(point, options) for point in points),
            *(_coverage(found) for found in covered),
        ),
        verdicts=tuple(_beside(found) for found in covered),
        checks=(*_falls(points, options), *(_covers(found) for found in covered)),
        conventions=CONVENTIONS,
        counts={
            "communities that taught": len(learnt),
            "members of each": form.learning.users,
            "communities that were estimated": form.coverage_seeds,
            "members of those": form.coverage.users,
        },
    )


def _curve(config: SimulationConfig, form: _Form) -> list[LearningPoint]:
    return learning_curve(config, default_arms()[0], form.learning_days, judged_days=2)


def _logged_arms() -> tuple[Arm, ...]:
    """One that explores and serves, and two to estimate from its log, of the same candidates."""

    def config(exploration: dict[str, Any]) -> RankingConfig:  # Any: JSON
        sources = {"following": {"quota": CANDIDATES}, "trending": {"on": False}}
        return RankingConfig.parse(
            {"personalized": {"sources": sources, "exploration": exploration}}
        )

    plain = config({"policy": "none"})
    return (
        Arm("exploring", config({"policy": "epsilon", "rate": EXPLORED_RATE})),
        Arm("newest", plain),
        Arm("popular", plain, scorer=PopularityScorer()),
    )


def _regrets(points: Sequence[LearningPoint]) -> list[float]:
    """The regret of every member of every community, in an order that all points share."""
    return [regret for point in points for regret in point.regrets]


def _regret(points: Sequence[LearningPoint], options: ProtocolOptions) -> Figure:
    found = bootstrap_interval(_regrets(points), options.seed, draws=options.draws)
    events = np.mean([point.events for point in points])
    name = f"regret after {events:,.0f} events" if events else "regret, newest first"
    return Figure(name=name, value=found.mean, interval=(found.low, found.high))


def _falls(points: Sequence[Sequence[LearningPoint]], options: ProtocolOptions) -> list[Check]:
    """The last model lacks less than no model and the first; none more than the one before."""
    regrets = [_regrets(point) for point in points]

    def difference(one: int, other: int) -> Interval:
        return paired_difference(regrets[one], regrets[other], options.seed, draws=options.draws)

    last = len(points) - 1
    checks = []
    for other in sorted({0, min(1, last - 1)}):
        fall = difference(last, other)
        checks.append(
            Check(
                fall.high < 0,
                f"Regret after {points[last][0].days} days is less than after "
                f"{points[other][0].days}: {_told(fall)}",
            )
        )
    for place in range(2, len(points)):
        step = difference(place, place - 1)
        checks.append(
            Check(
                step.low <= 0,
                f"Regret after {points[place][0].days} days is not above that after "
                f"{points[place - 1][0].days}: {_told(step)}",
            )
        )
    return checks


def _told(difference: Interval) -> str:
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def _coverage(found: Coverage) -> Figure:
    return Figure(
        name=f"{found.arm}: {found.estimator} holds the truth",
        value=found.covered / found.seeds,
        least=COVERED_SHARE,
    )


def _covers(found: Coverage) -> Check:
    return Check(
        found.covered >= COVERED_SHARE * found.seeds,
        f"The interval of {found.estimator} for {found.arm} holds the true value in "
        f"{found.covered} of {found.seeds} communities",
    )


def _beside(found: Coverage) -> str:
    return (
        f"{found.arm} by {found.estimator}: truth {found.value:.3f}, estimates {found.bias:+.3f} "
        f"from it on average, intervals {found.width:.3f} wide, {found.refused} refused."
    )
