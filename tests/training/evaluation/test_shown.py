"""What a ranking is worth of what was shown, whatever order showed it."""

import numpy as np
import numpy.typing as npt
import pytest

from training.evaluation.rankings import mean_ndcg
from training.evaluation.shown import POWER_MAX, can_judge, examination_power, shown_share
from training.sets.dataset import TrainingSet

PLACES = 10


def shown_worth(data: TrainingSet, scores: npt.NDArray[np.float32], power: float) -> float:
    return shown_share(data, scores, power).whole


def answered(
    labels: list[list[int]], positions: list[list[int]], values: npt.NDArray[np.float32]
) -> TrainingSet:
    """Requests of a user each, a feature for each candidate."""
    sizes = [len(each) for each in labels]
    flat = np.concatenate(labels).astype(np.int8)
    return TrainingSet(
        names=("age_h",),
        values=np.asarray(values, np.float32).reshape(len(flat), 1),
        labels=flat,
        activities=np.arange(len(flat)),
        sizes=np.array(sizes, np.int64),
        wanted=np.array([sum(each) for each in labels], np.int64),
        times_us=np.arange(len(sizes)),
        users=tuple(f"u{number}" for number in range(len(sizes))),
        positions=np.concatenate(positions).astype(np.int32),
    )


def clicked(seed: int, power: float, worth: float, requests: int = 3_000) -> TrainingSet:
    """Ten of thirty candidates shown, the newest first; old ones are as good where `worth` is 0."""
    random = np.random.default_rng(seed)
    ages = np.sort(random.random((requests, 30)), axis=1)
    looked = random.random((requests, PLACES)) < (1.0 + np.arange(PLACES)) ** -power
    liked = random.random((requests, PLACES)) < 0.3 * np.exp(-worth * ages[:, :PLACES])
    labels = np.zeros((requests, 30), np.int64)
    labels[:, :PLACES] = looked & liked
    positions = np.tile(np.r_[np.arange(PLACES), np.full(20, -1)], (requests, 1))
    return answered(labels.tolist(), positions.tolist(), ages.astype(np.float32))


def test_worth_is_the_discounted_share_that_was_engaged_with() -> None:
    # Three candidates; the second was shown on top, the first below it and engaged with.
    data = answered([[1, 0, 0]], [[1, 0, -1]], np.zeros(3, np.float32))
    second = 1 / np.log2(3)
    first = np.array([3, 2, 1], np.float32)
    assert shown_worth(data, first, power=0.0) == pytest.approx(1 / (1 + second))
    assert shown_worth(data, first, power=1.0) == pytest.approx(2 / (1 + second))
    reversed_ = np.array([2, 3, 1], np.float32)
    assert shown_worth(data, reversed_, power=0.0) == pytest.approx(second / (1 + second))


def test_what_nobody_was_shown_counts_neither_for_nor_against() -> None:
    data = answered([[1, 0, 0]], [[0, 1, -1]], np.zeros(3, np.float32))
    for place_of_unshown in (0.5, 1.5, 2.5):
        scores = np.array([2, 1, place_of_unshown], np.float32)
        turned = np.array([1, 2, place_of_unshown], np.float32)
        assert shown_worth(data, scores, 0.0) > shown_worth(data, turned, 0.0)


def test_without_places_or_engagements_nothing_is_worth_anything() -> None:
    data = answered([[0, 0]], [[0, 1]], np.zeros(2, np.float32))
    assert not can_judge(data)
    assert shown_worth(data, np.zeros(2, np.float32), 1.0) == 0
    assert examination_power(data) == 0
    unknown = answered([[1, 0]], [[-1, -1]], np.zeros(2, np.float32))
    assert not can_judge(unknown)
    assert shown_worth(unknown, np.zeros(2, np.float32), 1.0) == 0
    assert examination_power(unknown) == 0
    assert can_judge(answered([[1, 0]], [[0, -1]], np.zeros(2, np.float32)))


def test_unscored_and_equal_candidates_stand_as_they_are_served() -> None:
    data = answered([[1, 0, 0]], [[0, 1, 2]], np.zeros(3, np.float32))
    in_order = shown_worth(data, np.array([3, 2, 1], np.float32), 0.0)
    assert shown_worth(data, np.full(3, np.nan, np.float32), 0.0) == in_order
    assert shown_worth(data, np.array([0, 0, np.nan], np.float32), 0.0) == in_order


@pytest.mark.parametrize("power", [0.0, 0.7, 1.2])
@pytest.mark.parametrize("worth", [0.0, 3.0])
def test_how_fast_looks_fall_is_found_in_what_was_shown(power: float, worth: float) -> None:
    assert examination_power(clicked(1, power, worth)) == pytest.approx(power, abs=0.15)


def test_power_is_bounded() -> None:
    data = clicked(1, 6.0, 0.0)
    assert examination_power(data) == POWER_MAX


def test_the_order_that_served_has_no_advantage_of_its_own() -> None:
    # Nothing but the place decides: NDCG among all says newest first, what was shown says level.
    data = clicked(2, 0.7, 0.0)
    newest, oldest = -data.matrix.column("age_h"), data.matrix.column("age_h")
    assert mean_ndcg(data, newest, 10) > 3 * mean_ndcg(data, oldest, 10)
    power = examination_power(data)
    level = shown_worth(data, newest, power) / shown_worth(data, oldest, power)
    assert level == pytest.approx(1, abs=0.1)


def test_an_order_that_is_better_is_worth_more_though_it_served() -> None:
    data = clicked(3, 0.7, 5.0)
    newest, oldest = -data.matrix.column("age_h"), data.matrix.column("age_h")
    power = examination_power(data)
    assert shown_worth(data, newest, power) > 1.15 * shown_worth(data, oldest, power)


def test_mean_over_requests_is_the_share_of_any_of_them() -> None:
    data = clicked(4, 0.7, 3.0, requests=200)
    share = shown_share(data, -data.matrix.column("age_h"), power=0.7)
    assert share.by_request().mean() == pytest.approx(share.whole, rel=1e-12)
    some = np.arange(0, 200, 3)
    gained, possible = share.gained[some].sum(), share.possible[some].sum()
    assert share.of(some).whole == pytest.approx(gained / possible)
    assert share.of(some).by_request().mean() == pytest.approx(gained / possible)


def test_a_bootstrap_of_the_linear_form_has_the_spread_of_the_share() -> None:
    share = shown_share(data := clicked(5, 0.7, 3.0), data.matrix.column("age_h"), power=0.7)
    random = np.random.default_rng(1)
    draws = [random.integers(0, len(data), len(data)) for _ in range(400)]
    exact = np.array([share.of(rows).whole for rows in draws])
    linear = np.array([share.by_request()[rows].mean() for rows in draws])
    assert linear.std() == pytest.approx(exact.std(), rel=0.05)
    assert linear.mean() == pytest.approx(exact.mean(), rel=0.01)
