import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.scorers.calibration import KNOTS_MAX, Calibration, Isotonic, Platt

finite = st.floats(-1e6, 1e6)


@st.composite
def curves(draw: st.DrawFn) -> Isotonic:
    x = sorted(draw(st.sets(finite, min_size=1, max_size=20)))
    y = sorted(draw(st.lists(st.floats(0, 1), min_size=len(x), max_size=len(x))))
    return Isotonic(tuple(x), tuple(y))


platts = st.builds(Platt, st.floats(1e-3, 10), st.floats(-10, 10))


@given(curves() | platts, st.lists(finite, min_size=1, max_size=50))
def test_a_calibration_keeps_the_order_and_gives_probabilities(
    calibration: Calibration, scores: list[float]
) -> None:
    likely = calibration.probability(np.sort(np.array(scores)))
    assert ((likely >= 0) & (likely <= 1)).all()
    assert (np.diff(likely) >= -1e-12).all()


@given(curves() | platts, st.lists(finite, min_size=1, max_size=50))
def test_it_comes_back_from_a_manifest_bit_for_bit_whatever_is_scored_beside(
    calibration: Calibration, scores: list[float]
) -> None:
    read = msgspec.json.decode(msgspec.json.encode(calibration), type=Platt | Isotonic)
    assert calibration == read
    together = calibration.probability(np.array(scores))
    alone = np.concatenate([read.probability(np.array([score])) for score in scores])
    assert together.tobytes() == alone.tobytes()


def test_platt_is_the_logistic_function_of_a_line() -> None:
    assert Platt(2.0, 1.0).probability(np.array([0.5])) == pytest.approx([1 / (1 + math.exp(-2))])
    assert Platt().probability(np.array([-800.0, 800.0])).tolist() == [0.0, 1.0]


def test_isotonic_is_straight_between_knots_and_level_outside() -> None:
    curve = Isotonic((0.0, 1.0, 3.0), (0.125, 0.5, 0.5))
    scores = np.array([-9.0, 0.0, 0.5, 1.0, 2.0, 9.0])
    assert curve.probability(scores).tolist() == [0.125, 0.125, 0.3125, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("calibration", [Platt(), Isotonic((0.0,), (0.5,))])
def test_no_opinion_stays_none(calibration: Calibration) -> None:
    assert np.isnan(calibration.probability(np.array([np.nan]))).all()


@pytest.mark.parametrize(("slope", "offset"), [(0, 0), (-1, 0), (math.nan, 0), (1, math.inf)])
def test_platt_that_turns_the_order_round_is_refused(slope: float, offset: float) -> None:
    with pytest.raises(ValueError, match="give a slope above 0"):
        Platt(slope, offset)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ((), (), "has 0 scores and 0 probabilities"),
        ((0.0, 1.0), (0.5,), "has 2 scores and 1 probabilities"),
        (tuple(range(KNOTS_MAX + 1)), (0.5,) * (KNOTS_MAX + 1), "1 to 1000"),
        ((1.0, 1.0), (0.1, 0.2), "must be finite and rise"),
        ((0.0, math.inf), (0.1, 0.2), "must be finite and rise"),
        ((0.0, math.nan), (0.1, 0.2), "must be finite and rise"),
        ((0.0, 1.0), (0.2, 0.1), "never fall"),
        ((0.0, 1.0), (0.2, 1.1), "lie in 0 to 1"),
        ((0.0, 1.0), (0.2, math.nan), "lie in 0 to 1"),
    ],
)
def test_curve_that_is_none_is_refused(
    x: tuple[float, ...], y: tuple[float, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Isotonic(x, y)
