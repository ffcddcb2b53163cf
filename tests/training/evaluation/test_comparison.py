"""Two rankings of the same requests."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import EvaluationConfig, TrainingConfig
from training.errors import TooFewEvents
from training.evaluation.comparison import Played, chronological, compare
from training.sets.dataset import TrainingSet

CONFIG = EvaluationConfig(draws=200)


def of_users(users: list[str]) -> TrainingSet:
    """A set whose requests have a candidate each."""
    q = len(users)
    return TrainingSet(
        names=("age_h",),
        values=np.arange(q, dtype=np.float32)[:, None],
        labels=np.ones(q, np.int8),
        activities=np.arange(q, dtype=np.int64),
        sizes=np.ones(q, np.int64),
        wanted=np.ones(q, np.int64),
        times_us=np.arange(q, dtype=np.int64),
        users=tuple(users),
    )


def played(name: str, users: list[str], ndcg: list[float]) -> Played:
    return Played(name, of_users(users), np.array(ndcg, np.float64))


figures = st.one_of(st.floats(0, 1), st.just(float("nan")))


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), figures, figures), min_size=1, max_size=40),
)
@settings(max_examples=60, deadline=None)
def test_exchanging_the_two_turns_every_difference(
    rows: list[tuple[str, float, float]],
) -> None:
    users = [user for user, _, _ in rows]
    first = played("one", users, [ours for _, ours, _ in rows])
    second = played("two", users, [theirs for _, _, theirs in rows])
    if np.isnan(first.ndcg).all() and np.isnan(second.ndcg).all():
        with pytest.raises(TooFewEvents, match="nothing to compare"):
            compare(first, second, CONFIG, 1)
        return
    there, back = compare(first, second, CONFIG, 1), compare(second, first, CONFIG, 1)
    assert there.difference == pytest.approx(-back.difference, abs=1e-12)
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]), abs=1e-12)
    assert there.difference == pytest.approx(there.first_ndcg - there.second_ndcg, abs=1e-12)
    assert sum(band.users for band in there.bands) == there.users
    turned = {"better": "worse", "worse": "better", "level": "level"}
    assert back.verdict == turned[there.verdict]


def test_what_was_no_candidate_of_one_is_a_miss_of_it() -> None:
    users = ["ann", "bob", "carl"]
    report = compare(
        played("one", users, [1.0, float("nan"), float("nan")]),
        played("two", users, [1.0, 0.5, float("nan")]),
        CONFIG,
        1,
    )
    assert (report.requests, report.first_ndcg, report.second_ndcg) == (2, 0.5, 0.75)


def test_users_are_banded_by_their_requests() -> None:
    users = ["once", *["twice"] * 2, *["often"] * 5, *["always"] * 20]
    ones = [1.0] * len(users)
    worse_for_once = [0.0, *ones[1:]]
    report = compare(played("one", users, worse_for_once), played("two", users, ones), CONFIG, 1)
    assert [(band.name, band.users, band.difference, band.verdict) for band in report.bands] == [
        ("1 request", 1, -1.0, "worse"),
        ("2 to 4 requests", 1, 0.0, "level"),
        ("5 to 19 requests", 1, 0.0, "level"),
        ("20 or more requests", 1, 0.0, "level"),
    ]
    assert "one is not distinguishable from two" in report.sentence


def test_other_requests_are_not_compared() -> None:
    ann = played("one", ["ann"], [1.0])
    with pytest.raises(ValueError, match="the same requests"):
        compare(ann, played("two", ["bob"], [1.0]), CONFIG, 1)
    later = replace(ann.test, times_us=ann.test.times_us + 1)
    with pytest.raises(ValueError, match="the same requests"):
        compare(ann, Played("two", later, ann.ndcg), CONFIG, 1)


def test_chronological_shows_the_newest_first() -> None:
    data = replace(
        of_users(["ann"]),
        values=np.array([[2.0], [1.0]], np.float32),
        labels=np.array([0, 1], np.int8),
        activities=np.array([1, 2], np.int64),
        sizes=np.array([2], np.int64),
        names=("age_h",),
    )
    assert chronological(data, TrainingConfig()).ndcg.tolist() == [1.0]
