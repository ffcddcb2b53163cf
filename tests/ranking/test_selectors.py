import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.selectors import AuthorSpread, Selection, TopKSelector, total_order
from ranking.table import ActivityTable
from ranking.testing import T0_US, all_candidates, posted, table_of

scores_of = st.lists(st.floats(width=32), min_size=1, max_size=40)


def table_by(authors: str) -> ActivityTable:
    """One activity each, by these authors, newest first."""
    count = len(authors)
    return table_of(
        posted(f"a{place}", T0_US + count - place, actor=author)
        for place, author in enumerate(authors)
    )


def select(authors: str, scores: list[float], limit: int, spread: AuthorSpread | None) -> Selection:
    table = table_by(authors)
    numbers = np.array(scores, dtype=np.float32)
    return TopKSelector(spread).select(all_candidates(table), numbers, limit, table)


def greedy(
    authors: str,
    scores: npt.NDArray[np.float32],
    order: list[int],
    limit: int,
    spread: AuthorSpread,
) -> list[int]:
    """The spread by its definition: try every candidate for every place."""
    finite = [place for place in order if np.isfinite(scores[place])]
    base = float(scores[finite[-1]]) if finite else 0.0
    chosen: list[int] = []
    while len(chosen) < min(limit, len(finite)):
        taken = [authors[place] for place in chosen]
        chosen.append(
            max(
                (place for place in finite if place not in chosen),
                key=lambda place: (
                    (float(scores[place]) - base) * spread.multiplier(taken.count(authors[place])),
                    -finite.index(place),
                ),
            )
        )
    return chosen


@given(scores_of, st.integers(1, 50))
def test_every_candidate_is_selected_or_not_and_in_one_order(
    scores: list[float], limit: int
) -> None:
    for spread in (None, AuthorSpread()):
        authors = ("aabc" * 10)[: len(scores)]
        selection = select(authors, scores, limit, spread)
        assert sorted(selection.order.tolist()) == list(range(len(scores)))
        assert selection.count == min(limit, len(scores))
        assert len(selection.multipliers) == selection.count


@given(scores_of)
def test_scores_fall_and_what_is_no_number_comes_last(scores: list[float]) -> None:
    order = select("a" * len(scores), scores, 5, None).order
    ordered = np.array(scores, dtype=np.float32)[order]
    finite = np.isfinite(ordered)
    assert (np.diff(finite.astype(int)) <= 0).all()
    assert (np.diff(ordered[finite]) <= 0).all()
    assert (np.diff(order[~finite]) > 0).all()


def test_ties_are_in_the_order_of_positions_however_the_candidates_came() -> None:
    table = table_by("abcde")
    rows = all_candidates(table).rows
    zeros = np.zeros(5, dtype=np.float32)
    for seed in range(5):
        mixed = rows[np.random.default_rng(seed).permutation(5)]
        assert mixed[total_order(zeros, mixed, table)].tolist() == rows.tolist()


def test_activities_of_one_time_tie_by_id() -> None:
    table = table_of(posted(f"a{number}") for number in range(20))
    rows = all_candidates(table).rows
    positions = table.positions(rows)
    assert positions == sorted(positions)


def test_no_score_at_all_is_newest_first() -> None:
    assert select("abc", [np.nan, np.inf, -np.inf], 3, None).order.tolist() == [0, 1, 2]


def test_a_second_activity_of_an_author_gives_way_to_another_author() -> None:
    selection = select("aab" + "c", [10, 9, 8, 0], 4, AuthorSpread(decay=0.5, floor=0.25))
    assert selection.order.tolist() == [0, 2, 1, 3]
    assert selection.multipliers.tolist() == [1, 1, 0.625, 1]


def test_negative_scores_are_spread_as_well() -> None:
    assert select("aabc", [-1, -2, -3, -11], 4, AuthorSpread()).order.tolist() == [0, 2, 1, 3]


def test_without_decay_nothing_moves() -> None:
    scores = [5.0, 4.0, 3.0, 2.0]
    assert select("aaab", scores, 4, AuthorSpread(decay=1)).order.tolist() == [0, 1, 2, 3]


def test_one_author_alone_keeps_the_order() -> None:
    selection = select("aaaa", [1, 2, 3, 4], 2, AuthorSpread())
    assert selection.order.tolist() == [3, 2, 1, 0]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(-20, 20) | st.just(None)),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 12),
)
def test_the_spread_is_the_greedy_choice_for_every_place(
    drawn: list[tuple[str, int | None]], limit: int
) -> None:
    authors = "".join(author for author, _ in drawn)
    scores = np.array([np.nan if score is None else score for _, score in drawn], np.float32)
    spread, table = AuthorSpread(), table_by(authors)
    order = total_order(scores, all_candidates(table).rows, table).tolist()
    selection = TopKSelector(spread).select(all_candidates(table), scores, limit, table)
    expected = greedy(authors, scores, order, limit, spread)
    assert selection.order[: len(expected)].tolist() == expected


@pytest.mark.parametrize(("decay", "floor"), [(1.1, 0.2), (-0.1, 0.2), (0.5, 2), (np.nan, 0)])
def test_a_spread_that_would_not_multiply_is_refused(decay: float, floor: float) -> None:
    with pytest.raises(ValueError, match="give 0 to 1"):
        AuthorSpread(decay, floor)
