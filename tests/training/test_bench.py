"""That the bench of trainers runs and says what it did; no test asserts a time."""

from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

from serving.measure import Doing, Figure, Sizes, compared
from training.bench import Compared, train
from training.bench_direct import MODELS, Model, Side, measured, save_data


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


def test_the_command_finds_it_and_tells_it_as_its_own() -> None:
    (found,) = entry_points(group="headwater.benches", name="train")
    assert found.load() is train

    def made_up(work: Path, seconds: float, events: int) -> list[Compared]:
        del work, seconds
        return [
            Compared("next", 0.5),
            Compared("als", 1.0, [20], "library", [10], "below 1.15", {"rows": float(events)}),
        ]

    doing, figure = compared("train", made_up)(Path(), 1.0, Sizes(engagements=7))
    assert doing == Doing("next", 0.5)
    assert isinstance(figure, Figure)
    assert (figure.bench, figure.what, figure.ratio) == ("train", "als", 2.0)
    assert figure.details == {"rows": 7.0}
