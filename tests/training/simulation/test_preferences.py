"""Laws of how members look at a feed and react; what is counted agrees with what is foretold."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.counters import HOUR_US
from training.errors import SimulationError
from training.simulation.config import SimulationConfig
from training.simulation.preferences import Activities, Chances, Members, Preferences, examination

CONFIG = SimulationConfig(users=30, topics=4)
NOW_US = CONFIG.start_us

probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def activities(count: int, hours_old: float = 1.0) -> Activities:
    random = np.random.default_rng(7)
    return Activities(
        author=random.integers(0, 30, count),
        topic=random.integers(0, 4, count),
        quality=random.normal(0, 1, count),
        time_us=np.full(count, NOW_US - int(hours_old * HOUR_US)),
    )


def truth(config: SimulationConfig = CONFIG) -> Preferences:
    return Preferences(config, Members.draw(config))


def chances(
    config: SimulationConfig = CONFIG, followed: bool = False, hours_old: float = 1.0
) -> Chances:
    return truth(config).chances(
        3, activities(40, hours_old), np.arange(40), np.full(30, followed), NOW_US
    )


@given(st.integers(1, 100), st.floats(0, 10))
def test_the_first_place_is_always_looked_at_and_each_further_one_less(
    places: int, power: float
) -> None:
    looks = examination(replace(CONFIG, examination_power=power), places)
    assert looks[0] == 1
    assert ((looks >= 0) & (looks <= 1)).all()
    assert (np.diff(looks) <= 0).all()


@given(probabilities, st.integers(0, 2**32))
def test_nobody_likes_without_a_click_nor_hides_what_was_clicked(
    click: list[float], seed: int
) -> None:
    given_chances = Chances(np.array(click), np.array(click), np.array(click))
    done = truth().react(given_chances, np.random.default_rng(seed))
    clicked = {reaction.place for reaction in done if reaction.kind == "click"}
    assert len(done) == len(set(done))
    for reaction in done:
        assert 0 <= reaction.place < len(click)
        assert (reaction.place in clicked) == (reaction.kind != "hide")


def test_what_is_done_agrees_with_the_expected_worth() -> None:
    """The mean reward of each place is examination x worth, within five standard errors."""
    known, visits = truth(), 5_000
    one = Chances(*(np.array([p, 0.4, 0.1, 0.9, 0.5]) for p in (0.3, 0.5, 0.2)))
    random = np.random.default_rng(3)
    rewards = np.array([known.rewards(known.react(one, random), 5) for _ in range(visits)])
    expected = examination(CONFIG, 5) * known.worth(one)
    errors = rewards.std(axis=0) / np.sqrt(visits)
    assert (np.abs(rewards.mean(axis=0) - expected) < 5 * errors).all()


def test_what_is_followed_or_fresh_or_of_a_liked_topic_is_clicked_more() -> None:
    assert (chances(followed=True).click > chances().click).all()
    assert (chances(hours_old=0.1).click > chances(hours_old=30).click).all()
    mine = truth().members.tastes[3][activities(40).topic]
    plain = replace(CONFIG, activity_quality=0.0, recency=0.0)
    flat = truth(plain).chances(
        3,
        replace(activities(40), quality=np.zeros(40)),
        np.arange(40),
        np.zeros(30, np.bool_),
        NOW_US,
    )
    order = np.argsort(mine)
    assert (np.diff(flat.click[order]) >= -1e-12).all()


@settings(max_examples=20)
@given(st.integers(0, 2**40))
def test_members_are_the_same_for_the_same_seed_and_somebody_posts(seed: int) -> None:
    config = replace(CONFIG, seed=seed)
    first, again = Members.draw(config), Members.draw(config)
    np.testing.assert_array_equal(first.tastes, again.tastes)
    np.testing.assert_array_equal(first.posts_per_day, again.posts_per_day)
    np.testing.assert_allclose(first.tastes.sum(axis=1), 1)
    assert len(first.authors)


def test_every_mistake_of_a_config_is_told_at_once() -> None:
    wrong = replace(CONFIG, users=1, visits_per_day=2.0, values={"share": 1.0})
    with pytest.raises(SimulationError) as caught:
        wrong.check()
    assert str(caught.value) == (
        "users is 1: from 2 to 20000; visits_per_day is 2.0: from 0 to 1; "
        "values has share: members do nothing but click, like, hide"
    )
