from collections.abc import Sequence
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feeds.counters import DAY_US, UserRecord
from feeds.events import Removed
from feeds.model import position_of
from ranking.candidates import Candidates, Feedback, Query
from ranking.config import RankingConfig
from ranking.filters import AgeFilter, DuplicateFilter, Filter, ShowLessFilter, apply_filters
from ranking.pipeline import build_filters
from ranking.table import ActivityTable
from ranking.testing import T0_US, all_candidates, engaged, posted, query, table_of

FILTERS = build_filters(RankingConfig.default(), "personalized")

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
    result = apply_filters(FILTERS, asked, all_candidates(table), table)

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
    result = apply_filters(FILTERS, query(), candidates, table)
    assert table.ids(result.kept.rows) == [OTHER.activity_id]
    assert [each.filter for each in result.removed] == ["removed"]


def test_rows_that_are_no_activities_are_removed_even_from_an_empty_table() -> None:
    table = ActivityTable(10)
    candidates = Candidates(np.array([-1], np.int32), np.zeros(1, np.int8), ("caller",))
    result = apply_filters(FILTERS, query(), candidates, table)
    assert len(result.kept) == 0
    assert [each.rows.tolist() for each in result.removed] == [[-1]]


def test_another_users_record_removes_nothing() -> None:
    table = table_of([MINE, SEEN, HIDDEN, OTHER])
    result = apply_filters(FILTERS, query(user="you"), all_candidates(table), table)
    assert len(result.kept) == 4
    assert result.removed == []


def removed_by(asked: Query, table: ActivityTable, filters: Sequence[Filter]) -> dict[str, str]:
    """Which filter removed which activity, by the letter of its name."""
    result = apply_filters(filters, asked, all_candidates(table), table)
    letters = {each.activity_id: each.object for each in (MINE, SEEN, HIDDEN, OTHER)}
    return {
        letters[one]: removed.filter
        for removed in result.removed
        for one in table.ids(removed.rows)
    }


def test_muted_authors_and_tags_are_removed() -> None:
    tagged = posted("o", actor="user:b", tags=["noise", "gate"])
    table = table_of([MINE, SEEN, HIDDEN, tagged])
    muted = Feedback(muted_authors=("user:a", "nobody"), muted_tags=("gate", "nothing"))
    result = apply_filters(FILTERS, query(feedback=muted), all_candidates(table), table)
    assert table.ids(result.kept.rows) == []
    assert [(each.filter, sorted(table.ids(each.rows))) for each in result.removed] == [
        ("own", [MINE.activity_id]),
        ("muted_author", sorted([SEEN.activity_id, HIDDEN.activity_id])),
        ("muted_tag", [tagged.activity_id]),
    ]


def test_a_name_that_nobody_has_removes_nothing() -> None:
    table = table_of([SEEN, OTHER])
    muted = Feedback(muted_authors=("nobody",), muted_tags=("nothing",))
    assert removed_by(query(feedback=muted), table, FILTERS) == {}


def test_what_the_request_excludes_and_what_was_served_is_removed() -> None:
    table = table_of([SEEN, HIDDEN, OTHER])
    asked = query(
        excluded=[position_of(SEEN.activity_id), b"x" * 16], served=[position_of(OTHER.activity_id)]
    )
    assert removed_by(asked, table, FILTERS) == {"s": "excluded", "o": "served"}


def test_what_is_too_old_is_removed() -> None:
    table = table_of([posted("s", T0_US), posted("o", T0_US + DAY_US)])
    asked = query(T0_US + 2 * DAY_US)
    kept = apply_filters([AgeFilter(1)], asked, all_candidates(table), table).kept
    assert table.time_us[kept.rows].tolist() == [T0_US + DAY_US]
    assert len(apply_filters([AgeFilter(2)], asked, all_candidates(table), table).kept) == 2


@given(st.lists(st.sampled_from("xyz"), max_size=12), st.randoms(use_true_random=False))
def test_of_activities_with_the_same_object_the_first_stays(
    objects: list[str], shuffle: Random
) -> None:
    posts = [posted(f"p{n}", T0_US + n, about=about) for n, about in enumerate(objects)]
    table = table_of(posts)
    places = list(range(len(posts)))
    shuffle.shuffle(places)
    candidates = all_candidates(table).take(np.array(places, np.intp))
    result = apply_filters([DuplicateFilter()], query(), candidates, table)
    about = {post.activity_id: post.object for post in posts}
    expected = list(dict.fromkeys(about[one] for one in table.ids(candidates.rows)))
    assert [about[found] for found in table.ids(result.kept.rows)] == expected
    removed = [row for each in result.removed for row in each.rows.tolist()]
    assert sorted([*result.kept.rows.tolist(), *removed]) == sorted(candidates.rows.tolist())


def test_show_less_removes_for_its_days_and_no_longer() -> None:
    tagged = posted("o", actor="user:b", tags=["gate"])
    table = table_of([SEEN, tagged])
    said = Feedback(less_authors={"user:a": T0_US}, less_tags={"gate": T0_US + DAY_US})
    filters = [ShowLessFilter(days=14)]
    kept = [
        len(
            apply_filters(
                filters, query(T0_US + days * DAY_US, feedback=said), all_candidates(table), table
            ).kept
        )
        for days in (0, 13, 14, 15)
    ]
    assert kept == [0, 0, 1, 2]


@given(st.booleans(), st.booleans(), st.lists(st.integers(-1, 3), unique=True))
def test_nothing_vanishes(seen: bool, hidden: bool, rows: list[int]) -> None:
    table = table_of([MINE, SEEN, HIDDEN, OTHER])
    table.apply(9, Removed(time_us=T0_US, activity_id=OTHER.activity_id))
    count = len(rows)
    candidates = Candidates(np.array(rows, np.int32), np.arange(count, dtype=np.int8), "abcd")
    asked = query(
        T0_US + 9 * DAY_US,
        record=record_of(seen=seen, hidden=hidden),
        excluded=[position_of(MINE.activity_id)] if hidden else [],
        feedback=Feedback(muted_authors=["user:b"], less_authors={"user:a": T0_US}),
    )
    result = apply_filters([*FILTERS, AgeFilter(8)], asked, candidates, table)

    kept = result.kept.rows.tolist()
    removed = [row for each in result.removed for row in each.rows.tolist()]
    assert sorted(kept + removed) == sorted(rows)
    assert kept == [row for row in rows if row in kept]
    assert result.kept.source.tolist() == [rows.index(row) for row in kept]
