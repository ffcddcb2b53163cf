import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feeds.counters import UserRecord
from feeds.events import Removed
from feeds.model import position_of
from ranking.candidates import Candidates
from ranking.filters import apply_filters, default_filters
from ranking.table import ActivityTable
from ranking.testing import T0_US, all_candidates, engaged, posted, query, table_of

MINE, SEEN, HIDDEN, OTHER = (
    posted(name, actor=actor)
    for name, actor in [("m", "user:me"), ("s", "user:a"), ("h", "user:a"), ("o", "user:b")]
)


def record_of(*, seen: bool = False, hidden: bool = False) -> UserRecord:
    record = UserRecord.empty()
    if seen:
        record.add(engaged(SEEN, "me", T0_US), position_of(SEEN.activity_id), SEEN.actor, SEEN.tags)
    if hidden:
        hide = engaged(HIDDEN, "me", T0_US, "hide")
        record.add(hide, position_of(HIDDEN.activity_id), HIDDEN.actor, HIDDEN.tags)
    return record


def test_own_hidden_and_engaged_activities_are_removed_with_reasons() -> None:
    table = table_of([MINE, SEEN, HIDDEN, OTHER])
    asked = query(record=record_of(seen=True, hidden=True))
    result = apply_filters(default_filters(), asked, all_candidates(table), table)

    assert table.ids(result.kept.rows) == [OTHER.activity_id]
    assert [(each.filter, table.ids(each.rows)) for each in result.removed] == [
        ("own", [MINE.activity_id]),
        ("hidden", [HIDDEN.activity_id]),
        ("engaged", [SEEN.activity_id]),
    ]
    assert all(each.reason for each in result.removed)


def test_an_activity_that_left_after_it_was_proposed_is_removed() -> None:
    table = table_of([SEEN, OTHER])
    candidates = all_candidates(table)
    table.apply(9, Removed(time_us=T0_US, activity_id=SEEN.activity_id))
    result = apply_filters(default_filters(), query(), candidates, table)
    assert table.ids(result.kept.rows) == [OTHER.activity_id]
    assert [each.filter for each in result.removed] == ["removed"]


def test_rows_that_are_no_activities_are_removed_even_from_an_empty_table() -> None:
    table = ActivityTable(10)
    candidates = Candidates(np.array([-1], np.int32), np.zeros(1, np.int8), ("caller",))
    result = apply_filters(default_filters(), query(), candidates, table)
    assert len(result.kept) == 0
    assert [each.rows.tolist() for each in result.removed] == [[-1]]


def test_another_users_record_removes_nothing() -> None:
    table = table_of([MINE, SEEN, HIDDEN, OTHER])
    result = apply_filters(default_filters(), query(user="you"), all_candidates(table), table)
    assert len(result.kept) == 4
    assert result.removed == []


@given(st.booleans(), st.booleans(), st.lists(st.integers(-1, 3), unique=True))
def test_nothing_vanishes(seen: bool, hidden: bool, rows: list[int]) -> None:
    table = table_of([MINE, SEEN, HIDDEN, OTHER])
    table.apply(9, Removed(time_us=T0_US, activity_id=OTHER.activity_id))
    count = len(rows)
    candidates = Candidates(np.array(rows, np.int32), np.arange(count, dtype=np.int8), "abcd")
    asked = query(record=record_of(seen=seen, hidden=hidden))
    result = apply_filters(default_filters(), asked, candidates, table)

    kept = result.kept.rows.tolist()
    removed = [row for each in result.removed for row in each.rows.tolist()]
    assert sorted(kept + removed) == sorted(rows)
    assert kept == [row for row in rows if row in kept]
    assert result.kept.source.tolist() == [rows.index(row) for row in kept]
