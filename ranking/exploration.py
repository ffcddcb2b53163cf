"""Showing now and then what the score would not, to learn from it; with exact propensities.

The propensity of a place is the probability, given the places before it, that the activity stands
there. Over all candidates that are left it adds up to 1, and the product over the places is the
probability of the slate: what counterfactual estimates divide by.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ranking.selectors import Selection

__all__ = ["EpsilonExplorer", "Explorer", "NoExplorer", "Shown"]


@dataclass(frozen=True, slots=True)
class Shown:
    """What the places of a slate hold: indices of candidates, intp[count].

    `propensities` is float64[count], `explored` bool[count] (chance chose it), and `multipliers`
    float64[count] is what the selector did to it (1 where chance chose).
    """

    places: npt.NDArray[np.intp]
    propensities: npt.NDArray[np.float64]
    explored: npt.NDArray[np.bool_]
    multipliers: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """How many places there are."""
        return len(self.places)


class Explorer(Protocol):
    """Decides what is shown, given what was selected."""

    def explore(self, selection: Selection, seed: int) -> Shown:
        """Fill as many places as were selected; the same seed gives the same."""
        ...


@dataclass(frozen=True, slots=True)
class NoExplorer:
    """Shows what was selected."""

    def explore(self, selection: Selection, seed: int) -> Shown:  # noqa: ARG002 - as every explorer
        """The selected ones in their order, each with propensity 1."""
        places = selection.order[: selection.count]
        certain = np.ones(selection.count)
        return Shown(places, certain, np.zeros(len(places), np.bool_), selection.multipliers)


@dataclass(frozen=True, slots=True)
class EpsilonExplorer:
    """In each place, with probability `epsilon`, any candidate that is left, all equally likely.

    Otherwise the first that is left in the selector's order. With m left, the first has propensity
    `1 - epsilon + epsilon / m`, any other `epsilon / m`.
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon is {self.epsilon}: give a probability, 0 to 1")

    def explore(self, selection: Selection, seed: int) -> Shown:
        """Fill the places one by one. Cost: O(places) draws and O(candidates) memory."""
        draws = np.random.default_rng(seed).random((selection.count, 2)).tolist()
        left = list(range(len(selection.order)))
        ranks, propensities, explored = [], [], []
        for by_chance, which in draws:
            chance = by_chance < self.epsilon
            taken = int(which * len(left)) if chance else 0
            propensities.append(self.propensity(taken, len(left)))
            ranks.append(left.pop(taken))
            explored.append(chance)
        multipliers = np.ones(len(selection.order))
        multipliers[: selection.count] = selection.multipliers
        return Shown(
            selection.order[ranks],
            np.array(propensities, dtype=np.float64),
            np.array(explored, dtype=np.bool_),
            np.where(explored, 1.0, multipliers[ranks]),
        )

    def propensity(self, taken: int, left: int) -> float:
        """The probability that candidate `taken` of the `left` that are left comes next."""
        return (1 - self.epsilon) * (taken == 0) + self.epsilon / left
