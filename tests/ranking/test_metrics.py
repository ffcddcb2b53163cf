import doctest
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, ndcg_score

import feeds.counters
import ranking.metrics
import ranking.selectors
from ranking.errors import InvalidMetricInput
from ranking.metrics import (
    average_precision,
    bootstrap_interval,
    coverage,
    gini,
    mean_by_user,
    mean_defined,
    ndcg_at_k,
    novelty,
    paired_difference,
    recall_at_k,
    reciprocal_rank,
    reliability,
)

relevances = st.lists(st.integers(0, 3), min_size=2, max_size=30)
nan = math.nan


@pytest.mark.parametrize("module", [ranking.metrics, ranking.selectors, feeds.counters])
def test_the_examples_in_docstrings_hold(module: object) -> None:
    failed, tried = doctest.testmod(module)
    assert (failed, tried > 0) == (0, True)


@given(relevances, st.integers(1, 40))
def test_ndcg_is_scikit_learns(relevance: list[int], k: int) -> None:
    falling = np.arange(len(relevance), 0, -1)
    if not any(relevance):
        assert math.isnan(ndcg_at_k(relevance, k))
        return
    expected = ndcg_score([relevance], [falling], k=k)
    assert ndcg_at_k(relevance, k) == pytest.approx(expected, abs=1e-12)


@given(relevances)
def test_average_precision_is_scikit_learns(relevance: list[int]) -> None:
    binary = np.array(relevance) > 0
    if not binary.any():
        assert math.isnan(average_precision(relevance))
        return
    falling = np.arange(len(relevance), 0, -1)
    assert average_precision(relevance) == pytest.approx(average_precision_score(binary, falling))


@pytest.fixture(scope="module")
def ranx() -> Iterator[Callable[[dict[str, int], list[str], list[str]], dict[str, float]]]:
    """The figures of ranx for judged activities and an order; uncompiled, which saves a minute."""
    import numba  # noqa: PLC0415

    compiled, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, True
    try:
        from ranx import Qrels, Run, evaluate  # noqa: PLC0415

        def judge(judged: dict[str, int], order: list[str], names: list[str]) -> dict[str, float]:
            falling = {name: float(len(order) - place) for place, name in enumerate(order)}
            found = evaluate(Qrels({"q": judged}), Run({"q": falling}), names)
            return {name: float(value) for name, value in found.items()}

        yield judge
    finally:
        numba.config.DISABLE_JIT = compiled


@given(
    relevance=relevances.filter(any),
    never_shown=st.lists(st.integers(1, 3), max_size=4),
    k=st.integers(1, 40),
)
def test_metrics_are_those_of_ranx(
    ranx: Callable[[dict[str, int], list[str], list[str]], dict[str, float]],
    relevance: list[int],
    never_shown: list[int],
    k: int,
) -> None:
    """Also where some of what is relevant was no candidate."""
    order = [f"a{place}" for place in range(len(relevance))]
    judged = {name: each for name, each in zip(order, relevance, strict=True) if each}
    judged |= {f"b{number}": each for number, each in enumerate(never_shown)}
    total = len(judged)
    theirs = ranx(judged, order, [f"ndcg@{k}", f"recall@{k}", "mrr", "map"])
    ours = {
        f"ndcg@{k}": ndcg_at_k(relevance, k, ideal=list(judged.values())),
        f"recall@{k}": recall_at_k(relevance, k, total),
        "mrr": reciprocal_rank(relevance, total),
        "map": average_precision(relevance, total),
    }
    assert ours == pytest.approx(theirs)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**32))
def test_reliability_is_scikit_learns(bins: int, rows_of_each: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    probabilities = np.unique(random.random(bins * rows_of_each))
    outcomes = random.integers(0, 2, len(probabilities))
    ours = reliability(probabilities, outcomes, bins)
    observed, predicted = calibration_curve(
        outcomes, probabilities, n_bins=bins, strategy="quantile"
    )
    assert ours.predicted == pytest.approx(predicted)
    assert ours.observed == pytest.approx(observed)
    assert ours.error == pytest.approx(np.abs(observed - predicted).mean())


def test_probabilities_that_come_true_have_a_small_error_and_others_a_large_one() -> None:
    random = np.random.default_rng(1)
    truth = random.random(20_000)
    outcomes = (random.random(20_000) < truth).astype(int)
    assert reliability(truth, outcomes).error < 0.02
    assert reliability(truth**3, outcomes).error == pytest.approx(0.25, abs=0.02)
    assert math.isnan(reliability([], []).error)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.booleans()), min_size=1),
    st.integers(1, 12),
)
def test_equal_probabilities_share_a_bin_whatever_their_order(
    rows: list[tuple[float, bool]], bins: int
) -> None:
    forth, back = (
        reliability([p for p, _ in order], [float(o) for _, o in order], bins)
        for order in (rows, rows[::-1])
    )
    assert forth.predicted == pytest.approx(back.predicted)
    assert forth.observed == pytest.approx(back.observed)
    assert forth.share.sum() == pytest.approx(1)
    assert (np.diff(forth.predicted) > 0).all()
    assert forth.share @ forth.observed == pytest.approx(np.mean([o for _, o in rows]))


@given(relevances, st.integers(1, 40))
def test_metrics_lie_between_zero_and_one(relevance: list[int], k: int) -> None:
    values = (
        ndcg_at_k(relevance, k),
        recall_at_k(relevance, k),
        reciprocal_rank(relevance),
        average_precision(relevance),
        gini(relevance),
    )
    assert all(math.isnan(value) == (not any(relevance)) for value in values)
    assert all(math.isnan(value) or -1e-12 <= value <= 1 + 1e-12 for value in values)


def test_a_query_without_anything_relevant_has_no_value() -> None:
    for value in (
        ndcg_at_k([], 10),
        ndcg_at_k([0, 0], 10),
        recall_at_k([0], 10),
        reciprocal_rank([0]),
        average_precision([]),
    ):
        assert math.isnan(value)


def test_a_relevant_activity_that_was_no_candidate_counts_against_the_query() -> None:
    assert ndcg_at_k([0, 0], 10, ideal=[1]) == 0
    assert recall_at_k([1], 10, total=2) == 0.5
    assert reciprocal_rank([0], total=1) == 0
    assert average_precision([1], total=2) == 0.5


def test_queries_without_a_value_are_left_out_of_means() -> None:
    assert mean_defined([nan, 1, 0]) == 0.5
    assert math.isnan(mean_defined([nan]))
    users, means = mean_by_user(["b", "a", "a", "c"], [1, 0, 0.5, nan])
    assert users == ["a", "b"]
    assert means.tolist() == [0.25, 1]
    assert mean_by_user(["a"], [nan])[0] == []


def test_coverage_and_novelty() -> None:
    assert coverage([], 5) == 0
    assert coverage([3, 3], 2) == 0.5
    assert novelty([0, 1], 8) == 3
    assert math.isnan(novelty([], 8))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any))
def test_gini_is_the_mean_difference_of_all_pairs(counts: list[int]) -> None:
    numbers = np.array(counts, dtype=float)
    differences = np.abs(numbers[:, None] - numbers[None, :]).mean()
    assert gini(counts) == pytest.approx(differences / (2 * numbers.mean()))


def test_an_interval_is_made_again_from_its_seed() -> None:
    values = np.random.default_rng(1).random(200)
    first, second = (bootstrap_interval(values, seed=5) for _ in range(2))
    assert first == second
    assert first != bootstrap_interval(values, seed=6)
    assert first.low < first.mean < first.high
    assert first.users == 200


def test_an_interval_is_that_of_the_normal_distribution_for_many_users() -> None:
    values = np.random.default_rng(2).normal(1, 2, 5000)
    interval = bootstrap_interval(values, seed=1, draws=4000)
    error = values.std() / math.sqrt(5000)
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_a_95_percent_interval_holds_the_truth_about_that_often() -> None:
    draws = np.random.default_rng(3)
    held = 0
    for seed in range(300):
        interval = bootstrap_interval(draws.exponential(1, 80), seed, draws=400)
        held += interval.low <= 1 <= interval.high
    assert 0.88 <= held / 300 <= 0.99


def test_few_users_give_what_they_can() -> None:
    assert bootstrap_interval([], seed=1).users == 0
    assert math.isnan(bootstrap_interval([], seed=1).mean)
    alone = bootstrap_interval([0.4], seed=1)
    assert (alone.low, alone.mean, alone.high) == (0.4, 0.4, 0.4)


def test_the_paired_difference_sees_what_separate_intervals_do_not() -> None:
    baseline = np.random.default_rng(4).random(100)
    better = paired_difference(baseline + 0.01, baseline, seed=1)
    assert better.verdict() == "better"
    assert paired_difference(baseline, baseline + 0.01, seed=1).verdict() == "worse"
    assert paired_difference(baseline, baseline, seed=1).verdict() == "level"
    noise = np.random.default_rng(5).normal(0, 1, 100)
    assert paired_difference(baseline + noise - noise.mean(), baseline, seed=1).verdict() == "level"


def test_what_does_not_fit_together_is_refused() -> None:
    for wrong in (
        lambda: ndcg_at_k([1], 0),
        lambda: ndcg_at_k([nan], 5),
        lambda: ndcg_at_k([-1], 5),
        lambda: recall_at_k([1, 1], 5, total=1),
        lambda: coverage([1], 0),
        lambda: bootstrap_interval([nan], 1),
        lambda: bootstrap_interval([1], 1, level=1),
        lambda: bootstrap_interval([1], 1, draws=0),
        lambda: paired_difference([1, 2], [1], 1),
        lambda: mean_by_user(["a"], [1, 2]),
        lambda: reliability([0.5], [1, 0]),
        lambda: reliability([1.5], [1]),
        lambda: reliability([0.5], [2]),
        lambda: reliability([0.5], [1], bins=0),
    ):
        with pytest.raises(InvalidMetricInput):
            wrong()
