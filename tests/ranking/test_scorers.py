"""Every scorer keeps the contract; what each adds to it."""

from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from xgboost import Booster

from ranking.errors import BundleDamaged, FeatureSpecMismatch
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.scorers.base import ExplainingScorer, Scorer
from ranking.scorers.boosted import BoostedScorer
from ranking.scorers.factorization import FactorizationScorer
from ranking.scorers.margins import Margins
from ranking.scorers.popularity import PopularityScorer
from ranking.scorers.recency import RecencyScorer
from ranking.testing import ScorerContract, feature_matrix
from ranking.testing_models import boosted_scorer

FOUR_COLUMNS = FeatureSpec(("age_h", "engagements_7d", "tag_count", "impressions_total"))


class TestRecencyScorer(ScorerContract):
    def scorer(self) -> Scorer:
        return RecencyScorer()


class TestPopularityScorer(ScorerContract):
    def scorer(self) -> Scorer:
        return PopularityScorer()


class TestFactorizationScorer(ScorerContract):
    def scorer(self) -> Scorer:
        return FactorizationScorer()


class TestBoostedScorer(ScorerContract):
    def scorer(self) -> Scorer:
        return boosted_scorer(rounds=20, depth=5)


def _matrix(spec: FeatureSpec, rows: list[list[float]]) -> FeatureMatrix:
    return FeatureMatrix(spec.names, np.array(rows, np.float32))


def test_newer_scores_higher() -> None:
    scorer = RecencyScorer(FeatureSpec(("tag_count", "age_h")))
    scores = scorer.score(_matrix(scorer.spec, [[9, 2.0], [9, 1.0], [9, np.nan]]))
    np.testing.assert_array_equal(np.array([-2, -1, np.nan], np.float32), scores)


def test_popularity_scores_by_the_column_it_was_told() -> None:
    scorer = PopularityScorer(FeatureSpec(("age_h", "engagements_7d")), "engagements_7d")
    assert scorer.score(_matrix(scorer.spec, [[1, 5], [2, 7]])).tolist() == [5, 7]


def test_factorization_scores_with_dot_and_bias() -> None:
    scorer = FactorizationScorer()
    scores = scorer.score(_matrix(scorer.spec, [[1, 0.5], [np.nan, np.nan]]))
    np.testing.assert_array_equal(np.array([1.5, np.nan], np.float32), scores)


@pytest.mark.parametrize("scorer", [RecencyScorer, PopularityScorer, FactorizationScorer])
def test_spec_without_the_column_is_refused(scorer: type) -> None:
    with pytest.raises(FeatureSpecMismatch, match="does not have"):
        scorer(FeatureSpec(("tag_count",)))


def test_matrix_without_the_column_is_refused() -> None:
    with pytest.raises(FeatureSpecMismatch, match="age_h"):
        RecencyScorer().score(_matrix(FeatureSpec(("tag_count",)), [[1]]))


def test_boosted_refuses_columns_in_another_order() -> None:
    scorer = boosted_scorer(FeatureSpec(("age_h", "tag_count")))
    with pytest.raises(FeatureSpecMismatch, match="in this order"):
        scorer.score(_matrix(FeatureSpec(("tag_count", "age_h")), [[1, 2]]))


def test_boosted_refuses_a_model_of_other_columns() -> None:
    content = boosted_scorer(FeatureSpec(("age_h", "tag_count"))).content
    with pytest.raises(FeatureSpecMismatch, match="trained on 2 columns"):
        BoostedScorer(FeatureSpec(("age_h",)), content)
    with pytest.raises(FeatureSpecMismatch, match="trained on the columns age_h, tag_count"):
        BoostedScorer(FeatureSpec(("tag_count", "age_h")), content)


def test_boosted_uses_the_rounds_it_was_told() -> None:
    full = boosted_scorer(rounds=8)
    features = feature_matrix(full.spec, 50, 2)
    half = BoostedScorer(full.spec, full.content, (0, 4))
    assert (full.score(features) != half.score(features)).any()
    whole = BoostedScorer(full.spec, full.content, (0, 8))
    np.testing.assert_array_equal(full.score(features), whole.score(features))
    added = half.contributions(features).sum(axis=1)
    np.testing.assert_allclose(half.score(features), added, atol=1e-5)
    with pytest.raises(BundleDamaged, match="has 8 rounds"):
        BoostedScorer(full.spec, full.content, (0, 9))


@given(
    values=arrays(
        np.float32,
        st.tuples(st.integers(1, 130), st.just(4)),
        elements=st.floats(-5, 5, width=32) | st.sampled_from([np.nan, np.inf, -np.inf]),
    ),
    last=st.integers(0, 8),
    order=st.sampled_from(["C", "F"]),
)
@settings(max_examples=60, deadline=None)
def test_boosted_scores_have_the_bits_of_xgboosts_own_prediction(
    values: np.ndarray, last: int, order: Literal["C", "F"]
) -> None:
    full = boosted_scorer(FOUR_COLUMNS, rounds=8)
    scorer = BoostedScorer(full.spec, full.content, (0, last))
    booster = Booster(model_file=bytearray(full.content))
    expected = booster.inplace_predict(
        values, iteration_range=(0, last), predict_type="margin", validate_features=False
    )
    scores = scorer.score(FeatureMatrix(full.spec.names, np.asarray(values, order=order)))
    np.testing.assert_array_equal(expected.view(np.uint32), scores.view(np.uint32))


def test_what_xgboost_refuses_is_raised_in_its_words() -> None:
    full = boosted_scorer(FOUR_COLUMNS, rounds=8)
    margins = Margins(Booster(model_file=bytearray(full.content)), (0, 9))
    with pytest.raises(RuntimeError, match="Out of range for tree layers"):
        margins(np.zeros((1, 4), np.float32))


def test_scores_of_threads_do_not_mix() -> None:
    scorer = boosted_scorer(rounds=20, depth=5)
    matrices = [feature_matrix(scorer.spec, 40 + each, each) for each in range(8)]
    expected = [scorer.score(matrix).tolist() for matrix in matrices]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            scored = [scores.tolist() for scores in pool.map(scorer.score, matrices)]
            assert expected == scored


def test_boosted_scores_no_rows() -> None:
    scorer = boosted_scorer()
    empty = feature_matrix(scorer.spec, 0, 1)
    assert scorer.score(empty).shape == (0,)
    assert scorer.contributions(empty).shape == (0, len(scorer.spec.names) + 1)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"{L", b"[1]", b'{"learner": 1}'])
def test_boosted_refuses_what_is_no_model(content: bytes) -> None:
    with pytest.raises(BundleDamaged, match=r"ranker\.ubj is damaged"):
        BoostedScorer(FeatureSpec(), content)


@pytest.mark.parametrize(
    "scorer", [boosted_scorer(), FactorizationScorer(), PopularityScorer(), RecencyScorer()]
)
def test_every_scorer_of_ours_explains(scorer: Scorer) -> None:
    assert isinstance(scorer, ExplainingScorer)
