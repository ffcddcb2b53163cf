import numpy as np
import pytest

from ranking.errors import BundleDamaged, FeatureSpecMismatch
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.scorers.base import Scorer
from ranking.scorers.linear import LinearScorer
from ranking.testing import ScorerContract
from ranking.testing_models import linear_scorer

SPEC = FeatureSpec(("age_h", "tag_count"))


class TestLinearScorer(ScorerContract):
    def scorer(self) -> Scorer:
        return linear_scorer()


def scorer(
    coefficients: tuple[float, ...] = (2.0, -3.0),
    missing: tuple[float, ...] = (0.5, 7.0),
    bias: float = 1.0,
) -> LinearScorer:
    return LinearScorer(SPEC, np.array(coefficients), np.array(missing), bias)


def test_each_column_adds_its_term_or_its_number_for_what_is_missing() -> None:
    features = FeatureMatrix(SPEC.names, np.array([[1, 2], [np.nan, 1]], np.float32))
    assert scorer().score(features).tolist() == [1 + 2 - 6, 1 + 0.5 - 3]
    assert scorer().contributions(features).tolist() == [[2, -6, 1], [0.5, -3, 1]]


def test_columns_in_another_order_are_refused() -> None:
    features = FeatureMatrix(SPEC.names[::-1], np.zeros((1, 2), np.float32))
    with pytest.raises(FeatureSpecMismatch, match="in this order, and was given tag_count, age_h"):
        scorer().score(features)


def test_numbers_for_other_columns_are_refused() -> None:
    with pytest.raises(FeatureSpecMismatch, match="its spec names 2 columns"):
        scorer(missing=(1.0,))


@pytest.mark.parametrize("wrong", [{"bias": np.inf}, {"missing": (np.nan, 0.0)}])
def test_numbers_without_end_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BundleDamaged, match=r"ranker\.npz has numbers that are not finite"):
        scorer(**wrong)  # type: ignore[arg-type]  # one of each


def test_file_without_its_arrays_is_refused() -> None:
    with pytest.raises(BundleDamaged, match=r"head-like\.npz is damaged"):
        LinearScorer.parse(SPEC, b"", "head-like.npz")
