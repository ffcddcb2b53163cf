import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.linear_model import LogisticRegression

from ranking.scorers.calibration import Isotonic, Platt
from training.trainers.calibration import (
    calibrate,
    expected_calibration_error,
    held_out_error,
)

ROWS = 4_000


def drawn(seed: int, slope: float, offset: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = random.normal(size=ROWS) * 2
    return scores, random.random(ROWS) < Platt(slope, offset).probability(scores)


def test_platt_finds_slope_and_offset_as_scikit_learn_does() -> None:
    scores, happened = drawn(1, 0.6, -1.0)
    found = calibrate("platt", scores, happened)
    assert isinstance(found, Platt)
    model = LogisticRegression(C=np.inf).fit(scores[:, None], happened)
    assert found.slope == pytest.approx(float(model.coef_[0, 0]), abs=0.005)
    assert found.offset == pytest.approx(float(model.intercept_[0]), abs=0.005)


def test_platt_never_turns_the_order_round() -> None:
    scores, happened = drawn(1, 1.0, 0.0)
    found = calibrate("platt", -scores, happened)
    assert isinstance(found, Platt)
    assert 0 < found.slope < 1e-3


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibrated_probabilities_are_near_what_happens(method: str) -> None:
    scores, happened = drawn(1, 0.6, -1.0)
    before = expected_calibration_error(Platt().probability(scores), happened)
    halves = np.arange(ROWS) % 2 == 0
    after = held_out_error(method, scores, happened, halves)
    assert before > 0.1
    assert after < 0.03


@given(
    hnp.arrays(np.float64, st.integers(2, 60), elements=st.floats(-1e3, 1e3)),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["platt", "isotonic"]),
)
@settings(max_examples=60, deadline=None)
def test_any_calibration_rises_and_stays_within_0_and_1(
    scores: np.ndarray, seed: int, method: str
) -> None:
    happened = np.random.default_rng(seed).random(len(scores)) < 0.5
    happened[:2] = [False, True]
    likely = calibrate(method, scores, happened).probability(np.sort(scores))
    assert (np.diff(likely) >= 0).all()
    assert ((likely >= 0) & (likely <= 1)).all()


def test_isotonic_holds_its_knots_within_the_limit() -> None:
    scores = np.linspace(-9, 9, 9_000)
    happened = np.random.default_rng(1).random(9_000) < Platt().probability(scores)
    found = calibrate("isotonic", scores, happened)
    assert isinstance(found, Isotonic)
    assert len(found.x) <= 1_000


def test_the_error_is_the_distance_of_each_bin() -> None:
    likely = np.repeat([0.2, 0.8], 50)
    happened = np.concatenate([np.arange(50) < 20, np.arange(50) < 40])
    # 0.2 against 0.4 for half of the rows, 0.8 against 0.8 for the others
    assert expected_calibration_error(likely, happened, bins=2) == pytest.approx(0.1)
    assert np.isnan(expected_calibration_error(np.zeros(0), np.zeros(0, np.bool_)))


def test_no_error_is_told_where_a_half_has_one_outcome() -> None:
    scores, happened = np.arange(4.0), np.array([True, True, False, True])
    assert np.isnan(held_out_error("platt", scores, happened, happened))
