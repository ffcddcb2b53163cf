"""What is done to scores by rule, after the scorer: named multipliers that the explanation shows.

A model's scores have no natural zero, so a multiplier acts on the lift of a score over the lowest
of the window: the best 4 candidates for each place, and 100 at least. Adding a constant to all
scores changes nothing, what lies below the window stays where it is, and a multiplier below 1 never
raises anything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from feeds.counters import DAY_US
from ranking.candidates import Candidates, Query
from ranking.follows import followed
from ranking.interning import UNKNOWN, Interner
from ranking.selectors import Scores, window_size
from ranking.table import ActivityTable

__all__ = [
    "Adjusted",
    "Adjustment",
    "OutOfNetworkMultiplier",
    "ShowLessMultiplier",
    "ShowMoreMultiplier",
    "adjust",
]

Multipliers = npt.NDArray[np.float64]


class Adjustment(Protocol):
    """Multiplies what some candidates are worth."""

    @property
    def name(self) -> str:
        """The adjustment's name, such as `out_of_network`; it stands in the explanation."""
        ...

    def multipliers(
        self, query: Query, candidates: Candidates, table: ActivityTable
    ) -> Multipliers | None:
        """float64[n], not below 0; None where it has nothing to say."""
        ...


@dataclass(frozen=True, slots=True)
class Adjusted:
    """Scores after the adjustments, float[n], and what each of them multiplied by, float64[n]."""

    scores: Scores
    multipliers: Mapping[str, Multipliers] = field(default_factory=dict)


def adjust(
    adjustments: Sequence[Adjustment],
    scores: npt.NDArray[np.float32],
    query: Query,
    candidates: Candidates,
    table: ActivityTable,
) -> Adjusted:
    """Apply every adjustment to the lifts of the scores; scores that are no numbers stay so.

    Where no adjustment has anything to say, the scores come back as they are, bit for bit.
    """
    said = {each.name: each.multipliers(query, candidates, table) for each in adjustments}
    multipliers = {name: column for name, column in said.items() if column is not None}
    finite = np.isfinite(scores)
    if not multipliers or not finite.any():
        return Adjusted(scores, multipliers)
    base = _base(scores[finite], window_size(query.limit))
    exact = scores.astype(np.float64)
    lifted = finite & (scores > base)
    product = np.prod(list(multipliers.values()), axis=0)
    exact[lifted] = base + (exact[lifted] - base) * product[lifted]
    return Adjusted(exact, multipliers)


def _base(finite: npt.NDArray[np.float32], window: int) -> float:
    """The lowest score of the window."""
    behind = max(len(finite) - window, 0)
    return float(np.partition(finite, behind)[behind])


@dataclass(frozen=True, slots=True)
class OutOfNetworkMultiplier:
    """What is neither in a followed feed nor by a followed author counts less, or more."""

    multiplier: float = 0.75
    name: str = "out_of_network"

    def multipliers(
        self, query: Query, candidates: Candidates, table: ActivityTable
    ) -> Multipliers | None:
        """`multiplier` outside of the user's follows, 1 inside; nothing without follows."""
        if not query.follows:
            return None
        return np.where(followed(query, table)(candidates.rows), 1.0, self.multiplier)


@dataclass(frozen=True, slots=True)
class ShowLessMultiplier:
    """An author or tag of which the user wanted less comes back slowly.

    `removed_days` after saying so (until then a filter removes it) it counts `floor` times, and
    grows in a straight line to 1 over `recovery_days`. The lowest of author and tags holds.
    """

    removed_days: float = 14.0
    recovery_days: float = 140.0
    floor: float = 0.2
    name: str = "show_less"

    def multipliers(
        self, query: Query, candidates: Candidates, table: ActivityTable
    ) -> Multipliers | None:
        """The multiplier of each candidate; nothing where the user did not say so."""
        said = query.feedback.less_authors, query.feedback.less_tags
        return _said(said, self.recovered, np.minimum, query, candidates, table)

    def recovered(self, days: float) -> float:
        """The multiplier so many days after the user said so.

        >>> [round(ShowLessMultiplier().recovered(days), 3) for days in (0, 14, 84, 154, 200)]
        [0.2, 0.2, 0.6, 1.0, 1.0]
        """
        share = min(max((days - self.removed_days) / self.recovery_days, 0.0), 1.0)
        return self.floor + (1 - self.floor) * share


@dataclass(frozen=True, slots=True)
class ShowMoreMultiplier:
    """An author or tag of which the user wanted more counts more, and less so as time goes by.

    It counts `multiplier` times at first, and falls in a straight line to 1 over `days`. The
    highest of author and tags holds.
    """

    multiplier: float = 1.5
    days: float = 140.0
    name: str = "show_more"

    def multipliers(
        self, query: Query, candidates: Candidates, table: ActivityTable
    ) -> Multipliers | None:
        """The multiplier of each candidate; nothing where the user did not say so."""
        said = query.feedback.more_authors, query.feedback.more_tags
        return _said(said, self.faded, np.maximum, query, candidates, table)

    def faded(self, days: float) -> float:
        """The multiplier so many days after the user said so.

        >>> [round(ShowMoreMultiplier().faded(days), 3) for days in (0, 70, 140, 200)]
        [1.5, 1.25, 1.0, 1.0]
        """
        share = min(max(days / self.days, 0.0), 1.0)
        return self.multiplier + (1 - self.multiplier) * share


def _said(
    said: tuple[Mapping[str, int], Mapping[str, int]],
    value: Callable[[float], float],
    extreme: np.ufunc,
    query: Query,
    candidates: Candidates,
    table: ActivityTable,
) -> Multipliers | None:
    """The extreme of author and tags, by what was said when of authors and of tags.

    `value` is by the days since then; None where nothing was said.
    """
    authors, tags = said
    if not (authors or tags):
        return None
    by_author = _by_number(table.names.authors, authors, query.now_us, value)
    by_tag = _by_number(table.names.tags, tags, query.now_us, value)
    of_tags = extreme.reduce(by_tag[table.tags[candidates.rows]], axis=1)
    found: Multipliers = extreme(by_author[table.author[candidates.rows]], of_tags)
    return found


def _by_number(
    names: Interner, said: Mapping[str, int], now_us: int, value: Callable[[float], float]
) -> Multipliers:
    """The value of each name by the days since it was said, float64[names + 1]; 1 of the others."""
    by_number = np.ones(names.size + 1)
    by_number[names.numbers(said)] = [
        value((now_us - time_us) / DAY_US) for time_us in said.values()
    ]
    by_number[UNKNOWN] = 1.0
    return by_number
