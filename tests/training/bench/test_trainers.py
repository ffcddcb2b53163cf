"""That the bench of trainers runs and says what it did; no test asserts a time."""

from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

from serving.measure import Figure
from training.bench.direct import MODELS, Model, Side, measured, save_data
from training.bench.trainers import train


@pytest.mark.parametrize("side", ["trainer", "library"])
@pytest.mark.parametrize("model", MODELS)
def test_trainer_and_library_train_on_the_same_file(
    model: Model, side: Side, tmp_path: Path
) -> None:
    random = np.random.default_rng(1)
    users, activities = random.integers(40, size=3_000), random.integers(30, size=3_000)
    taken = measured(save_data(users, activities, tmp_path / "data.npz"), model, side)
    assert taken.seconds > 0
    assert taken.peak_bytes > 10_000_000


def test_the_command_finds_it() -> None:
    (found,) = entry_points(group="headwater.benches", name="train")
    assert found.load() is train


@pytest.mark.slow
def test_each_model_is_told_beside_its_library(tmp_path: Path) -> None:
    told = list(train(tmp_path, 0.1))
    assert [each[0] for each in told[::2]] == [
        f"{model} on 3,000 made-up engagements" for model in MODELS
    ]
    for figure in told[1::2]:
        assert isinstance(figure, dict)
        Figure.of_rates("train", **figure)
        assert figure["peak_bytes"] > 10_000_000
