import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.config import RankingConfig
from ranking.config_options import ValueOptions
from ranking.errors import FeatureSpecMismatch
from ranking.features import FeatureMatrix, FeatureParameters, FeatureSpec
from ranking.pipeline import build_ranker
from ranking.scorers.base import Scorer
from ranking.scorers.popularity import PopularityScorer
from ranking.scorers.value import HEAD_KINDS, Head, ValueScorer
from ranking.testing import ScorerContract, feature_matrix
from ranking.testing_models import value_scorer


class Linear:
    """A sum of columns with coefficients; what it adds is what it says."""

    name = "linear"

    def __init__(self, bias: float = 0.0, **coefficients: float) -> None:
        self.bias = np.float32(bias)
        self.spec = FeatureSpec(tuple(coefficients))
        self.coefficients = np.array(list(coefficients.values()), np.float32)

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        assert features.names == self.spec.names
        return np.asarray(self.contributions(features).sum(axis=1, dtype=np.float32))

    def contributions(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        added = np.nan_to_num(features.values) * self.coefficients
        return np.column_stack([added, np.full(len(added), self.bias)]).astype(np.float32)


class TestValueScorer(ScorerContract):
    def scorer(self) -> Scorer:
        return value_scorer()


def matrix(names: tuple[str, ...], rows: list[list[float]]) -> FeatureMatrix:
    return FeatureMatrix(names, np.array(rows, np.float32))


def logistic(margin: float) -> float:
    return 1 / (1 + math.exp(-margin))


def test_the_value_is_the_weighted_sum_of_probabilities() -> None:
    like, hide = Head("like", Linear(0.5, age_h=1.0)), Head("hide", Linear(tag_count=-2.0))
    scorer = ValueScorer([like, hide], {"like": 2.0, "hide": -3.0})
    features = matrix(("age_h", "tag_count"), [[1, 1], [-4, 0]])
    assert scorer.spec.names == ("age_h", "tag_count")
    expected = [2 * logistic(1.5) - 3 * logistic(-2), 2 * logistic(-3.5) - 3 * logistic(0)]
    assert scorer.score(features) == pytest.approx(expected, abs=1e-6)
    likely = scorer.probabilities(features)
    assert likely["hide"] == pytest.approx([logistic(-2), 0.5], abs=1e-6)


def test_a_head_of_probabilities_is_taken_as_it_is() -> None:
    head = Head("like", Linear(0.25, age_h=0.5), calibration=None)
    scorer = ValueScorer([head], {"like": 4.0})
    features = matrix(("age_h",), [[1.0]])
    assert scorer.score(features).tolist() == [3.0]
    assert scorer.contributions(features) == pytest.approx(np.array([[2.0, 1.0]]))


def test_heads_are_for_what_a_config_has_weights_for() -> None:
    assert set(HEAD_KINDS) == set(ValueOptions().weights())


def test_a_kind_without_a_weight_is_not_asked() -> None:
    class Failing(Linear):
        def score(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
            raise AssertionError(features)

    heads = [Head("like", Linear(age_h=1.0)), Head("share", Failing(tag_count=1.0))]
    features = matrix(("age_h", "tag_count"), [[0, 0]])
    assert ValueScorer(heads, {"like": 2.0, "share": 0}).score(features).tolist() == [1.0]
    assert ValueScorer(heads, {}).score(features).tolist() == [0.0]


def test_no_opinion_of_a_head_that_counts_is_none_at_all() -> None:
    heads = [Head("like", PopularityScorer()), Head("hide", Linear(age_h=1.0))]
    scorer = ValueScorer(heads, {"like": 1.0, "hide": -1.0})
    scores = scorer.score(matrix(scorer.spec.names, [[np.nan, 0], [0, 0]]))
    assert np.isnan(scores).tolist() == [True, False]


class Silent:
    """Scores, and cannot say why."""

    name = "silent"
    spec = FeatureSpec(("engagements_1d",))

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        return features.values[:, 0]


def test_a_head_that_cannot_explain_leaves_the_sum_unexplained() -> None:
    heads = [Head("like", Silent()), Head("hide", Linear(age_h=1.0))]
    features = matrix(("engagements_1d", "age_h"), [[1, 1]])
    assert ValueScorer(heads, {"like": 1.0, "hide": 1.0}).contributions(features) is None
    assert ValueScorer(heads, {"hide": 1.0}).contributions(features) is not None


coefficients = st.floats(-3, 3)


@given(
    st.lists(st.tuples(coefficients, coefficients, coefficients), min_size=1, max_size=4),
    st.lists(st.floats(-50, 50), min_size=4, max_size=4),
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=6),
)
@settings(max_examples=150)
def test_contributions_add_up_to_the_score(
    drawn: list[tuple[float, float, float]],
    worth: list[float],
    rows: list[tuple[float, float]],
) -> None:
    kinds = ("like", "comment", "hide", "report")
    heads = [
        Head(kind, Linear(bias, age_h=one, tag_count=two))
        for kind, (bias, one, two) in zip(kinds, drawn, strict=False)
    ]
    scorer = ValueScorer(heads, dict(zip(kinds, worth, strict=True)))
    features = matrix(("age_h", "tag_count"), [list(row) for row in rows])
    added = scorer.contributions(features)
    assert added is not None
    totals = added.astype(np.float64).sum(axis=1)
    np.testing.assert_allclose(totals, scorer.score(features), atol=1e-5)


@given(st.integers(0, 2**20))
@settings(max_examples=30)
def test_each_head_adds_up_and_all_of_them_are_the_score(seed: int) -> None:
    scorer = value_scorer()
    features = feature_matrix(scorer.spec, 20, seed)
    heads = scorer.explained(features)
    assert [head.kind for head in heads] == [head.kind for head in scorer.heads]
    total = np.zeros(20)
    for head in heads:
        assert head.contributions is not None
        assert head.contributions.shape == (20, len(head.columns) + 1)
        added = head.contributions.astype(np.float64).sum(axis=1)
        np.testing.assert_allclose(added, head.probability, atol=1e-5)
        total += head.weight * head.probability.astype(np.float64)
    np.testing.assert_allclose(total, scorer.score(features), atol=1e-5)
    assert {head.kind: head.weight for head in heads}["click"] == 0


def test_a_feature_that_says_nothing_adds_nothing() -> None:
    scorer = ValueScorer([Head("like", Linear(1.0, age_h=0.0, tag_count=2.0))], {"like": 1.0})
    added = scorer.contributions(matrix(("age_h", "tag_count"), [[5, 1], [5, 0]]))
    assert added is not None
    assert added[:, 0].tolist() == [0, 0]
    assert added[0] == pytest.approx([0, logistic(3) - logistic(1), logistic(1)], abs=1e-6)
    assert added[1] == pytest.approx([0, 0, logistic(1)], abs=1e-6)


def test_the_weights_of_the_config_are_those_of_a_value_model() -> None:
    scorer = ValueScorer([Head("like", Linear(age_h=1.0)), Head("hide", Linear(age_h=1.0))], {})
    config = RankingConfig.parse({"explore": {"value": {"like": 7, "hide": -9}}})
    made = build_ranker(config, "explore", scorer).scorer
    assert isinstance(made, ValueScorer)
    assert (made.weights["like"], made.weights["hide"]) == (7, -9)
    assert made.heads is scorer.heads
    assert scorer.weights == {}


def test_heads_and_weights_that_make_no_model_are_refused() -> None:
    like = Head("like", Linear(age_h=1.0))
    with pytest.raises(ValueError, match="at least one"):
        ValueScorer([], {"like": 1.0})
    with pytest.raises(ValueError, match="one for each kind"):
        ValueScorer([like, like], {"like": 1.0})
    with pytest.raises(ValueError, match="weights of like are no numbers"):
        ValueScorer([like], {"like": math.nan})
    with pytest.raises(ValueError, match="no numbers"):
        ValueScorer([like], {}).weighed({"hide": math.inf})
    other = Linear(tag_count=1.0)
    other.spec = FeatureSpec(("tag_count",), parameters=FeatureParameters(rate_prior=0.5))
    with pytest.raises(FeatureSpecMismatch, match="train them together"):
        ValueScorer([like, Head("hide", other)], {"like": 1.0})


def test_a_matrix_without_a_column_of_a_head_is_refused() -> None:
    scorer = ValueScorer([Head("like", Linear(age_h=1.0))], {"like": 1.0})
    with pytest.raises(FeatureSpecMismatch, match="age_h"):
        scorer.score(feature_matrix(FeatureSpec(("tag_count",)), 2, 1))
