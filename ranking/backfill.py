"""Filters after the selection, and filling up from the reserve what they take out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ranking.candidates import Candidates, Query
from ranking.exploration import Shown
from ranking.filters import Filter, Removed, apply_filters
from ranking.table import ActivityTable

__all__ = ["Backfilled", "backfill"]


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What is shown and in reserve after the filters, and what they removed: all that came."""

    shown: Shown
    removed: Sequence[Removed]


def backfill(
    filters: Sequence[Filter],
    shown: Shown,
    query: Query,
    candidates: Candidates,
    table: ActivityTable,
) -> Backfilled:
    """Take out what a filter matches, move up what stands below, and fill up from the reserve.

    A place keeps the propensity of the draw that filled it, given the draws before it, those of
    removed activities included. What fills up follows from them: its propensity is 1.
    """
    if not filters:
        return Backfilled(shown, ())
    order = np.concatenate([shown.places, shown.reserve])
    result = apply_filters(filters, query, candidates.take(order), table)
    stays = np.isin(candidates.rows[order], result.kept.rows)
    of_places, filled = stays[: len(shown)], order[stays]
    new = min(len(shown), len(filled)) - np.count_nonzero(of_places)
    ones = np.ones(new)
    return Backfilled(
        Shown(
            places=filled[: len(shown)],
            propensities=np.concatenate([shown.propensities[of_places], ones]),
            explored=np.concatenate([shown.explored[of_places], ones < 1]),
            multipliers=np.concatenate([shown.multipliers[of_places], ones]),
            reserve=filled[len(shown) :],
            placed=shown.placed,
        ),
        result.removed,
    )
