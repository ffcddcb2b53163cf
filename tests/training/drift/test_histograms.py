"""Histograms of a training set: exact edges, nothing lost, back from JSON as they were."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.scorers.recency import RecencyScorer
from training.drift.histograms import (
    BINS,
    Histogram,
    TrainingHistograms,
    training_histograms,
)
from training.errors import TrainingError
from training.sets.dataset import TrainingSet

samples = st.lists(
    st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf]),
    min_size=1,
    max_size=80,
).map(lambda values: np.array(values, np.float32))


@given(samples, samples)
def test_every_row_is_in_one_bin(sample: np.ndarray, other: np.ndarray) -> None:
    histogram = Histogram.of(sample)
    assert histogram.rows == len(sample)
    assert histogram.again(other).rows == len(other)
    assert histogram.counts[-1] == np.isnan(sample).sum()
    assert Histogram.even(sample).rows == len(sample)


@given(samples)
def test_the_same_sample_again_has_the_same_counts_in_any_order(sample: np.ndarray) -> None:
    histogram = Histogram.of(sample)
    assert histogram.again(np.random.default_rng(1).permutation(sample)) == histogram


@given(samples)
def test_edges_are_bounded_and_values_of_the_sample(sample: np.ndarray) -> None:
    edges = Histogram.of(sample).edges
    assert len(edges) <= 2 * (BINS - 1)
    values = set(sample.astype(np.float64).tolist())
    assert all(edge in values or np.nextafter(edge, np.inf) in values for edge in edges)


def test_edges_of_many_values_are_their_deciles() -> None:
    histogram = Histogram.of(np.arange(1, 1_001, dtype=np.float32))
    assert histogram.edges == tuple(range(100, 1_000, 100))
    assert histogram.counts == (*[100] * 10, 0)


def test_a_value_that_fills_a_bin_has_it_to_itself() -> None:
    histogram = Histogram.of(np.full(50, 3.0))
    assert histogram.counts == (0, 50, 0, 0)
    assert histogram.again(np.full(5, 2.0)).counts == (5, 0, 0, 0)
    assert histogram.again(np.full(5, 4.0)).counts == (0, 0, 5, 0)


def of_two_requests(positions: list[int] | None = None) -> TrainingSet:
    return TrainingSet(
        names=("age_h", "tag_overlap"),
        values=np.array([[1, np.nan], [2, 0.5], [3, 1]], np.float32),
        labels=np.array([1, 0, 1], np.int8),
        activities=np.array([1, 2, 3]),
        sizes=np.array([2, 1]),
        wanted=np.array([1, 1]),
        times_us=np.array([10, 20]),
        users=("a", "b"),
        positions=None if positions is None else np.array(positions, np.int32),
    )


def test_the_document_of_a_training_set_comes_back_bit_for_bit() -> None:
    document = training_histograms(of_two_requests(), RecencyScorer())
    known = TrainingHistograms.from_json(document)
    assert known.to_json() == document
    assert (known.scorer, known.shown, known.requests) == ("recency", False, 2)
    assert sorted(known.features) == ["age_h", "tag_overlap"]
    assert known.features["age_h"] == Histogram.of(np.array([1, 2, 3], np.float32))
    assert known.features["tag_overlap"].missing == pytest.approx(1 / 3)
    assert known.score.rows == known.score_shape.rows == 3


def test_a_set_of_impressions_is_told_from_one_of_candidates() -> None:
    for positions, shown in (([0, 1, 0], True), ([-1, -1, -1], False)):
        document = training_histograms(of_two_requests(positions), RecencyScorer())
        assert TrainingHistograms.from_json(document).shown is shown


@pytest.mark.parametrize(
    "feature",
    [
        {"edges": [2, 1], "counts": [1, 1, 1, 0]},  # edges that fall
        {"edges": [1], "counts": [1, -1, 1]},
        {"edges": [1], "counts": [1, 1]},  # none for the missing
        {"edges": [1], "counts": [0, 0, 0]},
        {"edges": list(range(65)), "counts": [1] * 67},
    ],
)
def test_a_histogram_that_is_none_is_refused(feature: dict[str, list[int]]) -> None:
    document = json.loads(training_histograms(of_two_requests(), RecencyScorer()))
    document["features"]["age_h"] = feature
    with pytest.raises(TrainingError, match=r"training_histograms\.json .* train a new version"):
        TrainingHistograms.from_json(json.dumps(document).encode())


@pytest.mark.parametrize("document", [b"", b"{}", b'{"version": 2}'])
def test_a_document_that_is_none_is_refused(document: bytes) -> None:
    with pytest.raises(TrainingError, match="cannot be read"):
        TrainingHistograms.from_json(document)
