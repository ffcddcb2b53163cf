"""Showing now and then what the score would not, to learn from it; with exact propensities.

The propensity of a place is the probability, given the places before it, that the activity stands
there. Over all candidates that are left it adds up to 1, and the product over the places is the
probability of the slate: what counterfactual estimates divide by. A place that a rule fixed is left
alone: its activity stands there for certain, and is drawn for no other place.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ranking.selectors import Selection

__all__ = ["EpsilonExplorer", "Explorer", "NoExplorer", "Shown", "ThompsonExplorer", "Trials"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trials:
    """How often each candidate was shown and engaged with, ever: integers, [n] each."""

    engagements: npt.NDArray[np.integer]
    impressions: npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Shown:
    """What the places of a slate hold: indices of candidates, intp[count].

    `propensities` is float64[count], `explored` bool[count] (chance chose it), and `multipliers`
    float64[count] is what the selector did to it (1 where chance chose). `reserve` are all other
    candidates, the best first, and `placed` says which rule gave a candidate its place.
    """

    places: npt.NDArray[np.intp]
    propensities: Floats
    explored: npt.NDArray[np.bool_]
    multipliers: Floats
    reserve: npt.NDArray[np.intp]
    placed: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many places there are."""
        return len(self.places)


class Explorer(Protocol):
    """Decides what is shown, given what was selected."""

    def explore(self, selection: Selection, seed: int, trials: Callable[[], Trials]) -> Shown:
        """Fill as many places as were selected; the same input gives the same.

        Who wants to know the `trials` asks for them.
        """
        ...


@dataclass(frozen=True, slots=True)
class NoExplorer:
    """Shows what was selected."""

    def explore(
        self,
        selection: Selection,
        seed: int,  # noqa: ARG002 - as every explorer
        trials: Callable[[], Trials] | None = None,  # noqa: ARG002
    ) -> Shown:
        """The selected ones in their order, each with propensity 1."""
        places, reserve = selection.order[: selection.count], selection.order[selection.count :]
        certain, chosen = np.ones(len(places)), np.zeros(len(places), np.bool_)
        return Shown(places, certain, chosen, selection.multipliers, reserve, selection.placed)


@dataclass(frozen=True, slots=True)
class EpsilonExplorer:
    """In each place, with probability `epsilon`, any candidate that is left, all equally likely.

    Otherwise the first that is left in the selector's order. With m left, the first has propensity
    `1 - epsilon + epsilon / m`, any other `epsilon / m`.
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        _check_probability("epsilon", self.epsilon)

    def explore(
        self,
        selection: Selection,
        seed: int,
        trials: Callable[[], Trials] | None = None,  # noqa: ARG002 - as every explorer
    ) -> Shown:
        """Fill the places one by one. Cost: O(places) draws and O(candidates) memory."""
        return _filled(selection, seed, self.epsilon, self._choose)

    def propensity(self, taken: int, left: int) -> float:
        """The probability that candidate `taken` of the `left` that are left comes next."""
        return (1 - self.epsilon) * (taken == 0) + self.epsilon / left

    def _choose(self, left: list[int], which: float | None) -> "_Choice":
        taken = 0 if which is None else int(which * len(left))
        return _Choice(taken, self.propensity(taken, len(left)))


GRID: Final = 128
"""Rates of engagement that Thompson sampling tells apart."""

CONSIDERED: Final = 50
"""Candidates, the best that are left, among which Thompson sampling draws a place's."""

_ANGLES: Final = (np.arange(GRID) + 0.5) / GRID * (np.pi / 2)
_LOG_RATE: Final = 2 * np.log(np.sin(_ANGLES))
_LOG_REST: Final = 2 * np.log(np.cos(_ANGLES))


@dataclass(frozen=True, slots=True)
class ThompsonExplorer:
    """In each place, with probability `rate`, whoever draws the highest rate of engagement.

    Each of the best 50 that are left draws from what is known of its rate: a Beta distribution with
    the prior's engagements and the activity's own, the prior's rest and the impressions without
    one, on 128 rates that are denser near 0 and 1. Of equal draws the first in the selector's order
    wins. So the winner's probability is a finite sum, and the winner is drawn by that probability:
    propensities are exact, and 0 beyond the best 50. Otherwise the place goes to the first that is
    left.

    `prior` is the rate to expect of what nobody saw, and `prior_weight` how many impressions that
    counts for.
    """

    rate: float = 0.1
    prior: float = 0.05
    prior_weight: float = 20.0

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        _check_probability("rate", self.rate)

    def explore(self, selection: Selection, seed: int, trials: Callable[[], Trials]) -> Shown:
        """Fill the places one by one. Cost: some 30 us a place, 100 us where chance decides."""
        known, counted = selection.order[: CONSIDERED + selection.count], trials()
        masses = self.masses(counted.engagements[known], counted.impressions[known])
        at_most = np.cumsum(masses, axis=1)

        def choose(left: list[int], which: float | None) -> _Choice:
            ranks = left[:CONSIDERED]
            if which is None:
                others = at_most[ranks[1:]].prod(axis=0)
                first = float((masses[ranks[0]] * others).sum())
                return _Choice(0, (1 - self.rate) + self.rate * first)
            chances = winning(masses[ranks])
            taken = _drawn(chances, which)
            by_rate = self.rate * float(chances[taken])
            return _Choice(taken, (1 - self.rate) * (taken == 0) + by_rate)

        return _filled(selection, seed, self.rate, choose)

    def masses(
        self, engagements: npt.NDArray[np.integer], impressions: npt.NDArray[np.integer]
    ) -> Floats:
        """The probability of each rate, float64[n, 128]: a Beta density in the arcsine scale."""
        hits = self.prior * self.prior_weight + engagements
        misses = (1 - self.prior) * self.prior_weight + np.maximum(impressions - engagements, 0)
        logs = (hits - 0.5)[:, None] * _LOG_RATE + (misses - 0.5)[:, None] * _LOG_REST
        masses = np.exp(logs - logs.max(axis=1, keepdims=True))
        shares: Floats = masses / masses.sum(axis=1, keepdims=True)
        return shares


def winning(masses: Floats) -> Floats:
    """The probability of each row to draw the highest, the first of equals winning, float64[n].

    `masses` is float64[n, k], a row's probability of each of k values; the result adds up to 1.
    """
    at_most = np.cumsum(masses, axis=1)
    below = at_most - masses
    ones = np.ones((1, masses.shape[1]))
    before = np.cumprod(np.concatenate([ones, below[:-1]]), axis=0)
    after = np.cumprod(np.concatenate([ones, at_most[:0:-1]]), axis=0)[::-1]
    chances: Floats = (masses * before * after).sum(axis=1)
    return chances


class _Choice(NamedTuple):
    """Which of those that are left comes next, and how likely that was."""

    taken: int
    propensity: float


def _filled(
    selection: Selection,
    seed: int,
    rate: float,
    choose: Callable[[list[int], float | None], _Choice],
) -> Shown:
    """Fill the places that no rule fixed; where chance decides, `choose` is given a number."""
    draws = np.random.default_rng(seed).random((selection.count, 2)).tolist()
    fixed = _fixed(selection)
    left = [rank for rank in range(len(selection.order)) if rank not in fixed]
    ranks, propensities, explored = [], [], []
    for place, (by_chance, which) in enumerate(draws):
        chance = place not in fixed and by_chance < rate
        if place in fixed:
            rank, propensity = place, 1.0
        else:
            taken, propensity = choose(left, which if chance else None)
            rank = left.pop(taken)
        ranks.append(rank)
        propensities.append(propensity)
        explored.append(chance)
    by_chance_alone = np.array(explored, dtype=np.bool_)
    multipliers = np.ones(len(selection.order))
    multipliers[: selection.count] = selection.multipliers
    return Shown(
        selection.order[ranks],
        np.array(propensities, dtype=np.float64),
        by_chance_alone,
        np.where(by_chance_alone, 1.0, multipliers[ranks]),
        selection.order[left],
        selection.placed,
    )


def _fixed(selection: Selection) -> set[int]:
    """The places that rules gave away."""
    if not selection.placed:
        return set()
    selected = selection.order[: selection.count].tolist()
    return {place for place, candidate in enumerate(selected) if candidate in selection.placed}


def _drawn(chances: Floats, which: float) -> int:
    """The one that a number from 0 to 1 falls on."""
    ends = np.cumsum(chances)
    return int(np.searchsorted(ends[:-1], which * ends[-1], side="right"))


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}: give a probability, 0 to 1")
