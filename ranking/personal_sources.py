"""Sources that start from the user: whom and what the user follows, likes and was near to. Pure.

Each looks at a bounded number of rows, those active last, and leaves out what it has nothing to say
of, so that a source whose ground is missing (no follows, no engagements, no factors) proposes
nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from feeds.counters import DAY_US
from feeds.model import Position
from ranking.candidates import Query
from ranking.extractors.base import Column, Factors
from ranking.follows import followed_users
from ranking.interning import UNKNOWN
from ranking.sources import Mask, Rows, first_rows, latest_active, left_out, proposed_max
from ranking.table import ActivityTable
from ranking.vectors import Vectors, unit_vectors

__all__ = [
    "SCANNED_MAX",
    "EditorialSource",
    "FactorsSource",
    "SecondDegreeSource",
    "SimilarSource",
    "SimilarVectorsSource",
    "TopicsSource",
]

SCANNED_MAX: Final = 10_000
"""Rows that a source looks at, the latest active ones."""

_LIKENESS_MIN: Final = 1e-9
"""Below this a likeness is none: rounding of vectors that have nothing in common."""


@dataclass(frozen=True, slots=True)
class EditorialSource:
    """What the app promotes, in its order; what the table does not hold is left out."""

    activities: Sequence[Position]
    quota: int = 100
    name: str = "editorial"

    def propose(self, query: Query, table: ActivityTable) -> Rows:
        """The rows of the promoted activities."""
        del query
        rows = table.rows(self.activities)
        held: Rows = rows[rows != UNKNOWN][: proposed_max(self.quota)]
        return held


@dataclass(frozen=True, slots=True)
class SecondDegreeSource:
    """What most of those whom the user follows engaged with in the last days.

    Of an activity the last 16 who engaged are known. Cost: O(rows * 16) in numpy.
    """

    quota: int = 100
    days: float = 14.0
    outside: bool = False
    """Leave out what the user follows: the feeds, and the authors."""
    name: str = "second_degree"

    def propose(self, query: Query, table: ActivityTable) -> Rows:
        """The rows that followed users engaged with, the one with the most of them first."""
        users = followed_users(query, table)
        if not users.any():
            return _nothing()
        rows = _engaged_lately(query, self.days, table)
        return _by_worth(
            self.quota,
            rows,
            users[table.engagers.take(rows, axis=0)].sum(axis=1),
            table,
            left_out(query, table, self.outside),
        )


@dataclass(frozen=True, slots=True)
class TopicsSource:
    """Activities with the tags that the user engages with, of the last days.

    A tag is worth the user's engagements with it, halved for every half-life since the last; an
    activity is worth its tags together. Cost: O(rows * 8) in numpy.
    """

    quota: int = 100
    days: float = 14.0
    half_life_days: float = 30.0
    outside: bool = False
    """Leave out what the user follows: the feeds, and the authors."""
    name: str = "topics"

    def propose(self, query: Query, table: ActivityTable) -> Rows:
        """The rows with the user's tags, the one whose tags are worth most first."""
        liked = {tag: met for tag, met in query.record.tags.items() if met.engagements}
        if not liked:
            return _nothing()
        worth = np.zeros(table.names.tags.size + 1)
        ages = [max(query.now_us - met.last_us, 0) / DAY_US for met in liked.values()]
        shares = np.exp2(-np.array(ages) / self.half_life_days)
        counts = np.array([met.engagements for met in liked.values()])
        worth[table.names.tags.numbers(liked)] = counts * shares
        worth[UNKNOWN] = 0.0
        rows = latest_active(query.now_us - int(self.days * DAY_US), table, SCANNED_MAX)
        return _by_worth(
            self.quota,
            rows,
            worth[table.tags.take(rows, axis=0)].sum(axis=1),
            table,
            left_out(query, table, self.outside),
        )


@dataclass(frozen=True, slots=True)
class SimilarSource:
    """Activities that others engaged with who engaged with what the user engaged with last.

    Starts from the last `seeds` activities. A user weighs as many of them as they engaged with; an
    activity is worth the weights of the last 16 who engaged with it, over the square root of how
    many these are, so that one which everybody likes is not like everything. Cost: O(rows * 16) in
    numpy.
    """

    quota: int = 100
    seeds: int = 20
    days: float = 30.0
    outside: bool = False
    """Leave out what the user follows: the feeds, and the authors."""
    name: str = "similar"

    def propose(self, query: Query, table: ActivityTable) -> Rows:
        """The rows that are most alike to the seeds; these are left out."""
        seeds = _seeds(query, self.seeds, table)
        weights = np.zeros(table.names.users.size + 1)
        np.add.at(weights, table.engagers[seeds], 1.0)
        weights[[table.names.users.get(query.user), UNKNOWN]] = 0.0
        if not weights.any():
            return _nothing()
        rows = _engaged_lately(query, self.days, table)
        rows = rows[~np.isin(rows, seeds)]
        engagers = table.engagers.take(rows, axis=0)
        many = np.maximum((engagers != UNKNOWN).sum(axis=1), 1)
        return _by_worth(
            self.quota,
            rows,
            weights[engagers].sum(axis=1) / np.sqrt(many),
            table,
            left_out(query, table, self.outside),
        )


@dataclass(frozen=True, slots=True)
class SimilarVectorsSource:
    """Activities whose vectors point where those of the user's last engagements point.

    The mean of the unit vectors of the last `seeds` activities is the direction; an activity is
    worth its cosine to it, if that is above 0. Cost: a look-up for each of `scanned` rows.
    """

    vectors: Vectors
    quota: int = 100
    seeds: int = 20
    days: float = 30.0
    scanned: int = 2_000
    outside: bool = False
    """Leave out what the user follows: the feeds, and the authors."""
    name: str = "similar"

    def propose(self, query: Query, table: ActivityTable) -> Rows:
        """The rows that are most alike to the seeds; these are left out."""
        seeds = _seeds(query, self.seeds, table)
        if not len(seeds):
            return _nothing()
        direction = unit_vectors(self.vectors.activity_vectors(table.positions(seeds))).sum(axis=0)
        rows = latest_active(query.now_us - int(self.days * DAY_US), table, self.scanned)
        rows = rows[~np.isin(rows, seeds)]
        units = unit_vectors(self.vectors.activity_vectors(table.positions(rows)))
        likeness = np.einsum("nd,d->n", units, direction)
        return _by_worth(
            self.quota,
            rows,
            np.where(likeness > _LIKENESS_MIN, likeness, 0.0),
            table,
            left_out(query, table, self.outside),
        )


@dataclass(frozen=True, slots=True)
class FactorsSource:
    """The activities that the model's factors put nearest to the user, by dot product and bias.

    Looks at the `scanned` rows that were active last. Cost: a look-up for each of them.
    """

    factors: Factors
    quota: int = 100
    scanned: int = 2_000
    outside: bool = False
    """Leave out what the user follows: the feeds, and the authors."""
    name: str = "factors"

    def propose(self, query: Query, table: ActivityTable) -> Rows:
        """The nearest rows; those that the model knows nothing of are left out."""
        rows = latest_active(0, table, self.scanned)
        positions, tags = table.positions(rows), table.tags[rows]
        dots, biases = self.factors.dot(query.user, positions, tags, table.names.tags.names)
        known = np.isfinite(dots)
        by_row = np.zeros(len(table.alive))
        by_row[rows[known]] = dots[known] + biases[known]
        kept_out = left_out(query, table, self.outside)
        return first_rows(self.quota, rows[known], by_row, table, kept_out)


def _nothing() -> Rows:
    return np.zeros(0, dtype=np.int32)


def _seeds(query: Query, count: int, table: ActivityTable) -> Rows:
    """The rows of the activities that the user engaged with last."""
    rows = table.rows(list(query.record.engaged)[-count:])
    held: Rows = rows[rows != UNKNOWN]
    return held


def _engaged_lately(query: Query, days: float, table: ActivityTable) -> Rows:
    return latest_active(query.now_us - int(days * DAY_US), table, SCANNED_MAX, engaged=True)


def _by_worth(
    quota: int,
    rows: Rows,
    worth: Column,
    table: ActivityTable,
    left_out: Callable[[Rows], Mask] | None,
) -> Rows:
    """The rows of a worth above 0, the highest first."""
    by_row = np.zeros(len(table.alive))
    by_row[rows] = worth
    return first_rows(quota, rows[by_row[rows] > 0], by_row, table, left_out)
