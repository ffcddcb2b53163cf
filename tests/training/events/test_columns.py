"""The log as columns holds every event at its place."""

from pathlib import Path

import numpy as np
import pytest

from feeds.events import Engagement, Followed, Impression, Posted, Removed, Unfollowed
from training.errors import ExportDamaged
from training.events.columns import UNNAMED, columns_of, read_columns
from training.events.log import DELETED_USERS, read_event_log
from training.events.synthetic import SyntheticLog, write_synthetic_log

SIZE = SyntheticLog(events=2_000, users=40, days=5)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_log(SIZE, tmp_path_factory.mktemp("export"), "acme")


def test_columns_say_what_the_events_say(export: Path) -> None:
    log, columns = read_event_log(export, "acme"), read_columns(export, "acme")
    assert columns.index.tolist() == log.indexes
    assert columns.time_us.tolist() == [event.time_us for event in log.events]
    for place, event in enumerate(log.events):
        if isinstance(event, Impression | Engagement):
            assert columns.users[columns.user[place]] == event.user
            assert columns.activities[columns.activity[place]] == event.activity_id
            assert columns.slates[columns.slate[place]] == event.slate_id
            assert columns.position[place] == event.position
        else:
            assert columns.user[place] == columns.slate[place] == UNNAMED
    assert [type(event) for event in log.events if isinstance(event, Impression)] == [
        Impression
    ] * columns.is_impression.sum()
    assert columns.is_engagement.sum() == sum(isinstance(event, Engagement) for event in log.events)
    whole = dict(columns.posts.events()) | dict(columns.follows.events())
    assert whole == {
        place: event
        for place, event in enumerate(log.events)
        if isinstance(event, Posted | Removed | Followed | Unfollowed)
    }


def test_columns_of_memory_and_of_disk_are_the_same(export: Path) -> None:
    read, made = read_columns(export, "acme"), columns_of(read_event_log(export, "acme"))
    for name in ("index", "code", "time_us", "position"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    names = [[columns.users[number] for number in columns.user] for columns in (read, made)]
    assert names[0] == names[1]


def test_deleted_users_are_in_no_column(tmp_path: Path) -> None:
    write_synthetic_log(SIZE, tmp_path, "acme")
    whole = read_columns(tmp_path, "acme")
    gone = whole.users[0]
    (tmp_path / "tenant=acme" / DELETED_USERS).write_text(f"{gone}\n")
    columns = read_columns(tmp_path, "acme")
    assert gone not in columns.users
    assert len(columns) < len(whole)
    assert columns.fingerprint != whole.fingerprint
    assert len(columns) == len(read_event_log(tmp_path, "acme"))


def test_a_file_cut_in_half_is_told_by_its_name(tmp_path: Path) -> None:
    write_synthetic_log(SIZE, tmp_path, "acme")
    path = next((tmp_path / "tenant=acme").glob("day=*/*.parquet"))
    path.write_bytes(path.read_bytes()[:1_000])
    with pytest.raises(ExportDamaged, match=rf"{path.name}: its checksum"):
        read_columns(tmp_path, "acme")
