from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.model import position_of
from ranking.arrangements import (
    Arrangement,
    Diversity,
    NewAuthorLift,
    PageRules,
    PinnedActivity,
    Pins,
)
from ranking.candidates import Query
from ranking.selectors import AuthorSpread, Selection, TopKSelector
from ranking.table import ActivityTable
from ranking.testing import T0_US, all_candidates, follows, posted, query, shown, table_of


def table_by(authors: str, tags: Sequence[str] = ()) -> ActivityTable:
    """One activity each, by these authors and with these tags (a letter each), newest first."""
    given = tags or [""] * len(authors)
    return table_of(
        posted(f"a{place}", T0_US - place, actor=f"user:{author}", tags=list(of_place))
        for place, (author, of_place) in enumerate(zip(authors, given, strict=True))
    )


def top(table: ActivityTable, count: int, spread: AuthorSpread | None = None) -> Selection:
    """The newest first."""
    scores = -np.arange(len(table), dtype=np.float32)
    return TopKSelector(spread).select(all_candidates(table), scores, count, table)


def arranged(
    arrangement: Arrangement, table: ActivityTable, count: int, asked: Query | None = None
) -> list[int]:
    candidates = all_candidates(table)
    asked = asked or query()
    return arrangement.arrange(top(table, count), asked, candidates, table).order.tolist()


def pin(table: ActivityTable, candidate: int, place: int) -> PinnedActivity:
    row = all_candidates(table).rows[candidate]
    return PinnedActivity(table.position(int(row)), place)


def test_no_more_than_so_many_of_an_author_stand_on_a_page() -> None:
    table = table_by("aaabbbcc")
    rules = PageRules(page_size=4, per_author=1)
    # The first page has one of each, and then, as nobody else is left, the next best.
    assert arranged(rules, table, 8)[:4] == [0, 3, 6, 1]
    assert arranged(PageRules(page_size=4, per_author=2), table, 8)[:4] == [0, 1, 3, 4]


def test_a_new_page_begins_to_count_anew() -> None:
    rules = PageRules(page_size=2, per_author=1)
    assert arranged(rules, table_by("aabb"), 4) == [0, 2, 1, 3]


def test_no_more_than_so_many_with_a_tag_stand_on_a_page() -> None:
    table = table_by("abcdef", ["x", "xy", "xz", "y", "", ""])
    assert arranged(PageRules(per_tag=1), table, 4) == [0, 3, 4, 5, 1, 2]


def test_no_more_than_so_many_of_an_author_or_tag_stand_in_a_row() -> None:
    assert arranged(PageRules(in_row_author=2), table_by("aaaab"), 5) == [0, 1, 4, 2, 3]
    assert arranged(PageRules(in_row_author=1), table_by("aabb"), 4) == [0, 2, 1, 3]
    tagged = table_by("abcd", ["xy", "yx", "x", "z"])
    assert arranged(PageRules(in_row_tag=1), tagged, 4) == [0, 3, 1, 2]


def test_shares_of_what_lies_outside_hold_from_the_top_to_any_place() -> None:
    table = table_by("ffffoooo")
    asked = query(follows=follows("user:f"))
    half = PageRules(outside_min=0.5)
    assert arranged(half, table, 8, asked) == [0, 4, 1, 5, 2, 6, 3, 7]
    none = PageRules(outside_max=0)
    assert arranged(none, table_by("oooff"), 3, asked) == [3, 4, 0, 1, 2]
    assert arranged(PageRules(outside_max=0.5), table_by("ooof"), 4, asked) == [0, 3, 1, 2]


def test_multipliers_go_with_their_candidates() -> None:
    table = table_by("aab")
    candidates = all_candidates(table)
    selection = top(table, 3, AuthorSpread())
    before = dict(zip(selection.order.tolist(), selection.multipliers.tolist(), strict=True))
    after = PageRules(in_row_author=1).arrange(selection, query(), candidates, table)
    assert [before[one] for one in after.order.tolist()] == after.multipliers.tolist()


def keeps_rules(
    rules: PageRules, page: list[int], authors: str, tags: Sequence[str], one: int
) -> bool:
    """Whether `one` could stand behind those of its page and before, by definition."""
    start = len(page) // rules.page_size * rules.page_size
    on_page = page[start:]
    if rules.per_author and sum(authors[p] == authors[one] for p in on_page) >= rules.per_author:
        return False
    if rules.per_tag and any(
        sum(tag in tags[p] for p in on_page) >= rules.per_tag for tag in tags[one]
    ):
        return False
    before = page[-rules.in_row_author :] if rules.in_row_author else []
    if len(before) == rules.in_row_author and all(authors[p] == authors[one] for p in before):
        return False
    before = page[-rules.in_row_tag :] if rules.in_row_tag else []
    return not (
        len(before) == rules.in_row_tag
        and any(all(tag in tags[p] for p in before) for tag in tags[one])
    )


caps = st.none() | st.integers(1, 3)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sets(st.sampled_from("xyz"))), max_size=14),
    st.integers(0, 14),
    st.builds(
        PageRules,
        page_size=st.integers(1, 6),
        per_author=caps,
        per_tag=caps,
        in_row_author=caps,
        in_row_tag=caps,
    ),
)
def test_every_place_goes_to_the_best_that_the_caps_allow(
    drawn: list[tuple[str, set[str]]], limit: int, rules: PageRules
) -> None:
    authors, tags = "".join(author for author, _ in drawn), ["".join(t) for _, t in drawn]
    table = table_by(authors, tags)
    selection = top(table, limit)
    after = rules.arrange(selection, query(), all_candidates(table), table)
    order = after.order.tolist()
    expected: list[int] = []
    for _ in range(min(limit, len(drawn))):
        left = [one for one in range(len(drawn)) if one not in expected]
        allowed = [one for one in left if keeps_rules(rules, expected, authors, tags, one)]
        expected.append((allowed or left)[0])
    assert order[: after.count] == expected
    assert order[after.count :] == sorted(order[after.count :])


def test_a_new_author_is_lifted_to_its_place_and_no_further() -> None:
    table = table_by("aaaabbc")
    activity = posted("a0", T0_US, actor="user:a")
    for user in range(5):
        table.apply(9, shown(activity, f"u{user}", T0_US))
    lift = NewAuthorLift(position=1, places=2, impressions_max=5)
    selection = lift.arrange(top(table, 4), query(), all_candidates(table), table)
    assert selection.order.tolist() == [0, 4, 5, 1, 2, 3, 6]
    assert selection.placed == {4: "new_author", 5: "new_author"}
    already = NewAuthorLift(position=4, places=2, impressions_max=5)
    selection = already.arrange(top(table, 7), query(), all_candidates(table), table)
    assert selection.order.tolist() == list(range(7))
    assert selection.placed == {}


def test_nobody_is_lifted_in_a_slate_that_is_too_short() -> None:
    table = table_by("ab")
    assert arranged(NewAuthorLift(position=14), table, 2) == [0, 1]


def test_pins_stand_in_their_places_and_are_marked() -> None:
    table = table_by("abcdef")
    pins = Pins((pin(table, 5, 0), pin(table, 3, 2)))
    selection = pins.arrange(top(table, 4), query(), all_candidates(table), table)
    assert selection.order.tolist() == [5, 0, 3, 1, 2, 4]
    assert selection.placed == {5: "pin", 3: "pin"}


def test_a_pin_beyond_the_end_stands_last_and_one_that_is_no_candidate_nowhere() -> None:
    table = table_by("abc")
    strange = PinnedActivity(position_of(posted("strange").activity_id), 0)
    assert arranged(Pins((pin(table, 0, 99), strange)), table, 3) == [1, 2, 0]


class FixedVectors:
    """Vectors by the last digits of nothing: in the order of the positions asked for."""

    def __init__(self, *vectors: Sequence[float]) -> None:
        self.vectors = np.array(vectors, np.float32)

    def activity_vectors(self, positions: Sequence[bytes]) -> npt.NDArray[np.float32]:
        return self.vectors[: len(positions)]


def test_what_resembles_the_places_above_gives_way() -> None:
    vectors = FixedVectors((1, 0), (1, 0), (0, 1), (np.nan, np.nan))
    table = table_by("abcd")
    assert arranged(Diversity(0.3, vectors), table, 4) == [0, 2, 3, 1]
    assert arranged(Diversity(1.0, vectors), table, 4) == [0, 1, 2, 3]


def test_the_length_of_a_vector_does_not_matter() -> None:
    short, long = FixedVectors((1, 0), (1, 0.1), (0, 1)), FixedVectors((9, 0), (50, 5), (0, 0.1))
    table = table_by("abc")
    assert arranged(Diversity(0.4, short), table, 3) == arranged(Diversity(0.4, long), table, 3)


@st.composite
def arrangements(draw: st.DrawFn) -> list[Arrangement]:
    """Any arrangements, in any order."""
    rules = PageRules(
        page_size=draw(st.integers(1, 9)),
        per_author=draw(caps),
        in_row_tag=draw(caps),
        outside_min=draw(st.floats(0, 0.5)),
        outside_max=draw(st.floats(0.5, 1)),
    )
    lift = NewAuthorLift(draw(st.integers(0, 9)), draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    table = table_by("abcabcabcabc")
    places = draw(st.lists(st.integers(0, 15), unique=True, max_size=4))
    pins = Pins(tuple(pin(table, 11 - n, place) for n, place in enumerate(places)))
    vectors = FixedVectors(*np.random.default_rng(draw(st.integers(0, 99))).normal(size=(12, 3)))
    made: list[Arrangement] = [rules, lift, pins, Diversity(draw(st.floats(0, 1)), vectors)]
    return draw(st.permutations(made))


@given(arrangements(), st.integers(0, 12), st.integers(0, 14))
def test_no_arrangement_loses_doubles_or_counts_otherwise(
    made: list[Arrangement], activities: int, limit: int
) -> None:
    table = table_by("abcabcabcabc"[:activities])
    selection = top(table, limit, AuthorSpread())
    for each in made:
        after = each.arrange(
            selection, query(follows=follows("user:a")), all_candidates(table), table
        )
        assert Counter(after.order.tolist()) == Counter(range(activities))
        assert after.count == selection.count == len(after.multipliers)
        assert set(after.placed) <= set(range(activities))
        selection = after


def test_a_place_without_a_candidate_is_refused() -> None:
    table = table_by("a")
    with pytest.raises(ValueError, match="no candidate is left"):
        PageRules(per_author=1).arrange(
            Selection(np.zeros(1, np.intp), 2, np.ones(1)), query(), all_candidates(table), table
        )
