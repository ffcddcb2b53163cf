"""A training set on disk, as row trainers learn from it."""

from pathlib import Path

import numpy as np
import pytest

from training.errors import TooFewEvents
from training.events.synthetic import SyntheticLog, write_synthetic_log
from training.sets.building import build_training_set
from training.sets.files import StoredSet
from training.testing import community, events_of, log_of, write_export
from training.trainers.heads import HeadsTrainer
from training.trainers.stored import examples_of, split_examples

LATER_US = 1_800_000_000_000_000


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredSet:
    home = tmp_path_factory.mktemp("stored")
    log = SyntheticLog(events=4_000, users=60, days=8, seed=3)
    write_synthetic_log(log, home / "export", "acme")
    return build_training_set(
        home / "export", "acme", out=home / "set", scheduler="inline", clock=lambda: LATER_US
    )


def test_rows_are_those_of_the_frame(stored: StoredSet) -> None:
    frame, examples = stored.to_frame(), examples_of(stored)
    assert len(frame) == len(examples) == len(stored)
    np.testing.assert_array_equal(examples.values, frame[list(examples.names)].to_numpy())
    shown = frame["position"].fillna(-1).to_numpy()
    np.testing.assert_array_equal(examples.shown_at, shown)
    np.testing.assert_array_equal(
        examples.engaged["click"], frame["label_click"].fillna(-1).to_numpy()
    )
    users = np.asarray(frame["user_id"].astype(str))
    np.testing.assert_array_equal(examples.users[examples.request_of_row], users)
    assert len(examples.sizes) == stored.manifest.requests
    engaged = [name for name in frame.columns if name.startswith("label_") and "hide" not in name]
    np.testing.assert_array_equal(examples.relevance > 0, (frame[engaged] > 0).any(axis=1))


def test_the_last_requests_validate(stored: StoredSet) -> None:
    train, validation = split_examples(stored, 0.25)
    assert len(train) + len(validation) == len(stored)
    assert len(validation) == pytest.approx(len(stored) / 4, rel=0.1)


def test_heads_learn_from_it(stored: StoredSet) -> None:
    fitted = HeadsTrainer(classifier="linear", positives_min=5).fit(*split_examples(stored))
    assert fitted.figures["click_ece"] < 0.2
    assert "position" in fitted.scorer.spec.names


def test_a_set_without_rows_is_told(tmp_path: Path) -> None:
    unseen = log_of(events_of(community(1, users=4, days=3)))
    export = write_export(unseen, tmp_path / "export")
    empty = build_training_set(
        export, "acme", out=tmp_path, scheduler="inline", clock=lambda: LATER_US
    )
    with pytest.raises(TooFewEvents, match="has no rows"):
        split_examples(empty)
