import pytest

from feeds.events import Engagement, Event
from feeds.model import ActivityId, UserId
from training.config import SplitConfig, TrainingConfig, preset
from training.errors import TooFewEvents, TrainingError
from training.sets.splits import PART_NAMES, split_by_time


def engagements(times: list[int]) -> list[Event]:
    return [
        Engagement(time_us=t, user=UserId("ann"), activity_id=ActivityId("a"), kind="like")
        for t in times
    ]


def test_parts_get_their_shares_in_order_of_time() -> None:
    split = split_by_time(engagements(list(range(1, 101))), SplitConfig(0.45, 0.2, 0.15, 0.2))
    parts = [split.part(time_us) for time_us in range(1, 101)]
    assert [parts.count(name) for name in PART_NAMES] == [45, 20, 15, 20]
    assert sorted(parts, key=PART_NAMES.index) == parts


def test_few_engagements_are_refused_with_their_number() -> None:
    with pytest.raises(TooFewEvents, match="3 engagements are too few"):
        split_by_time(engagements([1, 2, 3]), SplitConfig())


def test_engagements_of_one_moment_are_refused() -> None:
    with pytest.raises(TooFewEvents, match="too few different times"):
        split_by_time(engagements([7] * 100), SplitConfig())


def test_every_mistake_of_a_config_is_told_at_once() -> None:
    config = TrainingConfig(split=SplitConfig(0.5, 0.5, 0.5, -0.1))
    with pytest.raises(TrainingError, match=r"test is -0\.1.*add up to 1\.400"):
        config.check()


def test_an_unknown_preset_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(TrainingError, match="default, movielens, stackexchange"):
        preset("netflix")


def test_the_presets_are_valid() -> None:
    assert preset("stackexchange").check().split.test == pytest.approx(0.4)
