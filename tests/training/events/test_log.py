from pathlib import Path

import pytest

from feeds.events import (
    EVENT_SCHEMA,
    Engagement,
    Event,
    FeedbackGiven,
    Followed,
    Impression,
    Posted,
    Removed,
    Unfollowed,
)
from feeds.model import ActivityId, UserId
from training.errors import ExportDamaged
from training.events.log import DELETED_USERS, load_events, read_event_log
from training.testing import community, events_of, log_of, write_export

DAY = 86_400_000_000
A = ActivityId("87a9eec0-fd5f-11e8-8080-80013fed2f5b")
EVENTS: list[Event] = [
    Posted(
        time_us=DAY + 1,
        activity_id=A,
        actor="user:1",
        verb="post",
        object="x",
        feed="user:1",
        to=("topic:q",),
        tags=("q", "r"),
        length=7,
    ),
    Followed(time_us=DAY + 2, follower="timeline:2", target="user:1", since_us=5, derived=True),
    Impression(time_us=2 * DAY, user=UserId("2"), activity_id=A, feed="f:1", position=3),
    Engagement(time_us=DAY + 3, user=UserId("2"), activity_id=A, kind="like", value=0.5),
    Unfollowed(time_us=2 * DAY, follower="timeline:2", target="user:1", keep_history=True),
    Removed(time_us=2 * DAY, activity_id=A),
    FeedbackGiven(time_us=2 * DAY, user=UserId("2"), kind="mute", actor="user:1"),
    FeedbackGiven(
        time_us=2 * DAY, user=UserId("2"), kind="show_less", activity_id=A, tags=("q", "r")
    ),
    FeedbackGiven(time_us=2 * DAY, user=UserId("2"), kind="reject", to=("user:1", "topic:q")),
]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_export(log_of(EVENTS), tmp_path)


def parquet(export: Path) -> Path:
    return min(export.rglob("*.parquet"))


def test_events_come_back_as_they_were_in_log_order(export: Path) -> None:
    log = read_event_log(export, "acme")
    assert log.events == EVENTS
    assert log.indexes == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert log_of(EVENTS).fingerprint == log.fingerprint


def test_a_frame_has_the_columns_of_the_schema_and_a_row_an_event(export: Path) -> None:
    frame = load_events(export, "acme")
    assert [name for name, _ in EVENT_SCHEMA] == list(frame.columns)
    assert list(frame["type"]) == [
        "posted",
        "followed",
        "impression",
        "engagement",
        "unfollowed",
        "removed",
        "feedback",
        "feedback",
        "feedback",
    ]
    assert str(frame["time"].dt.tz) == "UTC"


def test_a_file_that_the_manifest_does_not_name_is_not_read(export: Path) -> None:
    stray = parquet(export).with_name("events-9-9.parquet")
    stray.write_bytes(parquet(export).read_bytes())
    assert len(EVENTS) == len(read_event_log(export, "acme"))


def test_a_missing_export_is_refused_with_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(ExportDamaged, match="run `headwater export --tenant acme` first"):
        read_event_log(tmp_path, "acme")


def test_a_flipped_byte_is_refused_naming_the_file(export: Path) -> None:
    path = parquet(export)
    damaged = bytearray(path.read_bytes())
    damaged[40] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ExportDamaged, match=rf"{path.name}: its checksum"):
        read_event_log(export, "acme")


def test_a_missing_file_is_refused_naming_it(export: Path) -> None:
    path = parquet(export)
    path.unlink()
    with pytest.raises(ExportDamaged, match=path.name):
        read_event_log(export, "acme")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schema_version":1', '"schema_version":2', "schema version 2; this release reads"),
        ('"path":"day', '"path":"../../day', "lies outside the export"),
        ('"files":[', '"files":[[', "delete the export"),
    ],
)
def test_a_damaged_manifest_is_refused(export: Path, old: str, new: str, message: str) -> None:
    manifest = export / "tenant=acme" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(old, new))
    with pytest.raises(ExportDamaged, match=message):
        read_event_log(export, "acme")


def test_an_export_without_events_is_refused(tmp_path: Path) -> None:
    write = write_export(log_of([]), tmp_path)
    with pytest.raises(ExportDamaged, match="no events"):
        read_event_log(write, "acme")


def test_what_deleted_users_did_is_not_read(tmp_path: Path) -> None:
    log = log_of(events_of(community(1, users=6, days=6)))
    write_export(log, tmp_path)
    whole = read_event_log(tmp_path, "acme")
    listed = tmp_path / "tenant=acme" / DELETED_USERS
    listed.write_text("u1\n\n author3 \nnobody\n", encoding="utf-8")
    read = read_event_log(tmp_path, "acme")
    told = repr(read.events)
    assert "user='u1'" in repr(whole.events)
    assert "'timeline:u1'" in repr(whole.events)
    assert "user='u1'" not in told
    assert "'timeline:u1'" not in told
    assert not [e for e in read.events if isinstance(e, Posted) and e.actor == "user:author3"]
    # Others' follows of a deleted author, and all else, stay where they were in the log.
    kept = dict(zip(read.indexes, read.events, strict=True))
    assert kept.items() <= dict(zip(whole.indexes, whole.events, strict=True)).items()
    assert len(load_events(tmp_path, "acme")) == len(read)


def test_a_list_of_deleted_users_that_is_no_text_is_named(tmp_path: Path) -> None:
    write_export(log_of(events_of(community(1, users=6, days=6))), tmp_path)
    (tmp_path / "tenant=acme" / DELETED_USERS).write_bytes(b"\xff\xfe")
    with pytest.raises(ExportDamaged, match=r"deleted_users\.txt cannot be read"):
        read_event_log(tmp_path, "acme")
