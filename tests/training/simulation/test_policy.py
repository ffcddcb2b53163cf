"""The chances of a place, against the explorer that serves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.config import RankingConfig
from ranking.exploration import EpsilonExplorer
from ranking.selectors import Selection
from training.errors import SimulationError
from training.simulation.policy import Arm, placement


@given(st.integers(0, 40), st.integers(1, 12), st.floats(0, 1))
def test_chances_of_a_place_add_up_to_one_and_of_an_activity_to_at_most_one(
    candidates: int, places: int, epsilon: float
) -> None:
    chances = placement(candidates, places, epsilon)
    assert chances.shape == (candidates, places)
    assert (chances >= -1e-12).all()
    filled = min(places, candidates)
    np.testing.assert_allclose(chances.sum(axis=0), [1.0] * filled + [0.0] * (places - filled))
    assert (chances.sum(axis=1) <= 1 + 1e-9).all()


def test_the_first_places_have_the_propensities_of_the_explorer() -> None:
    chances = placement(7, 3, 0.3)
    explorer = EpsilonExplorer(0.3)
    expected = [explorer.propensity(taken, 7) for taken in range(7)]
    np.testing.assert_allclose(chances[:, 0], expected)


def test_they_are_the_shares_of_many_slates_that_the_explorer_fills() -> None:
    candidates, places, draws = 6, 4, 10_000
    selection = Selection(np.arange(candidates), places, np.ones(places))
    found = np.zeros((candidates, places))
    explorer = EpsilonExplorer(0.5)
    for seed in range(draws):
        found[explorer.explore(selection, seed).places, np.arange(places)] += 1
    expected = placement(candidates, places, 0.5)
    errors = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(found / draws - expected) < 5 * errors).all()


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"exploration": {"policy": "thompson"}}, "exploration.policy is thompson"),
        ({"adjustments": {"new_author": {"on": True}}}, "adjustments.new_author is on"),
        ({"post_filters": {"own": {"on": True}}}, "post_filters.own is on"),
    ],
)
def test_what_has_no_closed_form_is_refused(part: dict[str, object], problem: str) -> None:
    config = RankingConfig.parse({"personalized": part})
    with pytest.raises(SimulationError, match=f"mine: personalized.{problem}"):
        Arm("mine", config)
