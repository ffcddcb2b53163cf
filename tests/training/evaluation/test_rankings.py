from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.config import EvaluationConfig
from training.errors import TooFewEvents
from training.evaluation.bootstrap import clustered_interval
from training.evaluation.rankings import (
    baseline_scores,
    judge,
    mean_ndcg,
    most_popular_column,
    not_better,
)
from training.sets.dataset import TrainingSet, joined

NAMES = ("age_h", "hours_since_active", "engagements_1d", "engagements_7d", "engagements_total")
CONFIG = EvaluationConfig(draws=200)


def small(requests: int = 20) -> TrainingSet:
    """Requests of 4 candidates, of which the third is relevant and most engaged with in a week."""
    row = [[1, 1, 0, 1, 9], [2, 2, 0, 2, 9], [3, 3, 0, 9, 9], [4, 4, 9, 0, 9]]
    return TrainingSet(
        names=NAMES,
        values=np.array(row * requests, np.float32),
        labels=np.array([0, 0, 1, 0] * requests, np.int8),
        activities=np.arange(4 * requests, dtype=np.int64),
        sizes=np.full(requests, 4, np.int64),
        wanted=np.full(requests, 1, np.int64),
        times_us=np.arange(requests, dtype=np.int64),
        users=tuple(f"u{n % 7}" for n in range(requests)),
    )


def test_a_perfect_ranking_has_ndcg_1_and_is_better_with_its_interval() -> None:
    data = small()
    rankings = baseline_scores(data, "engagements_7d", seed=1)
    perfect, chronological = (
        next(r for r in judge(data, rankings, CONFIG, seed=1) if r.name == name)
        for name in ("popular", "chronological")
    )
    assert perfect.ndcg == perfect.mrr == perfect.recall == perfect.ndcg_by_user == 1.0
    assert chronological.ndcg == pytest.approx(0.5)
    comparison, to_latest = perfect.comparisons
    assert (comparison.baseline, to_latest.baseline) == ("chronological", "latest activity")
    assert not_better(perfect, 10) == ()
    assert (comparison.verdict, comparison.by_user_verdict) == ("better", "better")
    assert comparison.sentence.startswith(
        "popular is better than chronological: NDCG@10 +0.500 [+0.500, +0.500]"
    )


def test_equal_rankings_are_level() -> None:
    data = small()
    rankings = baseline_scores(data, "engagements_7d", seed=1)
    rankings["twin"] = rankings["chronological"]
    twin = judge(data, rankings, CONFIG, seed=1)[-1]
    assert [c.verdict for c in twin.comparisons] == ["level", "worse", "level"]


def test_where_a_ranking_is_not_better_is_said_for_each_baseline_and_mean() -> None:
    data = small()
    rankings = baseline_scores(data, "engagements_7d", seed=1)
    rankings["twin"] = rankings["chronological"]
    twin = judge(data, rankings, CONFIG, seed=1)[-1]
    assert not_better(twin, 10)[:3] == (
        (
            "twin is not distinguishable from chronological when every request counts alike: "
            "NDCG@10 +0.000 [+0.000, +0.000]."
        ),
        (
            "twin is not distinguishable from chronological when every user counts alike: "
            "NDCG@10 +0.000 [+0.000, +0.000]."
        ),
        (
            "twin is worse than popular when every request counts alike: "
            "NDCG@10 -0.500 [-0.500, -0.500]."
        ),
    )


def test_popular_is_what_ranks_best() -> None:
    assert most_popular_column(small(), 10) == "engagements_7d"


def test_ties_stand_newest_first_and_missing_scores_last() -> None:
    data = small(1)
    nothing = np.full(4, np.nan, np.float32)
    assert mean_ndcg(data, nothing, 10) == pytest.approx(0.5)  # third place
    opinion = nothing.copy()
    opinion[2] = -1e30
    assert mean_ndcg(data, opinion, 10) == 1.0
    opinion[2] = np.inf
    assert mean_ndcg(data, opinion, 10) == pytest.approx(0.5)


def test_a_request_that_nothing_could_answer_counts_against_reach_alone() -> None:
    data = small(2)
    labels = data.labels.copy()
    labels[:4] = 0
    data = replace(data, labels=labels)
    assert data.reach == 0.5
    assert mean_ndcg(data, -data.matrix.column("age_h"), 10) == pytest.approx(0.5)


def test_a_test_part_without_relevant_candidates_is_refused() -> None:
    data = replace(small(), labels=np.zeros(80, np.int8))
    with pytest.raises(TooFewEvents, match="none of the 20 test requests"):
        judge(data, baseline_scores(data, "engagements_1d", 1), CONFIG, seed=1)


def test_joined_sets_keep_every_request() -> None:
    both = joined(small(3), small(4))
    assert len(both) == 7
    assert mean_ndcg(both, -both.matrix.column("age_h"), 10) == pytest.approx(0.5)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.floats(-1, 1)), min_size=1, max_size=30),
    st.integers(0, 5),
)
def test_an_interval_lies_within_the_users_means_and_repeats(
    pairs: list[tuple[str, float]], seed: int
) -> None:
    users, values = [u for u, _ in pairs], np.array([v for _, v in pairs])
    interval = clustered_interval(users, values, seed, 50)
    means = [values[[u == user for u in users]].mean() for user in set(users)]
    assert min(means) - 1e-9 <= interval.low <= interval.high <= max(means) + 1e-9
    assert interval.mean == pytest.approx(values.mean())
    assert interval == clustered_interval(users, values, seed, 50)


def test_requests_without_a_value_have_no_say() -> None:
    values = np.array([0.5, np.nan, 0.5])
    interval = clustered_interval(["a", "b", "c"], values, 1, 50)
    assert (interval.mean, interval.users) == (0.5, 2)
    assert clustered_interval(["a"], np.array([np.nan]), 1, 50).users == 0


def test_users_are_drawn_and_not_requests() -> None:
    """One user who disagrees with itself a hundred times is one draw."""
    values = np.array([0.0, 1.0] * 50)
    alone = clustered_interval(["a"] * 100, values, 1, 100)
    assert (alone.low, alone.high) == (0.5, 0.5)
