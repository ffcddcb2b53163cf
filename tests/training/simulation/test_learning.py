"""Models that were trained on more of a community's events rank it better."""

from pathlib import Path

import pytest

from training.config import BoostedConfig, BoostedVariant, FactorizationConfig, TrainingConfig
from training.errors import SimulationError
from training.simulation.config import SimulationConfig
from training.simulation.learning import learning_curve
from training.simulation.policy import default_arms

QUICK = TrainingConfig(
    factorization=FactorizationConfig(dimensions=4, epochs=3),
    boosted=BoostedConfig(variants=(BoostedVariant("boosted-3", 3),), trees_max=20),
)


def test_a_part_without_enough_events_is_ranked_newest_first(tmp_path: Path) -> None:
    config = SimulationConfig(users=20, days=2)
    (point,) = learning_curve(config, default_arms()[1], [1], tmp_path, training=QUICK)
    assert point.model == "newest"
    assert point.events > 0
    assert 0 < point.interval[0] <= point.regret <= point.interval[1] + 1e-9


def test_no_days_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match=r"days are \[\] and 1 judged"):
        learning_curve(SimulationConfig(), default_arms()[0], [], tmp_path)
