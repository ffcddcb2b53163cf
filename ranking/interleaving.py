"""Two rankings in one slate: which of them users prefer, with far fewer slates than an A/B test.

Team-draft interleaving (Radlinski, Kurup and Joachims, "How Does Clickthrough Data Reflect
Retrieval Quality?", CIKM 2008): as captains pick teams, the rankings take turns, the first turn of
each round drawn by lot, and each adds its best activity that is not in the slate yet. A click
counts for the ranking whose pick it was. Neither gains by position: over the lots, both have each
place as often.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ranking.errors import InvalidMetricInput
from ranking.metrics import Interval, bootstrap_interval, mean_by_user

__all__ = ["Interleaved", "Team", "preference", "team_draft"]

Team = Literal["first", "second"]


@dataclass(frozen=True, slots=True)
class Interleaved:
    """A slate of two rankings: the activities in order, and whose pick each was."""

    order: tuple[str, ...]
    teams: tuple[Team, ...]

    def credit(self, clicked: Sequence[str]) -> int:
        """How many more clicks the first ranking's picks had than the second's.

        >>> team_draft(["a", "b"], ["b", "a"], 2, seed=1).credit(["a"])
        1
        """
        team_of = dict(zip(self.order, self.teams, strict=True))
        return sum(
            1 if team_of[name] == "first" else -1 for name in set(clicked) if name in team_of
        )


def team_draft(first: Sequence[str], second: Sequence[str], places: int, seed: int) -> Interleaved:
    """Fill `places` places from two orders of distinct names; fewer where both run out.

    The same seed gives the same slate. Raises `InvalidMetricInput` for a name that is twice in one.

    >>> team_draft(["a", "b", "c"], ["c", "a", "d"], 3, seed=1)
    Interleaved(order=('a', 'c', 'b'), teams=('first', 'second', 'first'))
    """
    for order in (first, second):
        if len(set(order)) < len(order):
            raise InvalidMetricInput("an activity stands twice in a ranking: name each once")
    lots = np.random.default_rng(seed)
    taken: dict[str, Team] = {}
    while len(taken) < places:
        turns: list[tuple[Team, Sequence[str]]] = [("first", first), ("second", second)]
        if lots.random() < 0.5:  # noqa: PLR2004 - a fair lot
            turns.reverse()
        before = len(taken)
        for team, order in turns:
            pick = next((name for name in order if name not in taken), None)
            if pick is not None and len(taken) < places:
                taken[pick] = team
        if len(taken) == before:
            break
    return Interleaved(tuple(taken), tuple(taken.values()))


def preference(users: Sequence[str], credit: Sequence[int], seed: int) -> Interval:
    """How much more often the first ranking won a slate than lost it, -1 to 1, over users.

    `credit` has one for each slate (`Interleaved.credit`); slates without a click, or with a draw,
    tell nothing and are left out. The verdict is `better` where the first ranking is preferred.

    >>> preference(["ann", "bob", "cid"], [2, 1, 0], seed=1)
    Interval(mean=1.0, low=1.0, high=1.0, level=0.95, users=2)
    """
    won = np.sign(np.asarray(credit, dtype=np.float64))
    won[won == 0] = np.nan
    return bootstrap_interval(mean_by_user(users, won)[1], seed)
