"""`headwater import` as a process of its own: a full disk, kills, and logs that are not sound.

What the engine takes in is compared with the action log itself, and its counters with a recount.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from feeds import actions
from feeds.actions import Action
from feeds.bench import workload
from feeds.config import FeedsConfig
from feeds.directory import DataDirectory
from feeds.engine import FeedEngine
from feeds.errors import StorageError, StorageFull
from feeds.importer import replay
from feeds.model import TenantId
from feeds.replication.segment import SegmentReader
from feeds.testing_engine import check_counters, logged_events

DEMO = TenantId("demo")
ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
MIB = 1024 * 1024


def command(log: Path, data: Path) -> list[str]:
    program = [sys.executable, "-m", "serving", "import", str(log)]
    return [*program, "--tenant", "demo", "--data-dir", str(data), "--json"]


def run(log: Path, data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(log, data), capture_output=True, text=True, check=False, cwd=ROOT)


def write_log(path: Path, log: list[Action]) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(action) + b"\n" for action in log))
    return path


def heavy(events: int) -> list[Action]:
    """The workload with posts of 12 KB."""
    return [
        msgspec.structs.replace(action, custom=action.custom | {"text": os.urandom(6_000).hex()})
        if isinstance(action, actions.Post)
        else action
        for action in workload(events)
    ]


def check_complete(data: Path, log: list[Action], config: FeedsConfig | None = None) -> None:
    """Every action has taken effect once: the event log holds each, the counters are a recount."""
    with FeedEngine.open(data, config) as engine:
        told = Counter(type(event).__name__ for event in logged_events(engine, DEMO))
        sent = Counter(type(action).__name__ for action in log)
        follows = {(a.follower, a.target) for a in log if isinstance(a, actions.Follow)}
        assert {
            "Posted": sent["Post"],
            "Engagement": sent["Engage"],
            "Followed": len(follows),
        } == told
        check_counters(engine, DEMO)


class Disk:
    """A tmpfs of its own, which can grow."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, mebibytes: int) -> None:
        options = f"remount,size={mebibytes}m"
        subprocess.run(["mount", "-o", options, str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if shutil.which("mount") is None:
        pytest.skip("a tmpfs cannot be mounted here: there is no mount command")
    path = tmp_path / "disk"
    path.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mount.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mount.stderr.strip()}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_import_onto_a_disk_that_is_too_small_says_so_and_works_once_there_is_room(
    disk: Disk, tmp_path: Path
) -> None:
    log = list(workload(300))
    path, data = write_log(tmp_path / "log.jsonl", log), disk.path / "data"
    for _ in range(2):
        refused = run(path, data)
        told = json.loads(refused.stdout)
        assert (1, "StorageFull") == (refused.returncode, told["exception"])
        assert "is full" in told["error"]
        assert "nothing was written: free space there" in told["error"]
        assert "Traceback" not in refused.stderr
    disk.resize(200)
    with FeedEngine.open(data) as engine:
        assert (0, []) == (engine.status().last_index, engine.tenants())
    assert 0 == run(path, data).returncode
    check_complete(data, log)


def test_import_that_fills_the_disk_is_repeated_once_there_is_room(
    disk: Disk, tmp_path: Path
) -> None:
    log = heavy(18_000)
    path, data = write_log(tmp_path / "log.jsonl", log), disk.path / "data"
    disk.resize(64 + 8)  # the reserve, and room for some
    refused = run(path, data)
    told = json.loads(refused.stdout)
    assert (1, "StorageFull") == (refused.returncode, told["exception"])
    assert told["error"].startswith("action ")
    assert "Traceback" not in refused.stderr
    disk.resize(400)
    with FeedEngine.open(data) as engine:
        assert 0 < len(logged_events(engine, DEMO)) < len(log)
        check_counters(engine, DEMO)
    for _ in range(2):
        assert 0 == run(path, data).returncode
        check_complete(data, log)


@pytest.mark.parametrize("reserve_bytes", [0, 4 * MIB])
def test_engine_on_a_disk_that_fills_up_has_a_part_of_the_log_and_takes_the_rest_later(
    reserve_bytes: int, disk: Disk
) -> None:
    config = FeedsConfig(disk_reserve_bytes=reserve_bytes, write_buffer_bytes=MIB)
    log, data = heavy(24_000), disk.path / "data"
    with pytest.raises(StorageError), FeedEngine.open(data, config) as engine:  # noqa: PT012
        engine.create_tenant(DEMO).result()
        if reserve_bytes:
            with pytest.raises(StorageFull, match=r"^action "):
                replay(engine, DEMO, log)
            assert "leader" == engine.status().role
        replay(engine, DEMO, log)
    disk.resize(400)
    with FeedEngine.open(data, config) as engine:
        assert 0 < len(logged_events(engine, DEMO)) < len(log)
        check_counters(engine, DEMO)
        replay(engine, DEMO, log)
    check_complete(data, log, config)


@pytest.mark.parametrize("log_bytes", [50_000, 400_000, 900_000])
def test_import_that_is_killed_and_repeated_has_every_action_once(
    log_bytes: int, tmp_path: Path
) -> None:
    log = list(workload(12_000))
    path, data = write_log(tmp_path / "log.jsonl", log), tmp_path / "data"
    with subprocess.Popen(
        command(path, data), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as importing:
        deadline = time.monotonic() + DEADLINE_S
        while sum(file.stat().st_size for file in data.glob("log/*.log")) < log_bytes:
            assert importing.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
        importing.kill()
    durable = sum(1 for file in data.glob("log/*.log") for _ in SegmentReader(file))
    with FeedEngine.open(data) as engine:
        assert 0 < durable == engine.status().applied_index
        assert len(logged_events(engine, DEMO)) < len(log)
        check_counters(engine, DEMO)
    for _ in range(2):
        assert 0 == run(path, data).returncode
        check_complete(data, log)


def test_second_process_is_refused_by_name_and_the_first_goes_on(tmp_path: Path) -> None:
    log = list(workload(50))
    path, data = write_log(tmp_path / "log.jsonl", log), tmp_path / "data"
    with DataDirectory.lock(data):
        refused = run(path, data)
    told = json.loads(refused.stdout)
    assert (1, "DataDirectoryLocked") == (refused.returncode, told["exception"])
    assert f"in use by process {os.getpid()}: stop that process" in told["error"]
    assert 0 == run(path, data).returncode
    check_complete(data, log)


def test_empty_log_is_imported(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.jsonl", [])
    done = run(path, tmp_path / "data")
    assert (0, 0) == (done.returncode, json.loads(done.stdout)["actions"])


BROKEN = {
    "cut": (b'{"type":"engage","time_us":1', "not an action"),
    "not UTF-8": (b'{"type":"remove","activity_id":"\xff"}', "not an action"),
    "NaN": (b'{"type":"engage","value":NaN}', "not an action"),
    "year 9999": (
        b'{"type":"follow","time_us":253370764800000000,"follower":"timeline:x","target":"user:y"}',
        "lies outside 1970-01-01 to 2199-12-31",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_line_is_named_what_came_before_stays_and_the_mended_log_adds_the_rest(
    name: str, tmp_path: Path
) -> None:
    line, sentence = BROKEN[name]
    log = list(workload(100))
    sound, data = write_log(tmp_path / "log.jsonl", log), tmp_path / "data"
    lines = sound.read_bytes().splitlines()
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(b"\n".join([*lines[:50], line, *lines[50:]]))
    refused = run(broken, data)
    told = json.loads(refused.stdout)
    assert (1, True) == (refused.returncode, sentence in told["error"])
    assert told["error"].startswith(("broken.jsonl:51: ", "action 51: "))
    assert "Traceback" not in refused.stderr
    check_complete(data, log[:50])
    assert 0 == run(sound, data).returncode
    check_complete(data, log)
