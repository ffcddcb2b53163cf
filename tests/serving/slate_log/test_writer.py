"""What is noted is written, a bounded time later; what cannot be is counted and hurts nobody."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from feeds.model import TenantId
from serving.slate_log.config import SlateLogConfig, SlateRules
from serving.slate_log.segments import SegmentDisk, SegmentReader
from serving.slate_log.shelf import segments_of, tenants_of
from serving.slate_log.testing import ACME, logged_slates, made_slate
from serving.slate_log.writer import SlateLog
from serving.telemetry import Metrics
from serving.testing import wait_until

QUICK = SlateLogConfig(flush_ms=1.0)
FEED = (ACME, "personalized")


def opened(
    directory: Path,
    config: SlateLogConfig = QUICK,
    rules: Callable[[TenantId], SlateRules] = lambda _: SlateRules(),
    **given: Any,
) -> SlateLog:
    return SlateLog(directory, config, rules, Metrics(), lambda: 7, **given)


def count(log: SlateLog, name: str, **labels: str) -> float:
    return log._metrics.registry.get_sample_value(f"headwater_{name}_total", labels) or 0.0


def test_what_is_noted_is_written_as_it_was(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.start()
    made = [made_slate(f"s{number}", number) for number in range(1, 30)]
    for each in made:
        log.note(*each)
    assert log.flush()
    assert logged_slates(tmp_path) == [each.logged() for each in made]
    assert count(log, "slates_logged") == 29
    sizes = sum(segment.bytes - 24 for segment in segments_of(tmp_path / ACME))
    assert count(log, "slate_log_bytes") == sizes
    log.stop()


def test_a_slate_is_drawn_by_the_lower_of_both_rates_the_same_ones_again(tmp_path: Path) -> None:
    rates = {"mine": 0.5, "theirs": 0.5, "both": 0.5, "whole": 1.0}
    drawn: dict[str, set[str]] = {}
    for name, rate in rates.items():
        rules = SlateRules(rate=1.0 if name == "mine" else rate)
        share = 1.0 if name == "theirs" else rate
        log = opened(
            tmp_path / name,
            rules=lambda _, rules=rules: rules,
            shares=lambda tenant, kind, share=share: share if (tenant, kind) == FEED else 0.0,
        )
        log.start()
        for number in range(60):
            log.note(*made_slate(f"s{number}", 2))
        log.stop()
        drawn[name] = {slate.slate_id for slate in logged_slates(tmp_path / name)}
    assert drawn["mine"] == drawn["theirs"] == drawn["both"] < drawn["whole"]
    assert 15 < len(drawn["both"]) < 45
    assert len(drawn["whole"]) == 60


def test_stopping_writes_what_waits(tmp_path: Path) -> None:
    log = opened(tmp_path, SlateLogConfig(flush_ms=60_000))
    log.start()
    log.note(*made_slate("a"))
    log.stop()
    log.stop()
    assert [slate.slate_id for slate in logged_slates(tmp_path)] == ["a"]


def test_a_slate_waits_no_longer_than_was_set(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.start()
    log.note(*made_slate("a"))
    wait_until(lambda: bool(logged_slates(tmp_path)), "a slate to be written by itself")
    log.stop()


def test_no_more_slates_wait_than_was_set(tmp_path: Path) -> None:
    log = opened(tmp_path, SlateLogConfig(flush_ms=60_000, flush_records=3))
    log.start()
    for name in "abc":
        log.note(*made_slate(name))
    wait_until(
        lambda: len(logged_slates(tmp_path)) == 3, "three slates to be written by themselves"
    )
    log.stop()


def test_a_full_queue_drops_and_counts(tmp_path: Path) -> None:
    log = opened(tmp_path, SlateLogConfig(queue_max=4))
    for number in range(10):
        log.note(*made_slate(f"s{number}"))
    assert count(log, "slates_dropped", cause="queue") == 6
    log.start()
    log.stop()
    assert [slate.slate_id for slate in logged_slates(tmp_path)] == ["s0", "s1", "s2", "s3"]


def test_all_candidates_are_logged_where_the_tenant_asks_for_them(tmp_path: Path) -> None:
    log = opened(tmp_path, rules=lambda tenant: SlateRules(candidates=tenant == "all"))
    log.start()
    few, many = made_slate("a"), made_slate("b", tenant="all")
    log.note(*few)
    log.note(*many)
    log.stop()
    assert logged_slates(tmp_path) == [few.logged()]
    assert logged_slates(tmp_path, "all") == [many.logged(candidates=True)]
    assert tenants_of(tmp_path) == [ACME, "all"]


def test_sampling_is_decided_by_the_id_and_close_to_its_rate(tmp_path: Path) -> None:
    made, drawn = made_slate("a", 1), []
    for rate in (0.0, 0.25, 0.25, 0.5, 1.0):
        config = SlateLogConfig(queue_max=10_000)
        log = opened(tmp_path, config, rules=lambda _, rate=rate: SlateRules(rate=rate))
        for number in range(4_000):
            object.__setattr__(made.slate, "request_id", f"slate-{number}")
            log.note(*made)
        drawn.append([each.key for each in log._queue])
    assert [len(keys) / 4_000 for keys in drawn] == pytest.approx([0, 0.25, 0.25, 0.5, 1], abs=0.03)
    assert drawn[1] == drawn[2]
    assert set(drawn[1]) < set(drawn[3]) < set(drawn[4])


class FullDisk(SegmentDisk):
    """Has no space, as long as `full`."""

    full = True

    def write_all(self, file: int, data: bytes) -> None:
        if FullDisk.full:
            os.write(file, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write_all(file, data)


def test_a_full_disk_is_counted_and_logged_once_and_over_once_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FullDisk, "full", True)
    log = opened(tmp_path, disk=FullDisk())
    with structlog.testing.capture_logs() as told:
        log.start()
        for name in "abc":
            log.note(*made_slate(name))
            assert log.flush()
            assert segments_of(tmp_path / ACME) == []
        monkeypatch.setattr(FullDisk, "full", False)
        log.note(*made_slate("d"))
        assert log.flush()
        log.stop()
    assert [line["event"] for line in told] == ["slate_log_failed", "slate_log_recovered"]
    assert told[0]["error"] == "No space left on device"
    assert count(log, "slates_dropped", cause="disk") == 3
    assert [slate.slate_id for slate in logged_slates(tmp_path)] == ["d"]


def test_a_directory_that_cannot_be_made_costs_slates_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    log = opened(tmp_path / "file")
    log.start()
    log.note(*made_slate("a"))
    assert log.flush()
    log.stop()
    assert count(log, "slates_dropped", cause="disk") == 1


def test_a_slate_longer_than_a_segment_is_dropped_and_counted(tmp_path: Path) -> None:
    log = opened(tmp_path, SlateLogConfig(flush_ms=1.0, segment_bytes=2_000))
    log.start()
    log.note(*made_slate("long", 200))
    log.note(*made_slate("short", 2))
    log.stop()
    assert [slate.slate_id for slate in logged_slates(tmp_path)] == ["short"]
    assert count(log, "slates_dropped", cause="size") == 1


def test_a_slate_that_cannot_be_packed_is_dropped_and_the_others_are_not(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.start()
    broken = made_slate("broken")
    object.__setattr__(broken.slate, "request_id", 7j)
    with pytest.raises(AttributeError):
        log.note(*broken)
    object.__setattr__(broken.slate, "request_id", "broken")
    object.__setattr__(broken.slate, "kind", 7j)
    log.note(*broken)
    log.note(*made_slate("sound"))
    log.stop()
    assert [slate.slate_id for slate in logged_slates(tmp_path)] == ["sound"]
    assert count(log, "slates_dropped", cause="failed") == 1


LIMITED = """
import sys
from pathlib import Path
from serving.slate_log.config import SlateLogConfig, SlateRules
from serving.slate_log.testing import made_slate
from serving.slate_log.writer import SlateLog
from serving.telemetry import Metrics

log = SlateLog(Path(sys.argv[1]), SlateLogConfig(), lambda _: SlateRules(), Metrics(), lambda: 7)
log.start()
for number in range(40):
    log.note(*made_slate(f"s{number}", 20))
    assert log.flush()
log.stop()
print(int(log._metrics.registry.get_sample_value("headwater_slates_logged_total")))
"""


def test_a_limit_of_the_system_leaves_whole_records(tmp_path: Path) -> None:
    limit = 20_000

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        preexec_fn=limited,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(len(logged_slates(tmp_path)))
    assert 0 < len(logged_slates(tmp_path)) < 40
    assert max(segment.bytes for segment in segments_of(tmp_path / ACME)) <= limit
    assert sum(SegmentReader(each.path).torn_bytes for each in segments_of(tmp_path / ACME)) == 0


CRASHING = """
import os, sys
from pathlib import Path
from serving.slate_log.config import SlateLogConfig, SlateRules
from serving.slate_log.testing import made_slate
from serving.slate_log.writer import SlateLog
from serving.telemetry import Metrics

config = SlateLogConfig(flush_ms=60_000)
log = SlateLog(Path(sys.argv[1]), config, lambda _: SlateRules(), Metrics(), lambda: 7)
log.start()
log.note(*made_slate("written"))
assert log.flush()
log.note(*made_slate("waiting"))
os._exit(9)
"""


def test_a_crash_loses_what_waits_and_nothing_else(tmp_path: Path) -> None:
    for number in range(1, 3):
        done = subprocess.run(
            [sys.executable, "-c", CRASHING, str(tmp_path)], capture_output=True, check=False
        )
        assert done.returncode == 9, done.stderr
        assert ["written"] * number == [slate.slate_id for slate in logged_slates(tmp_path)]
        assert number == len(segments_of(tmp_path / ACME))
