import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ranking.interleaving
from ranking.errors import InvalidMetricInput
from ranking.interleaving import preference, team_draft

orders = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)


def test_the_examples_in_docstrings_hold() -> None:
    failed, tried = doctest.testmod(ranking.interleaving)
    assert (failed, tried > 0) == (0, True)


@given(orders, orders, st.integers(0, 10), st.integers(0, 2**32))
def test_a_slate_holds_each_activity_once_and_the_best_of_each_team(
    first: list[str], second: list[str], places: int, seed: int
) -> None:
    found = team_draft(first, second, places, seed)
    assert found == team_draft(first, second, places, seed)
    assert len(found.order) == len(set(found.order)) == min(places, len({*first, *second}))
    for place, (name, team) in enumerate(zip(found.order, found.teams, strict=True)):
        order = first if team == "first" else second
        left = [each for each in order if each not in found.order[:place]]
        assert name == left[0]


@given(orders, orders, st.integers(0, 10), st.integers(0, 2**32))
def test_teams_differ_by_one_pick_while_neither_runs_out(
    first: list[str], second: list[str], places: int, seed: int
) -> None:
    found = team_draft(first, second, places, seed)
    if {*first} == {*second}:
        assert abs(found.teams.count("first") - found.teams.count("second")) <= 1


def test_clicks_at_random_prefer_neither() -> None:
    """Also where only the first place is clicked."""
    slates = [team_draft(["a", "b", "c"], ["c", "b", "a"], 3, seed) for seed in range(4_000)]
    tops = [slate.credit(slate.order[:1]) for slate in slates]
    users = [f"u{number % 50}" for number in range(4_000)]
    found = preference(users, tops, seed=1)
    assert found.mean == pytest.approx(0, abs=0.05)
    assert found.verdict() == "level"


def test_the_ranking_that_has_on_top_what_is_clicked_is_preferred() -> None:
    random = np.random.default_rng(1)
    users, won = [], []
    for seed in range(200):
        slate = team_draft(["good", "x", "y"], ["x", "y", "good"], 2, seed)
        clicked = ["good"] if random.random() < 0.5 else []
        users.append(f"u{seed % 40}")
        won.append(slate.credit(clicked))
    found = preference(users, won, seed=1)
    assert found.verdict() == "better"
    assert found.mean == 1.0
    swapped = preference(users, [-credit for credit in won], seed=1)
    assert swapped.verdict() == "worse"


def test_clicks_elsewhere_count_for_nobody() -> None:
    slate = team_draft(["a"], ["b"], 2, seed=1)
    assert slate.credit(["z"]) == 0
    assert slate.credit(["a", "a"]) == 1
    assert slate.credit(["a", "b"]) == 0
    assert preference(["u"], [0], seed=1).users == 0


def test_a_name_that_is_twice_is_refused() -> None:
    with pytest.raises(InvalidMetricInput, match="twice"):
        team_draft(["a", "a"], ["b"], 2, seed=1)
