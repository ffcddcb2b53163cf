"""The last requests of a tenant as the slate log tells them."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from feeds.model import TenantId, UserId
from serving.served_requests import RecentRequests, ServedRequest
from serving.slate_log.config import SlateLogConfig, SlateRules
from serving.slate_log.record import LoggedSlate
from serving.slate_log.requests import LoggedRequests, _Asked
from serving.slate_log.shelf import segments_of
from serving.slate_log.testing import ACME, Made, made_slate
from serving.slate_log.writer import SlateLog
from serving.telemetry import Metrics

MIB = 1024 * 1024


def slate(name: str, user: str, time_us: int, source: str = "following") -> Made:
    """A slate of a user at a time."""
    made = made_slate(name)
    asked = replace(made.query, user=UserId(user), now_us=time_us, seed=time_us)
    scoring = made.slate.scoring
    assert scoring is not None
    kept = replace(scoring.kept, sources=(source,))
    ranked = replace(made.slate, user=UserId(user), scoring=replace(scoring, kept=kept))
    return Made(asked, ranked, made.table)


def write(directory: Path, *slates: Made, slot: int = 0) -> None:
    """Log slates, as a process of its own does."""
    log = SlateLog(
        directory, SlateLogConfig(), lambda _: SlateRules(), Metrics(), lambda: 7 + slot, slot=slot
    )
    log.start()
    for each in slates:
        log.note(*each)
    log.stop()


def last(
    directory: Path, count: int = 10, recent: RecentRequests | None = None, bytes_max: int = MIB
) -> list[ServedRequest]:
    logged = LoggedRequests(directory, recent or RecentRequests(10, 10), bytes_max)
    return asyncio.run(logged.last(ACME, count))


def asked(user: str, time_us: int, slate_id: str | None = None) -> ServedRequest:
    return ServedRequest(UserId(user), "personalized", time_us, time_us, slate_id)


def test_columns_are_the_first_of_a_logged_slate() -> None:
    names = LoggedSlate.__struct_fields__
    assert _Asked.__struct_fields__ == names[: len(_Asked.__struct_fields__)]


def test_the_newest_of_each_user_come_from_every_process_that_logged(tmp_path: Path) -> None:
    write(tmp_path, slate("a", "ann", 1), slate("b", "bob", 4), slot=0)
    write(tmp_path, slate("c", "ann", 3), slate("d", "joe", 2), slot=1)
    assert last(tmp_path) == [asked("bob", 4, "b"), asked("ann", 3, "c"), asked("joe", 2, "d")]
    assert last(tmp_path, 1) == last(tmp_path)[:1] or last(tmp_path, 1) == [asked("ann", 3, "c")]


def test_what_this_process_served_since_is_among_them(tmp_path: Path) -> None:
    write(tmp_path, slate("a", "ann", 1), slate("b", "bob", 2))
    recent = RecentRequests(10, 10)
    recent.note(ACME, asked("ann", 5))
    recent.note(TenantId("other"), asked("eve", 6))
    assert last(tmp_path, recent=recent) == [asked("ann", 5), asked("bob", 2, "b")]


def test_what_a_caller_brought_is_no_request_of_a_feed(tmp_path: Path) -> None:
    write(tmp_path, slate("a", "ann", 1), slate("b", "bob", 2, source="caller"))
    assert last(tmp_path) == [asked("ann", 1, "a")]


def test_no_more_than_the_bytes_allowed_are_read(tmp_path: Path) -> None:
    write(tmp_path, slate("a", "ann", 1), slot=0)
    write(tmp_path, slate("b", "bob", 2), slot=1)
    one = max(segment.bytes for segment in segments_of(tmp_path / ACME))
    assert [each.user for each in last(tmp_path, bytes_max=one)] == ["bob"]
    assert last(tmp_path, bytes_max=0) == []


@pytest.mark.parametrize("damage", ["none", "torn", "noise"])
def test_a_log_that_is_not_there_or_damaged_leaves_what_is_sound(
    tmp_path: Path, damage: str
) -> None:
    if damage != "none":
        write(tmp_path, slate("a", "ann", 1), slate("b", "bob", 2))
        (segment,) = segments_of(tmp_path / ACME)
        content = segment.path.read_bytes()
        segment.path.write_bytes(content[:-9] if damage == "torn" else b"\0" * len(content))
    found = [each.user for each in last(tmp_path)]
    assert found == (["ann"] if damage == "torn" else [])


def test_a_log_that_cannot_be_read_is_told_and_hinders_nothing(tmp_path: Path) -> None:
    (tmp_path / ACME).write_text("no directory")
    recent = RecentRequests(10, 10)
    recent.note(ACME, asked("ann", 5))
    with capture_logs() as logs:
        assert last(tmp_path, recent=recent) == [asked("ann", 5)]
    assert [line["event"] for line in logs] == ["slate_log_not_read"]
