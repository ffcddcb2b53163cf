from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.counters import COUNTER_KINDS, DAY_US, HOUR_US, CounterRecord
from ranking.buckets import CHANNELS, ENGAGEMENT, IMPRESSION, BucketCounts
from ranking.testing import T0_US

LIKE, HIDE = COUNTER_KINDS.index("like"), COUNTER_KINDS.index("hide")

Step = tuple[int, int, int]

events = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, len(COUNTER_KINDS) - 1),
        st.integers(0, 80 * DAY_US).map(lambda offset: T0_US + offset),
    ),
    max_size=60,
)


def counts_of(rows: int = 3) -> BucketCounts:
    counts = BucketCounts()
    counts.grow(rows)
    return counts


def weighed(counts: BucketCounts, now_us: int) -> list[npt.NDArray[np.generic]]:
    rows = np.arange(len(counts))
    hour, day = counts.hour, counts.day
    return [
        counts.totals,
        counts.last_us,
        hour.weigh(rows, ENGAGEMENT, hour.decays(now_us, [HOUR_US])),
        hour.weigh(rows, IMPRESSION, hour.window(now_us, 24)),
        day.weigh(rows, ENGAGEMENT, day.decays(now_us, [DAY_US, 7 * DAY_US])),
        day.weigh(rows, LIKE, day.decays(now_us, [7 * DAY_US])),
    ]


@given(events, st.randoms(use_true_random=False), st.integers(0, 40 * DAY_US))
def test_events_in_any_order_and_records_count_the_same_bit_for_bit(
    steps: list[Step], random: Random, later_us: int
) -> None:
    records = [CounterRecord.empty() for _ in range(3)]
    one_by_one, shuffled, loaded = counts_of(), counts_of(), counts_of()
    for row, kind, time_us in steps:
        one_by_one.add(row, kind, time_us)
        records[row].add(kind, time_us)
    for row, kind, time_us in random.sample(steps, len(steps)):
        shuffled.add(row, kind, time_us)
    for row, record in enumerate(records):
        loaded.load(row, record)

    now_us = max((time_us for _, _, time_us in steps), default=T0_US) + later_us
    for expected, other, third in zip(
        weighed(one_by_one, now_us), weighed(shuffled, now_us), weighed(loaded, now_us), strict=True
    ):
        np.testing.assert_array_equal(expected, other)
        np.testing.assert_array_equal(expected, third)


@given(events)
def test_a_window_counts_the_buckets_it_says(steps: list[Step]) -> None:
    counts = counts_of()
    for row, kind, time_us in steps:
        counts.add(row, kind, time_us)
    now_us = max((time_us for _, _, time_us in steps), default=T0_US)

    inside = counts.day.weigh(np.arange(3), IMPRESSION, counts.day.window(now_us, 7))[:, 0]
    expected = [
        sum(
            1
            for row, kind, time_us in steps
            if row == wanted and kind == 0 and time_us // DAY_US > now_us // DAY_US - 7
        )
        for wanted in range(3)
    ]
    assert expected == inside.tolist()


def test_an_event_loses_half_its_weight_in_a_half_life() -> None:
    counts = counts_of()
    counts.add(0, LIKE, T0_US)
    middle_us = T0_US + DAY_US // 2
    weights = [
        float(counts.day.weigh(np.array([0]), LIKE, counts.day.decays(now_us, [DAY_US]))[0, 0])
        for now_us in (middle_us, middle_us + DAY_US, middle_us + 3 * DAY_US, T0_US + 30 * DAY_US)
    ]
    assert weights == [1.0, 0.5, 0.125, 0.0]


def test_what_lies_ahead_weighs_as_if_it_happened_now() -> None:
    counts = counts_of()
    counts.add(0, LIKE, T0_US + 2 * DAY_US)
    decays = counts.day.decays(T0_US, [DAY_US])
    assert counts.day.weigh(np.array([0]), LIKE, decays).tolist() == [[1.0]]


def test_a_hide_a_look_and_a_report_are_no_engagements() -> None:
    counts = counts_of()
    for kind in range(len(COUNTER_KINDS)):
        counts.add(1, kind, T0_US)
    assert counts.totals[1].tolist() == [1] * len(COUNTER_KINDS) + [5]
    assert len(CHANNELS) == len(COUNTER_KINDS) + 1
    assert counts.totals[1, HIDE] == 1


def test_loading_replaces_and_clearing_forgets() -> None:
    record = CounterRecord.empty()
    record.add(LIKE, T0_US, 3)
    counts = counts_of()
    counts.load(2, record)
    counts.load(2, record)
    assert counts.totals[2, ENGAGEMENT] == 3
    counts.clear(2)
    assert not counts.totals.any()
    assert not counts.last_us.any()
    assert not counts.day.counts.any()
    assert not counts.hour.counts.any()


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 7, 64, 501])
def test_a_weighed_count_does_not_depend_on_the_batch(rows: int) -> None:
    counts = counts_of(600)
    draws = np.random.default_rng(3)
    for row, kind, hours in zip(
        draws.integers(0, 600, 5000),
        draws.integers(0, 7, 5000),
        draws.integers(0, 700, 5000),
        strict=True,
    ):
        counts.add(int(row), int(kind), T0_US + int(hours) * HOUR_US)
    weights = counts.day.decays(T0_US + 701 * HOUR_US, [DAY_US, 7 * DAY_US])
    whole = counts.day.weigh(np.arange(600), ENGAGEMENT, weights)
    part = draws.choice(600, rows, replace=False)
    np.testing.assert_array_equal(whole[part], counts.day.weigh(part, ENGAGEMENT, weights))


@pytest.mark.parametrize("rows", [0, 1, 7, 64])
def test_all_channels_at_once_are_what_each_is(rows: int) -> None:
    counts = counts_of(64)
    draws = np.random.default_rng(4)
    for row, kind, hours in draws.integers(0, [64, 7, 700], (3000, 3)).tolist():
        counts.add(row, kind, T0_US + hours * HOUR_US)
    for ring in (counts.hour, counts.day):
        weights = ring.decays(T0_US + 701 * HOUR_US, [DAY_US, 7 * DAY_US])
        chosen = draws.permutation(64)[:rows]
        for channel, weighed in ring.weigh_all(chosen, weights).items():
            np.testing.assert_array_equal(ring.weigh(chosen, channel, weights), weighed)


@pytest.mark.parametrize("ahead_h", [-30 * 24, -5, 0, 1, 26, 40 * 24])
def test_the_weight_of_a_time_is_that_of_a_lone_event(ahead_h: int) -> None:
    """Whether the query is before the clock of the ring, beyond it, or so late that all is gone."""
    counts = counts_of(3)
    times_us = np.array([T0_US, T0_US + 9 * DAY_US, T0_US + 39 * DAY_US])
    for row, time_us in enumerate(times_us.tolist()):
        counts.add(row, COUNTER_KINDS.index("like"), time_us)
    now_us = T0_US + 39 * DAY_US + ahead_h * HOUR_US
    for ring in (counts.hour, counts.day):
        weights = ring.decays(now_us, [7 * DAY_US])
        alone = ring.weigh(np.arange(3), ENGAGEMENT, weights)[:, 0]
        np.testing.assert_array_equal(alone, ring.weights_at(times_us, weights[:, 0]))
