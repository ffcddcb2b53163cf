"""Time of training by the hour: what counts, what is kept, and when there is room again."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

import feeds.training_time
from feeds.training_time import (
    DAY_HOURS,
    HOUR_US,
    minutes_trained,
    trains_again_us,
    with_time,
)

HOUR = st.integers(0, 100)
SPANS = st.lists(st.tuples(HOUR, st.integers(0, 7_200)), max_size=60).map(sorted)


def noted(spans: list[tuple[int, int]]) -> dict[int, float]:
    hours: dict[int, float] = {}
    for hour, seconds in spans:
        hours = with_time(hours, hour * HOUR_US, seconds)
    return hours


@given(SPANS, st.integers(0, 50))
def test_what_ended_within_the_last_day_counts_and_no_more_is_kept(
    spans: list[tuple[int, int]], later: int
) -> None:
    hours = noted(spans)
    now = (spans[-1][0] if spans else 0) + later
    within = sum(seconds for hour, seconds in spans if hour > now - DAY_HOURS)
    assert minutes_trained(hours, now * HOUR_US) == pytest.approx(within / 60)
    assert len(hours) <= DAY_HOURS


@given(SPANS, st.integers(1, 600))
def test_it_is_the_first_hour_at_which_less_than_the_quota_is_spent(
    spans: list[tuple[int, int]], minutes: int
) -> None:
    hours, now_us = noted(spans), (spans[-1][0] if spans else 0) * HOUR_US
    again_us = trains_again_us(hours, minutes, now_us)
    assert again_us is not None
    assert minutes_trained(hours, again_us) < minutes
    before = range(now_us, again_us, HOUR_US)
    assert all(minutes_trained(hours, one) >= minutes for one in before)


def test_a_quota_of_nothing_is_never_free_again() -> None:
    assert trains_again_us({}, 0, 0) is None
    assert trains_again_us({3: 60.0}, 0, 4 * HOUR_US) is None


def test_a_clock_that_went_back_takes_nothing_away() -> None:
    assert with_time({5: 60.0}, 5 * HOUR_US, -30.0) == {5: 60.0}


def test_the_examples_hold() -> None:
    assert not doctest.testmod(feeds.training_time).failed
