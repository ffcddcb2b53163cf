"""Features over workers are those of one process, bit for bit, however the rows are cut."""

from pathlib import Path

import numpy as np
import pytest

from training.asof.answers import features_as_of
from training.cluster import InlineWorkers
from training.config import TrainingConfig
from training.events.columns import read_columns
from training.events.synthetic import SyntheticLog, write_synthetic_log
from training.sets.building import default_spec, rows_and_questions
from training.sets.labels import label_impressions
from training.sets.shelf import Shelf
from training.sets.spread import features_on_workers
from training.slates.served import NO_SLATES

ROWS = 15
"""Of the table: fewer than there are activities, so that some questions have no answer."""


class Places(InlineWorkers):
    """Workers of this process that say how many tasks could run at once."""

    def __init__(self, count: int) -> None:
        self.count = count

    @property
    def places(self) -> int:
        return self.count


@pytest.mark.parametrize("places", [1, 2, 5])
@pytest.mark.parametrize("events", [2_000, 0])
def test_features_over_workers_are_those_of_one_process(
    tmp_path: Path, places: int, events: int
) -> None:
    export = write_synthetic_log(SyntheticLog(2_000, 40, days=10), tmp_path / "export", "acme")
    columns, spec = read_columns(export, "acme"), default_spec()
    labelled = label_impressions(columns, TrainingConfig().labels, 1_900_000_000_000_000)
    _, questions = rows_and_questions(columns, labelled, NO_SLATES(len(spec.names)))
    if not events:
        questions = type(questions)(
            *(getattr(questions, name)[:0] for name in type(questions).__slots__)
        )
    rows, features = features_as_of(columns, questions, spec, ROWS)
    shelf = Shelf(tmp_path / "shelf")
    shelf.directory.mkdir()
    got, spread = features_on_workers(Places(places), shelf, columns, questions, spec, ROWS)
    assert np.array_equal(rows, got)
    assert spread.names == features.names
    assert spread.values.tobytes() == features.values.tobytes()
    assert len(rows) < len(questions) or not events
