from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from ranking.backfill import backfill
from ranking.candidates import Candidates, Query
from ranking.exploration import EpsilonExplorer, Shown
from ranking.selectors import Selection
from ranking.table import ActivityTable
from ranking.testing import T0_US, all_candidates, posted, query, table_of


@dataclass(frozen=True)
class Taken:
    """A filter that removes these rows."""

    rows: tuple[int, ...]
    name: str = "taken"
    reason: str = "the test takes it"

    def matches(
        self,
        query: Query,  # noqa: ARG002 - a filter's signature
        candidates: Candidates,
        table: ActivityTable,  # noqa: ARG002
    ) -> npt.NDArray[np.bool_]:
        return np.isin(candidates.rows, self.rows)


def shown_of(candidates: int, count: int) -> Shown:
    places = min(count, candidates)
    selection = Selection(np.arange(candidates), places, np.ones(places))
    return EpsilonExplorer(0.5).explore(selection, seed=4)


def table(count: int) -> ActivityTable:
    return table_of(posted(f"a{n}", T0_US - n) for n in range(count))


def test_without_filters_nothing_changes() -> None:
    shown, made = shown_of(6, 3), table(6)
    assert backfill((), shown, query(), all_candidates(made), made).shown is shown


def test_what_is_taken_out_is_filled_up_from_the_reserve_in_order() -> None:
    made = table(6)
    shown = Shown(
        places=np.array([4, 0, 1]),
        propensities=np.array([0.1, 0.9, 0.8]),
        explored=np.array([True, False, False]),
        multipliers=np.array([1, 0.5, 0.25]),
        reserve=np.array([2, 3, 5]),
        placed={1: "pin"},
    )
    after = backfill([Taken((0, 2))], shown, query(), all_candidates(made), made)
    assert after.shown.places.tolist() == [4, 1, 3]
    assert after.shown.reserve.tolist() == [5]
    assert after.shown.propensities.tolist() == [0.1, 0.8, 1]
    assert after.shown.explored.tolist() == [True, False, False]
    assert after.shown.multipliers.tolist() == [1, 0.25, 1]
    assert after.shown.placed == {1: "pin"}
    assert [(one.filter, one.rows.tolist()) for one in after.removed] == [("taken", [0, 2])]


rows_taken = st.sets(st.integers(0, 11))


@given(st.integers(0, 12), st.integers(0, 12), rows_taken, rows_taken)
def test_all_that_came_is_shown_in_reserve_or_removed_with_a_reason(
    candidates: int, count: int, first: set[int], second: set[int]
) -> None:
    made, shown = table(candidates), shown_of(candidates, count)
    rows = all_candidates(made).rows
    filters = [Taken(tuple(first)), Taken(tuple(second), "other")]
    after = backfill(filters, shown, query(), all_candidates(made), made)
    kept = [*rows[after.shown.places].tolist(), *rows[after.shown.reserve].tolist()]
    removed = [row for one in after.removed for row in one.rows.tolist()]
    assert sorted(kept + removed) == sorted(rows.tolist())
    assert len(after.shown) == min(len(shown), len(kept))
    columns = (after.shown.propensities, after.shown.explored, after.shown.multipliers)
    assert {len(column) for column in columns} == {len(after.shown)}
