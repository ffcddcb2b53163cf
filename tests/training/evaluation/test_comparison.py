"""Two rankings of the same requests."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import EvaluationConfig, TrainingConfig
from training.errors import TooFewEvents
from training.evaluation.comparison import Played, ShownAnswers, chronological, compare
from training.evaluation.rankings import request_ndcg
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
    nothing = np.full(1, np.nan)
    answers = ShownAnswers(data, np.zeros(2, np.float32))
    newest = chronological(Played("one", data, nothing, answers), TrainingConfig())
    assert newest.ndcg.tolist() == [1.0]
    assert newest.answers is not None
    assert newest.answers.scores.tolist() == [-2.0, -1.0]
    assert chronological(Played("one", data, nothing), TrainingConfig()).answers is None


PLACES = 10


def newest_served(seed: int, worth_of_age: float, requests: int = 1_500) -> TrainingSet:
    """Ten of thirty candidates were shown, the newest first, and looked at less and less."""
    random = np.random.default_rng(seed)
    ages = np.sort(random.random((requests, 30)), axis=1)
    looked = random.random((requests, PLACES)) < (1.0 + np.arange(PLACES)) ** -0.7
    liked = random.random((requests, PLACES)) < 0.15 * np.exp(worth_of_age * ages[:, :PLACES])
    labels = np.zeros((requests, 30), np.int8)
    labels[:, :PLACES] = looked & liked
    places = np.tile(np.r_[np.arange(PLACES), np.full(20, -1)], (requests, 1))
    users = [f"u{number}" for number in random.integers(0, 200, requests)]
    return replace(
        of_users(users),
        values=ages.astype(np.float32).reshape(-1, 1),
        labels=labels.ravel(),
        activities=np.arange(labels.size, dtype=np.int64),
        sizes=np.full(requests, 30, np.int64),
        wanted=labels.sum(axis=1, dtype=np.int64),
        positions=places.ravel().astype(np.int32),
    )


def by_age(name: str, data: TrainingSet, sign: int) -> Played:
    scores = sign * data.matrix.column("age_h")
    return Played(name, data, request_ndcg(data, scores, 10), ShownAnswers(data, scores))


def test_what_was_shown_decides_where_the_order_that_served_looks_better() -> None:
    data = newest_served(1, worth_of_age=4.0)  # what is older is liked more, and served below
    oldest, newest = by_age("oldest", data, 1), by_age("newest", data, -1)
    report = compare(oldest, newest, CONFIG, 1)
    assert report.verdict == "worse"
    assert report.shown is not None
    assert report.shown.verdict == "better"
    assert report.shown.sentence.startswith("oldest is better than newest by what was shown: of it")
    back = compare(newest, oldest, CONFIG, 1).shown
    assert back is not None
    assert back.difference == pytest.approx(-report.shown.difference)
    assert back.interval == pytest.approx(tuple(-end for end in report.shown.interval[::-1]))
    assert (back.first_share, back.verdict) == (report.shown.second_share, "worse")
    difference = report.shown.first_share - report.shown.second_share
    assert report.shown.difference == pytest.approx(difference)
    assert sum(band.users for band in report.shown.bands) == report.shown.users == 200


def test_what_was_shown_says_level_where_nothing_but_the_place_decides() -> None:
    data = newest_served(2, worth_of_age=0.0)
    report = compare(by_age("oldest", data, 1), by_age("newest", data, -1), CONFIG, 1)
    assert report.verdict == "worse"
    assert report.shown is not None
    assert report.shown.verdict == "level"


def test_where_it_is_not_known_what_was_shown_ndcg_decides() -> None:
    data = newest_served(3, worth_of_age=0.0, requests=20)
    told = by_age("oldest", data, 1)
    assert compare(told, replace(by_age("newest", data, -1), answers=None), CONFIG, 1).shown is None
    unknown = replace(data, positions=None)
    assert compare(by_age("a", unknown, 1), by_age("b", unknown, -1), CONFIG, 1).shown is None


def test_other_answered_requests_are_not_compared() -> None:
    data = newest_served(4, worth_of_age=0.0, requests=20)
    ours, theirs = by_age("oldest", data, 1), by_age("newest", data, -1)
    later = replace(data, times_us=data.times_us + 1)
    answers = ShownAnswers(later, later.matrix.column("age_h"))
    with pytest.raises(ValueError, match="the same requests"):
        compare(ours, replace(theirs, answers=answers), CONFIG, 1)
