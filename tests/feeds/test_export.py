"""Exports: every event once, by day, whatever kills the export and wherever."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from feeds.counters import DAY_US
from feeds.engine import FeedEngine
from feeds.errors import DataDirectoryLocked, FormatUnsupported, NotFound, StorageError
from feeds.events import EVENT_SCHEMA, Engagement
from feeds.export import ExportDisk, Manifest, export
from feeds.model import ActivityDraft, FeedId, TenantId, UserId
from feeds.testing_engine import NOW_US, ManualClock, memory_engine

DEMO = TenantId("demo")
AUTHOR, TIMELINE = FeedId("user", "ann"), FeedId("timeline", "bob")


def filled(engine: FeedEngine, commands: int = 6) -> FeedEngine:
    """An engine with events on three days, several in a command."""
    draft = ActivityDraft(
        actor="user:ann",
        verb="ship",
        object="v1",
        to=("topic:news",),
        time_us=NOW_US - 2 * DAY_US,
        custom={"tags": ["gate"]},
    )
    activity = engine.post(DEMO, AUTHOR, draft).result().activity.id
    engine.follow(DEMO, TIMELINE, AUTHOR, derived=True).result()
    for number in range(commands):
        events = [
            Engagement(
                time_us=NOW_US - (number + place) % 3 * DAY_US + number,
                user=UserId("bob"),
                activity_id=activity,
                kind="like",
                value=number,
            )
            for place in range(3)
        ]
        engine.record(DEMO, events).result()
    engine.unfollow(DEMO, TIMELINE, AUTHOR, keep_history=True).result()
    engine.remove(DEMO, activity).result()
    return engine


@pytest.fixture
def engine() -> FeedEngine:
    return filled(memory_engine())


def exported(out: Path) -> list[dict[str, Any]]:
    """Every row that the manifest names, in log order, each file checked."""
    root = out / "tenant=demo"
    manifest = msgspec.json.decode((root / "manifest.json").read_bytes(), type=Manifest)
    rows = []
    for file in manifest.files:
        data = (root / file.path).read_bytes()
        assert file.sha256 == hashlib.sha256(data).hexdigest()
        table = pq.ParquetFile(root / file.path).read()
        assert [name for name, _ in EVENT_SCHEMA] == table.column_names
        assert file.rows == table.num_rows
        day = file.path.split("/")[0].removeprefix("day=")
        found = table.to_pylist()
        assert {day} == {str(row["time"].date()) for row in found}
        rows += found
    return sorted(rows, key=lambda row: (row["index"], row["ordinal"]))


def places(engine: FeedEngine) -> list[tuple[int, int]]:
    return [(index, ordinal) for index, ordinal, _ in engine.events(DEMO, 0, 10_000)]


def test_every_event_is_exported_once_by_day(engine: FeedEngine, tmp_path: Path) -> None:
    report = export(engine, DEMO, tmp_path)
    rows = exported(tmp_path)
    assert places(engine) == [(row["index"], row["ordinal"]) for row in rows]
    assert (22, 3, 22) == (report.events, report.files, report.events_total)
    posted, followed = rows[:2]
    assert ("posted", ["topic:news"], ["gate"]) == (posted["type"], posted["to"], posted["tags"])
    assert posted["user"] is None
    assert ("timeline:bob", True) == (followed["follower"], followed["derived"])
    assert NOW_US - 2 * DAY_US == round(followed["since"].timestamp() * 1e6)
    assert "unfollowed" == rows[-2]["type"]
    assert rows[-2]["keep_history"]


def test_second_export_adds_only_what_is_new(engine: FeedEngine, tmp_path: Path) -> None:
    export(engine, DEMO, tmp_path)
    assert 0 == export(engine, DEMO, tmp_path).events
    filled(engine)
    report = export(engine, DEMO, tmp_path, events_max=4)
    assert (22, 44) == (report.events, report.events_total)
    assert places(engine) == [(row["index"], row["ordinal"]) for row in exported(tmp_path)]


def test_the_tenants_quota_of_training_goes_with_its_events(
    engine: FeedEngine, tmp_path: Path
) -> None:
    def told() -> int | None:
        content = (tmp_path / "tenant=demo" / "manifest.json").read_bytes()
        return msgspec.json.decode(content, type=Manifest).training_minutes

    export(engine, DEMO, tmp_path)
    assert told() is None
    engine.set_quotas(DEMO, {"training_minutes": 7}).result()
    assert export(engine, DEMO, tmp_path).events == 0
    assert told() == 7
    assert places(engine) == [(row["index"], row["ordinal"]) for row in exported(tmp_path)]
    engine.set_quotas(DEMO, {"training_minutes": None}).result()
    export(engine, DEMO, tmp_path)
    assert told() is None


def test_the_active_ranking_config_goes_with_the_events(engine: FeedEngine, tmp_path: Path) -> None:
    def told() -> tuple[int, str | None]:
        content = (tmp_path / "tenant=demo" / "manifest.json").read_bytes()
        manifest = msgspec.json.decode(content, type=Manifest)
        return manifest.ranking_config_version, manifest.ranking_config

    export(engine, DEMO, tmp_path)
    assert told() == (0, None)
    document = '{"personalized": {"value": {"like": 3}}}'
    engine.save_ranking_config(DEMO, document.encode()).result()
    export(engine, DEMO, tmp_path)
    assert told() == (0, None)
    engine.activate_ranking_config(DEMO, 1, 0).result()
    assert export(engine, DEMO, tmp_path).events == 0
    assert told() == (1, document)
    engine.activate_ranking_config(DEMO, 0, 1).result()
    export(engine, DEMO, tmp_path)
    assert told() == (0, None)
    assert places(engine) == [(row["index"], row["ordinal"]) for row in exported(tmp_path)]


def test_small_chunks_export_the_same(engine: FeedEngine, tmp_path: Path) -> None:
    seen: list[int] = []
    export(engine, DEMO, tmp_path / "a", events_max=1, progress=seen.append)
    export(engine, DEMO, tmp_path / "b")
    assert exported(tmp_path / "a") == exported(tmp_path / "b")
    assert sorted(seen) == seen
    assert 22 == seen[-1]


class Killed(BaseException):
    """What stands for a kill: nothing below may catch it."""


class FailingDisk(ExportDisk):
    """Fails at one operation, before it, after it, or (a write) in its middle."""

    def __init__(self, fails_at: int, stage: str, error: BaseException) -> None:
        self._left = fails_at
        self._stage = stage
        self._error = error

    def _run(self, operation: Any, *arguments: Any) -> None:  # Any: each operation's own
        self._left -= 1
        if self._left == 0 and self._stage == "before":
            raise self._error
        operation(*arguments)
        if self._left == 0:
            raise self._error

    def make_directory(self, path: Path) -> None:
        self._run(super().make_directory, path)

    def write(self, path: Path, data: bytes) -> None:
        half = data[: len(data) // 2] if self._left == 1 and self._stage == "middle" else data
        self._run(super().write, path, half)

    def replace(self, source: Path, target: Path) -> None:
        self._run(super().replace, source, target)

    def remove(self, path: Path) -> None:
        self._run(super().remove, path)

    @property
    def spared(self) -> bool:
        """True if the export ended before the failure was due."""
        return self._left > 0


@pytest.mark.parametrize("stage", ["before", "middle", "after"])
def test_export_killed_anywhere_and_run_again_has_every_event_once(
    stage: str, tmp_path: Path
) -> None:
    engine = filled(memory_engine(), commands=2)
    expected = places(engine)
    failures = 0
    while True:
        out = tmp_path / f"{failures}"
        disk = FailingDisk(failures + 1, stage, Killed())
        try:
            export(engine, DEMO, out, disk=disk, events_max=5)
        except Killed:
            failures += 1
        if disk.spared:
            break
        export(engine, DEMO, out, events_max=3)
        assert expected == [(row["index"], row["ordinal"]) for row in exported(out)]
        named = set((out / "tenant=demo").rglob("*.parquet"))
        manifest = json.loads((out / "tenant=demo" / "manifest.json").read_bytes())
        assert {out / "tenant=demo" / file["path"] for file in manifest["files"]} == named
    assert failures > 10


def test_failure_of_the_disk_is_a_sentence_and_the_next_export_goes_on(
    engine: FeedEngine, tmp_path: Path
) -> None:
    disk = FailingDisk(6, "before", OSError(28, "No space left on device", "events.parquet"))
    with pytest.raises(StorageError, match=r"No space left on device .*export again"):
        export(engine, DEMO, tmp_path, disk=disk, events_max=4)
    export(engine, DEMO, tmp_path)
    assert places(engine) == [(row["index"], row["ordinal"]) for row in exported(tmp_path)]


def test_export_of_another_data_directory_is_refused(engine: FeedEngine, tmp_path: Path) -> None:
    export(engine, DEMO, tmp_path)
    other = filled(memory_engine(clock=ManualClock(NOW_US + 1)))
    with pytest.raises(FormatUnsupported, match="holds the export of another data directory"):
        export(other, DEMO, tmp_path)


def test_missing_file_and_damaged_manifest_are_refused(engine: FeedEngine, tmp_path: Path) -> None:
    export(engine, DEMO, tmp_path)
    root = tmp_path / "tenant=demo"
    next(root.rglob("*.parquet")).unlink()
    with pytest.raises(StorageError, match=r"is gone, though the manifest names it: delete"):
        export(engine, DEMO, tmp_path)
    for damaged in (b"{", b'{"schema_version":1,"tenant":"\xff"}', b""):
        (root / "manifest.json").write_bytes(damaged)
        with pytest.raises(StorageError, match=r"manifest.json cannot be read .* delete"):
            export(engine, DEMO, tmp_path)


def test_two_exports_at_once_are_refused(engine: FeedEngine, tmp_path: Path) -> None:
    def export_too(_: int) -> None:
        with pytest.raises(DataDirectoryLocked, match="another export writes to"):
            export(engine, DEMO, tmp_path)

    export(engine, DEMO, tmp_path, progress=export_too)


def test_unknown_tenant_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="tenant 'nobody' does not exist"):
        export(memory_engine(), TenantId("nobody"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


_CHILD = """
import sys
from pathlib import Path
from feeds.export import ExportDisk, export

class Telling(ExportDisk):
    def write(self, path, data):
        super().write(path, data)
        print(path.name, flush=True)

export(Path(sys.argv[1]), "demo", Path(sys.argv[2]), disk=Telling(), events_max=1)
"""


@pytest.mark.parametrize("writes", [1, 2, 7])
def test_export_that_is_really_killed_goes_on(writes: int, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    with FeedEngine.open(data, clock=ManualClock()) as opened:
        opened.create_tenant(DEMO).result()
        filled(opened)
        expected = places(opened)
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(data), str(out)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as child:
        assert child.stdout is not None
        for _ in range(writes):
            assert child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    assert -signal.SIGKILL == child.returncode
    export(data, DEMO, out)
    assert expected == [(row["index"], row["ordinal"]) for row in exported(out)]
