import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.counters import DAY_US
from ranking.adjustments import (
    Adjustment,
    OutOfNetworkMultiplier,
    ShowLessMultiplier,
    ShowMoreMultiplier,
    adjust,
)
from ranking.candidates import Feedback, Query
from ranking.selectors import window_size
from ranking.table import ActivityTable
from ranking.testing import T0_US, all_candidates, follows, posted, query, table_of

POSTS = [
    posted("a", T0_US + 4, actor="user:ann", tags=["gate"]),
    posted("b", T0_US + 3, actor="user:bob", tags=["gate", "noise"]),
    posted("c", T0_US + 2, actor="user:bob", feed="topic:x"),
    posted("d", T0_US + 1, actor="user:dan"),
]
TABLE = table_of(POSTS)
SCORES = np.array([4, 3, 2, 1], np.float32)


def multiplied(adjustment: Adjustment, asked: Query) -> list[float] | None:
    found = adjustment.multipliers(asked, all_candidates(TABLE), TABLE)
    return None if found is None else found.tolist()


def many(count: int) -> ActivityTable:
    return table_of(posted(f"a{n}", T0_US - n, actor=f"user:{n % 2}") for n in range(count))


def test_what_lies_outside_of_follows_is_multiplied() -> None:
    asked = query(follows=follows("user:ann", "topic:x"))
    assert multiplied(OutOfNetworkMultiplier(0.75), asked) == [1, 0.75, 1, 0.75]
    assert multiplied(OutOfNetworkMultiplier(0.75), query()) is None


@pytest.mark.parametrize(
    ("days", "expected"), [(0, 0.2), (14, 0.2), (84, 0.6), (154, 1.0), (1000, 1.0)]
)
def test_show_less_recovers_in_a_straight_line(days: int, expected: float) -> None:
    said = Feedback(less_authors={"user:bob": T0_US}, less_tags={"nothing": T0_US})
    found = multiplied(ShowLessMultiplier(), query(T0_US + days * DAY_US, feedback=said))
    assert found is not None
    assert found == pytest.approx([1, expected, expected, 1])


def test_the_lowest_of_author_and_tags_holds() -> None:
    said = Feedback(less_authors={"user:bob": T0_US - 84 * DAY_US}, less_tags={"gate": T0_US})
    found = multiplied(ShowLessMultiplier(), query(T0_US, feedback=said))
    assert found == pytest.approx([0.2, 0.2, 0.6, 1])
    assert multiplied(ShowLessMultiplier(), query(T0_US)) is None


def test_lifts_over_the_lowest_of_the_window_are_multiplied_and_kept_by_name() -> None:
    asked = query(follows=follows("user:ann", "topic:x"))
    adjusted = adjust([OutOfNetworkMultiplier(0.5)], SCORES, asked, all_candidates(TABLE), TABLE)
    assert adjusted.scores.tolist() == [4, 2, 2, 1]
    assert adjusted.multipliers["out_of_network"].tolist() == [1, 0.5, 1, 0.5]


def test_several_multipliers_act_together() -> None:
    said = Feedback(less_tags={"gate": T0_US})
    asked = query(follows=follows("user:ann"), feedback=said)
    both = [OutOfNetworkMultiplier(0.5), ShowLessMultiplier(floor=0.5)]
    adjusted = adjust(both, SCORES, asked, all_candidates(TABLE), TABLE)
    assert adjusted.scores.tolist() == [2.5, 1.5, 1.5, 1]
    assert list(adjusted.multipliers) == ["out_of_network", "show_less"]


def test_where_nothing_is_to_be_said_scores_stay_bit_for_bit() -> None:
    adjusted = adjust([ShowLessMultiplier()], SCORES, query(), all_candidates(TABLE), TABLE)
    assert adjusted.scores is SCORES
    assert adjusted.multipliers == {}


def test_what_lies_below_the_window_stays_where_it_is() -> None:
    count = window_size(1) + 10
    table = many(count)
    scores = -np.arange(count, dtype=np.float32)
    asked = query(limit=1, follows=follows("user:0"))
    adjusted = adjust([OutOfNetworkMultiplier(0)], scores, asked, all_candidates(table), table)
    assert (adjusted.scores[-10:] == scores[-10:]).all()
    assert (adjusted.scores[:-10] >= scores[-11]).all()
    assert adjusted.scores[1] == scores[-11]


def test_scores_that_are_no_numbers_stay_so() -> None:
    scores = np.array([np.nan, 3, np.inf, -np.inf], np.float32)
    asked = query(follows=follows("user:ann"))
    adjusted = adjust([OutOfNetworkMultiplier()], scores, asked, all_candidates(TABLE), TABLE)
    np.testing.assert_array_equal(adjusted.scores, scores)


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=4),
    st.floats(0, 1),
    st.integers(-1000, 1000),
)
def test_a_multiplier_below_one_raises_nothing_and_a_constant_changes_no_order(
    drawn: list[float], multiplier: float, constant: int
) -> None:
    asked = query(follows=follows("user:ann", "topic:x"))
    scores = np.rint(np.array(drawn)).astype(np.float32)

    def adjusted(given: np.ndarray) -> np.ndarray:
        made = [OutOfNetworkMultiplier(multiplier)]
        return np.asarray(adjust(made, given, asked, all_candidates(TABLE), TABLE).scores)

    assert (adjusted(scores) <= scores).all()
    assert (adjusted(scores)[[0, 2]] == scores[[0, 2]]).all()
    moved = adjusted(scores + np.float32(constant)) - constant
    np.testing.assert_allclose(moved, adjusted(scores), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("days", "expected"), [(0, 1.5), (70, 1.25), (140, 1.0), (1000, 1.0)])
def test_show_more_fades_in_a_straight_line(days: int, expected: float) -> None:
    said = Feedback(more_authors={"user:bob": T0_US}, more_tags={"nothing": T0_US})
    found = multiplied(ShowMoreMultiplier(), query(T0_US + days * DAY_US, feedback=said))
    assert found == pytest.approx([1, expected, expected, 1])


def test_the_highest_of_author_and_tags_holds() -> None:
    said = Feedback(more_authors={"user:bob": T0_US - 70 * DAY_US}, more_tags={"gate": T0_US})
    found = multiplied(ShowMoreMultiplier(), query(T0_US, feedback=said))
    assert found == pytest.approx([1.5, 1.5, 1.25, 1])
    assert multiplied(ShowMoreMultiplier(), query(T0_US)) is None
