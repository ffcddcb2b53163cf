import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.exploration import EpsilonExplorer, NoExplorer
from ranking.selectors import Selection


def selection_of(candidates: int, count: int) -> Selection:
    order = np.random.default_rng(candidates).permutation(candidates)
    return Selection(order, count, np.linspace(1, 0.5, count))


def probability(explorer: EpsilonExplorer, selection: Selection, slate: tuple[int, ...]) -> float:
    """The probability of a slate: the product of its propensities, by the definition."""
    left = selection.order.tolist()
    product = 1.0
    for candidate in slate:
        product *= explorer.propensity(left.index(candidate), len(left))
        left.remove(candidate)
    return product


def test_without_exploration_what_was_selected_is_shown_for_certain() -> None:
    selection = selection_of(5, 3)
    shown = NoExplorer().explore(selection, seed=1)
    assert shown.places.tolist() == selection.order[:3].tolist()
    assert shown.propensities.tolist() == [1, 1, 1]
    assert not shown.explored.any()
    assert shown.multipliers.tolist() == [1, 0.75, 0.5]


@given(st.floats(0, 1), st.integers(1, 600))
def test_propensities_of_a_place_add_up_to_one(epsilon: float, left: int) -> None:
    explorer = EpsilonExplorer(epsilon)
    total = sum(explorer.propensity(taken, left) for taken in range(left))
    assert total == pytest.approx(1, abs=1e-9)


@given(st.integers(1, 4), st.integers(0, 4), st.floats(0, 1))
def test_probabilities_of_all_slates_add_up_to_one(
    candidates: int, count: int, epsilon: float
) -> None:
    selection = selection_of(candidates, min(count, candidates))
    slates = itertools.permutations(range(candidates), selection.count)
    explorer = EpsilonExplorer(epsilon)
    total = sum(probability(explorer, selection, slate) for slate in slates)
    assert total == pytest.approx(1)


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0, 1), st.integers(0, 2**63 - 1))
def test_a_slate_has_each_candidate_once_and_says_its_propensities(
    candidates: int, limit: int, epsilon: float, seed: int
) -> None:
    selection = selection_of(candidates, min(limit, candidates))
    explorer = EpsilonExplorer(epsilon)
    shown = explorer.explore(selection, seed)
    assert len(set(shown.places.tolist())) == len(shown) == selection.count
    assert (shown.propensities > 0).all()
    product = probability(explorer, selection, tuple(shown.places.tolist()))
    assert float(np.prod(shown.propensities)) == pytest.approx(product)


def test_the_same_seed_gives_the_same_slate() -> None:
    first, second = (EpsilonExplorer(0.5).explore(selection_of(50, 25), seed=3) for _ in "ab")
    assert first.places.tolist() == second.places.tolist()
    other = EpsilonExplorer(0.5).explore(selection_of(50, 25), seed=4)
    assert first.places.tolist() != other.places.tolist()


def test_slates_are_as_frequent_as_their_propensities_say() -> None:
    selection, explorer, draws = selection_of(4, 2), EpsilonExplorer(0.4), 20_000
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(draws):
        slate = tuple(explorer.explore(selection, seed).places.tolist())
        counts[slate] = counts.get(slate, 0) + 1
    for slate in itertools.permutations(range(4), 2):
        expected = probability(explorer, selection, slate)
        sigma = np.sqrt(expected * (1 - expected) / draws)
        assert abs(counts.get(slate, 0) / draws - expected) < 5 * sigma


def test_epsilon_zero_shows_what_was_selected_and_one_anything() -> None:
    selection = selection_of(100, 25)
    assert EpsilonExplorer(0).explore(selection, 1).places.tolist() == (
        selection.order[:25].tolist()
    )
    shown = EpsilonExplorer(1).explore(selection, 1)
    assert shown.explored.all()
    assert shown.propensities[0] == pytest.approx(0.01)
    assert shown.multipliers.tolist() == [1] * 25


def test_what_the_score_chose_keeps_its_multiplier() -> None:
    selection = selection_of(10, 4)
    shown = EpsilonExplorer(0.5).explore(selection, seed=5)
    by_candidate = dict(
        zip(selection.order.tolist(), [*selection.multipliers.tolist(), *[1.0] * 6], strict=True)
    )
    for place, explored, multiplier in zip(
        shown.places.tolist(), shown.explored.tolist(), shown.multipliers.tolist(), strict=True
    ):
        assert multiplier == (1.0 if explored else by_candidate[place])


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, float("nan")])
def test_an_epsilon_that_is_no_probability_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="give a probability"):
        EpsilonExplorer(epsilon)
