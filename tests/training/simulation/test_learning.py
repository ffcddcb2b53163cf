"""Models that were trained on more of a community's events rank it better."""

from pathlib import Path

import pytest

from feeds.events import Engagement, Impression
from ranking.metrics import paired_difference
from training.errors import SimulationError
from training.simulation.community import Community
from training.simulation.config import SimulationConfig
from training.simulation.learning import LearningPoint, LoggedSlates, learning_curve
from training.simulation.platform import LocalPlatform
from training.simulation.plots import plot_learning
from training.simulation.policy import default_arms

CONFIG = SimulationConfig(users=40, topics=4)


@pytest.fixture(scope="module")
def points() -> list[LearningPoint]:
    return learning_curve(CONFIG, default_arms()[0], [1, 10])


def test_a_model_of_ten_days_lacks_less_than_newest_first(points: list[LearningPoint]) -> None:
    assert [point.days for point in points] == [0, 1, 10]
    assert [point.model for point in points] == ["newest", "newest", "value"]
    difference = paired_difference(points[-1].regrets, points[0].regrets, seed=1)
    assert difference.high < 0
    assert points[0].events == 0 < points[1].events < points[2].events


def test_what_has_too_few_events_for_a_model_is_ranked_alike(points: list[LearningPoint]) -> None:
    assert points[1].regrets == points[0].regrets
    assert points[0].interval[0] < points[0].regret < points[0].interval[1]


def test_learning_is_plotted(points: list[LearningPoint], tmp_path: Path) -> None:
    plot_learning(points).savefig(tmp_path / "learning.png")
    assert (tmp_path / "learning.png").stat().st_size > 10_000


def test_slates_become_examples_place_by_place() -> None:
    twin = LocalPlatform(default_arms()[0])
    slates = LoggedSlates(twin)
    community = Community(CONFIG, twin, slates.watch)
    community.step()
    train, validation = slates.examples()
    impressions = sum(isinstance(event, Impression) for event in twin.events)
    clicks = [e for e in twin.events if isinstance(e, Engagement) and e.kind == "click"]
    assert len(train) + len(validation) == impressions
    assert train.engaged["click"].sum() + validation.engaged["click"].sum() == len(clicks)
    assert train.shown_at is not None
    assert train.shown_at[: train.sizes[0]].tolist() == list(range(train.sizes[0]))
    assert not (set(train.names) & {"position", "factor_dot"})


def test_no_days_are_refused() -> None:
    with pytest.raises(SimulationError, match=r"days are \[\] and 1 judged"):
        learning_curve(SimulationConfig(), default_arms()[0], [])
