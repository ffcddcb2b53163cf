"""A training set on disk: what is in it, that it is whole, and that there is one or none."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from feeds.counters import DAY_US
from feeds.events import ENGAGEMENT_KINDS, Event, Removed
from ranking.features import FeatureSpec
from training import build_training_set, read_training_set
from training.config import LabelConfig, TrainingConfig
from training.errors import ExportDamaged, TrainingError, TrainingSetDamaged
from training.events.log import EventLog, read_event_log
from training.events.synthetic import SyntheticLog, write_synthetic_log
from training.sets.building import LEFT_OUT
from training.sets.files import HEAD, LABELS, StoredSet
from training.testing import log_of, write_export

NOW_US = 1_900_000_000_000_000
SIZE = SyntheticLog(events=3_000, users=60, days=10)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_log(SIZE, tmp_path_factory.mktemp("export"), "acme")


def build(export: Path, out: Path, **options: object) -> StoredSet:
    return build_training_set(
        export,
        "acme",
        out=out,
        scheduler="inline",
        clock=lambda: NOW_US,
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def stored(export: Path, tmp_path_factory: pytest.TempPathFactory) -> StoredSet:
    return build(export, tmp_path_factory.mktemp("sets"))


def test_a_row_is_an_impression_with_its_labels_and_features(stored: StoredSet) -> None:
    frame = stored.to_frame()
    assert list(frame.columns) == [*HEAD, *stored.spec.names]
    assert len(frame) == len(stored) > 1_000
    assert not set(LEFT_OUT) & set(stored.spec.names)
    assert set(frame["features_from"]) == {"as_of"}
    assert frame["propensity"].isna().all()
    assert {0, 1} == set(frame["label_click"].dropna())
    assert frame["label_comment"].isna().any()  # a week is not over
    assert frame.dtypes[stored.spec.names[0]] == np.float32


def test_rows_lie_by_time_then_request_then_position(stored: StoredSet) -> None:
    frame = stored.to_frame(columns=["request_id", "time", "position"])
    assert frame["time"].is_monotonic_increasing
    changes = (frame["request_id"] != frame["request_id"].shift()).sum()
    assert changes == frame["request_id"].nunique() == stored.manifest.requests
    same = frame["request_id"] == frame["request_id"].shift()
    assert (frame["position"].diff()[same] > 0).all()


def test_a_part_of_the_time_is_that_part(stored: StoredSet) -> None:
    whole = stored.to_frame(columns=["time", "user_id"])
    middle = whole["time"].iloc[len(whole) // 2]
    cut_us = middle.value // 1_000
    early = stored.to_frame(until_us=cut_us, columns=["time", "user_id"])
    late = stored.to_frame(since_us=cut_us, columns=["time", "user_id"])
    assert (early["time"] < middle).all()
    assert (late["time"] >= middle).all()
    assert len(early) + len(late) == len(whole)


def test_the_same_data_gives_the_same_set_however_it_is_cut(
    export: Path, stored: StoredSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = build(export, tmp_path / "again")
    assert again.fingerprint == stored.fingerprint
    monkeypatch.setattr("training.sets.building._PART_ROWS_MAX", 100)
    monkeypatch.setattr("training.sets.building._EVENT_BYTES", 10**6)
    parted = build(export, tmp_path / "parted")
    assert len(parted.manifest.files) > 10
    pd.testing.assert_frame_equal(
        plain(parted.to_frame()), plain(stored.to_frame()), check_exact=True
    )
    requests = [set(part["request_id"]) for part in parted.parts(["request_id"])]
    assert sum(map(len, requests)) == len(set().union(*requests)) == parted.manifest.requests


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(**{name: frame[name].astype(str) for name in HEAD if name.endswith("_id")})


def test_the_manifest_says_what_it_was_made_from(export: Path, stored: StoredSet) -> None:
    manifest = stored.manifest
    assert manifest.tenant == "acme"
    assert FeatureSpec.from_json(manifest.spec) == stored.spec
    assert len(manifest.events_fingerprint) == 32
    assert manifest.slates_fingerprint == ""
    assert "features" in manifest.code_version
    assert manifest.counts["events"] == SIZE.events == len(read_event_log(export, "acme"))
    assert manifest.labels["windows_s"]["click"] == 3_600


def test_other_windows_give_another_fingerprint(
    export: Path, stored: StoredSet, tmp_path: Path
) -> None:
    windows = dict.fromkeys(ENGAGEMENT_KINDS, 60)
    config = TrainingConfig(labels=LabelConfig(windows_s=windows))
    assert build(export, tmp_path, config=config).fingerprint != stored.fingerprint


def test_read_finds_what_build_left(stored: StoredSet) -> None:
    found = read_training_set(stored.directory.parent, "acme")
    assert found == stored
    found.check()


def test_a_file_cut_in_half_is_refused_with_a_sentence(export: Path, tmp_path: Path) -> None:
    made = build(export, tmp_path)
    path = tmp_path / "tenant=acme" / made.manifest.files[0].path
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(TrainingSetDamaged, match=r"part-00000.parquet: .* build the set again"):
        read_training_set(tmp_path, "acme").to_frame()
    with pytest.raises(TrainingSetDamaged, match="checksum"):
        read_training_set(tmp_path, "acme").check()


def test_an_export_cut_in_half_is_refused_and_the_set_before_stays(
    tmp_path: Path,
) -> None:
    export = write_synthetic_log(SIZE, tmp_path / "export", "acme")
    before = build(export, tmp_path / "sets")
    path = next((export / "tenant=acme").glob("day=*/*.parquet"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ExportDamaged, match="checksum"):
        build(export, tmp_path / "sets")
    assert read_training_set(tmp_path / "sets", "acme").fingerprint == before.fingerprint
    assert [path.name for path in (tmp_path / "sets").iterdir()] == ["tenant=acme"]


def test_a_full_disk_leaves_the_set_that_was_there(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build(export, tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.sets.tasks.write_part", full)
    with pytest.raises(TrainingError, match=r"No space left.*was there before is untouched"):
        build(export, tmp_path)
    assert read_training_set(tmp_path, "acme") == before
    assert [path.name for path in tmp_path.iterdir()] == ["tenant=acme"]


def test_a_set_takes_the_place_of_the_one_before(export: Path, tmp_path: Path) -> None:
    build(export, tmp_path)
    spec = FeatureSpec(("age_h", "engagements_total"))
    build(export, tmp_path, spec=spec)
    assert read_training_set(tmp_path, "acme").spec == spec
    assert [path.name for path in tmp_path.iterdir()] == ["tenant=acme"]


def test_what_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(TrainingSetDamaged, match="headwater dataset build"):
        read_training_set(tmp_path, "acme")


@pytest.mark.parametrize("count", [0, 1, 10])
def test_hardly_any_events_give_a_set_without_rows_or_with_few(
    export: Path, tmp_path: Path, count: int
) -> None:
    log = read_event_log(export, "acme")
    few = EventLog("acme", log.indexes[:count], log.events[:count])
    made = build(write_export(few, tmp_path / "few"), tmp_path / "sets")
    assert made.manifest.counts["events"] == count
    assert list(made.to_frame().columns) == [*HEAD, *made.spec.names]


def test_an_impression_of_a_removed_activity_is_left_out_and_counted(
    export: Path, tmp_path: Path
) -> None:
    log = read_event_log(export, "acme")
    shown = next(event for event in log.events if type(event).__name__ == "Impression")
    events: list[Event] = []
    for event in log.events:
        if event is shown:
            events.append(Removed(time_us=event.time_us - 1, activity_id=event.activity_id))
        events.append(event)
    made = build(write_export(log_of(events), tmp_path / "export"), tmp_path / "sets")
    frame = made.to_frame(columns=["activity_id"])
    assert made.manifest.counts["not_in_table"] > 0
    assert shown.activity_id not in set(frame["activity_id"])


def test_too_little_memory_is_refused(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingError, match="512 MiB at least"):
        build(export, tmp_path, memory_bytes=1_000)
    monkeypatch.setattr("training.sets.building._READING_BYTES", 1_000_000)
    with pytest.raises(TrainingError, match="2862 MiB at least"):
        build(export, tmp_path, memory_bytes=2_000_000_000)
    assert not list(tmp_path.iterdir())


def test_a_column_of_the_set_is_no_feature(export: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="position is a column of every training set"):
        build(export, tmp_path, spec=FeatureSpec(("age_h", "position")))


def test_dask_workers_give_the_same_set(export: Path, stored: StoredSet, tmp_path: Path) -> None:
    made = build_training_set(export, "acme", out=tmp_path, clock=lambda: NOW_US)
    assert made.fingerprint == stored.fingerprint


def test_the_log_of_a_size_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = (write_synthetic_log(SIZE, tmp_path / name) for name in ("one", "two"))
    logs = [read_event_log(path, "synthetic") for path in (first, second)]
    assert logs[0].fingerprint == logs[1].fingerprint
    assert len(logs[0]) == SIZE.events
    times = np.array([event.time_us for event in logs[0].events])
    assert (np.diff(times) < 0).any()  # some are late
    assert times.max() - times.min() < (SIZE.days + 2) * DAY_US
    assert os.path.commonpath([first, second]) == str(tmp_path)
    assert set(LABELS) <= set(HEAD)
