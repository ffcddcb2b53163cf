import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.exploration import (
    CONSIDERED,
    EpsilonExplorer,
    Explorer,
    NoExplorer,
    ThompsonExplorer,
    Trials,
    winning,
)
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


def trials_of(candidates: int, seed: int = 1) -> Trials:
    draws = np.random.default_rng(seed)
    return Trials(draws.integers(0, 30, candidates), draws.integers(0, 300, candidates))


def placed_at(selection: Selection, *places: int) -> Selection:
    """The selection with these places given by a rule."""
    order = selection.order
    return selection.reordered(order, {int(order[place]): "pin" for place in places})


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=5),
)
def test_who_draws_the_highest_by_definition(weights: list[list[float]]) -> None:
    masses = np.array(weights) + 0.01
    masses /= masses.sum(axis=1, keepdims=True)
    expected = np.zeros(len(masses))
    for draw in itertools.product(range(4), repeat=len(masses)):
        chance = np.prod([masses[row, value] for row, value in enumerate(draw)])
        expected[int(np.argmax(draw))] += chance  # argmax gives the first of equals
    np.testing.assert_allclose(winning(masses), expected, atol=1e-12)


@given(st.integers(1, 80), st.integers(0, 99))
def test_thompsons_probabilities_of_a_place_add_up_to_one(candidates: int, seed: int) -> None:
    trials = trials_of(candidates, seed)
    masses = ThompsonExplorer().masses(trials.engagements, trials.impressions)
    np.testing.assert_allclose(masses.sum(axis=1), 1)
    assert winning(masses).sum() == pytest.approx(1, abs=1e-9)


def test_what_is_engaged_with_more_often_is_drawn_more_often_and_the_unknown_as_well() -> None:
    trials = Trials(np.array([1, 300, 0]), np.array([1000, 1000, 0]))
    chances = winning(ThompsonExplorer().masses(trials.engagements, trials.impressions))
    assert chances[1] > chances[2] > chances[0]
    assert chances[2] > 1e-4


def test_a_posterior_has_the_mean_of_its_beta_distribution() -> None:
    masses = ThompsonExplorer(prior=0.1, prior_weight=10).masses(np.array([30]), np.array([110]))
    rates = np.sin((np.arange(128) + 0.5) / 128 * np.pi / 2) ** 2
    assert float(masses[0] @ rates) == pytest.approx(31 / 120, abs=2e-3)


def test_more_engagements_than_impressions_are_no_harm() -> None:
    masses = ThompsonExplorer().masses(np.array([50]), np.array([3]))
    assert np.isfinite(masses).all()


def test_thompson_slates_are_as_frequent_as_their_propensities_say() -> None:
    selection, trials, draws = selection_of(4, 2), trials_of(4), 2_000
    explorer = ThompsonExplorer(0.6)
    counts: dict[tuple[int, ...], int] = {}
    told: dict[tuple[int, ...], float] = {}
    for seed in range(draws):
        shown = explorer.explore(selection, seed, lambda: trials)
        slate = tuple(shown.places.tolist())
        counts[slate] = counts.get(slate, 0) + 1
        product = float(np.prod(shown.propensities))
        assert told.setdefault(slate, product) == pytest.approx(product)
    assert sum(told.values()) == pytest.approx(1, abs=0.03)
    for slate, expected in told.items():
        sigma = np.sqrt(expected * (1 - expected) / draws)
        assert abs(counts[slate] / draws - expected) < 5 * sigma


def test_the_first_has_one_propensity_whether_chance_or_the_score_chose_it() -> None:
    selection, trials = selection_of(6, 1), trials_of(6)
    told: dict[bool, float] = {}
    for seed in range(200):
        shown = ThompsonExplorer(0.5).explore(selection, seed, lambda: trials)
        if shown.places[0] == selection.order[0]:
            told[bool(shown.explored[0])] = float(shown.propensities[0])
    assert told[True] == pytest.approx(told[False], abs=1e-12)


def test_thompson_considers_the_best_that_are_left_alone() -> None:
    selection, trials = selection_of(200, 60), trials_of(200)
    shown = ThompsonExplorer(1.0).explore(selection, 3, lambda: trials)
    ranks = {candidate: rank for rank, candidate in enumerate(selection.order.tolist())}
    for place, candidate in enumerate(shown.places.tolist()):
        assert ranks[candidate] < CONSIDERED + place
    assert shown.explored.all()


explorers = st.sampled_from([NoExplorer(), EpsilonExplorer(0.5), ThompsonExplorer(0.5)])


@given(
    explorers,
    st.integers(0, 40),
    st.integers(0, 40),
    st.sets(st.integers(0, 39), max_size=4),
    st.integers(0, 2**63 - 1),
)
def test_every_candidate_is_shown_or_in_reserve_and_a_fixed_place_stays(
    explorer: Explorer, candidates: int, limit: int, places: set[int], seed: int
) -> None:
    count = min(limit, candidates)
    fixed = [place for place in places if place < count]
    selection = placed_at(selection_of(candidates, count), *fixed)
    shown = explorer.explore(selection, seed, lambda: trials_of(candidates))
    assert len(shown) == count
    assert sorted([*shown.places.tolist(), *shown.reserve.tolist()]) == list(range(candidates))
    assert (shown.propensities > 0).all()
    assert (shown.propensities <= 1 + 1e-9).all()
    for place in fixed:
        assert shown.places[place] == selection.order[place]
        assert shown.propensities[place] == 1
        assert not shown.explored[place]


def test_probabilities_of_all_slates_with_a_fixed_place_add_up_to_one() -> None:
    selection = placed_at(selection_of(4, 3), 1)
    told = {}
    for seed in range(3_000):
        shown = EpsilonExplorer(0.7).explore(selection, seed)
        told[tuple(shown.places.tolist())] = float(np.prod(shown.propensities))
    assert len(told) == 6
    assert sum(told.values()) == pytest.approx(1)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="give a probability"):
        ThompsonExplorer(rate)
