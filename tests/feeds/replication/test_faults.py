"""A store and a replica together, under faults of the process and the disk."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from feeds.errors import ReplicaStopped, StorageFull
from feeds.replication.config import LogConfig
from feeds.replication.replica import ReplicaConfig, SingleReplica
from feeds.store.base import Store, Write
from feeds.store.rocks import RocksConfig, RocksStore

WAIT_S = 60
APPLIED = b"applied"
STORE = RocksConfig(write_buffer_bytes=64 * 1024, info_log_bytes_max=64 * 1024)

WRITER = """
import itertools, os, sys
from pathlib import Path
import structlog
from test_faults import Node

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
node = Node(Path(sys.argv[1]))
futures = []
for number in itertools.count():
    command = f"{sys.argv[2]}-{number}".encode()
    futures.append((command, node.replica.propose(command)))
    if len(futures) >= 32:
        command, future = futures.pop(0)
        os.write(1, b"%d %b\\n" % (future.result().index, command))
    if number % 300 == 299:
        node.compact()
"""


class Node:
    """A replica that applies to a store: each command's place, and how often it was applied."""

    def __init__(self, directory: Path, disk_reserve_bytes: int = 0) -> None:
        self.store: Store = RocksStore.open(directory / "store", STORE)
        config = ReplicaConfig(
            log=LogConfig(segment_bytes_max=4096), disk_reserve_bytes=disk_reserve_bytes
        )
        try:
            self.replica = SingleReplica.open(
                directory / "log", self.apply, self.applied_index, config
            )
        except BaseException:
            self.store.close()
            raise

    @property
    def applied_index(self) -> int:
        return int(self.store.get("meta", APPLIED) or 0)

    def apply(self, index: int, term: int, command: bytes) -> bytes:
        del term
        count = int(self.store.get("counters", command) or 0) + 1
        self.store.write(
            [
                Write("events", b"%012d" % index, command),
                Write("counters", command, b"%d" % count),
                Write("meta", APPLIED, b"%d" % index),
            ]
        )
        return b"%d" % count

    def compact(self) -> None:
        index = self.applied_index
        self.store.flush()
        self.replica.compact(index)

    def events(self) -> dict[int, bytes]:
        return {int(key): value for key, value in self.store.scan("events", b"", b"\xff")}

    def close(self) -> None:
        self.replica.close()
        self.store.close()


def check(node: Node, acknowledged: dict[int, bytes]) -> None:
    """Every acknowledged command is in its place, and every command was applied once."""
    events = node.events()
    assert acknowledged.items() <= events.items()
    assert list(range(1, node.applied_index + 1)) == list(events)
    assert {b"1"} == {value for _, value in node.store.scan("counters", b"", b"\xff")}
    assert len(list(node.store.scan("counters", b"", b"\xff"))) == len(events)


def test_kill_while_writing_loses_no_acknowledged_command(tmp_path: Path) -> None:
    acknowledged: dict[int, bytes] = {}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), "."])}
    for life, lines in enumerate([1, 40, 333, 700, 1_500]):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(life)],
            stdout=subprocess.PIPE,
            env=environment,
        ) as writer:
            assert writer.stdout is not None
            seen = list(itertools.islice(writer.stdout, lines))
            writer.send_signal(signal.SIGKILL)
            seen += writer.stdout.readlines()
        assert len(seen) >= lines
        for line in seen:
            if line.endswith(b"\n"):
                index, command = line.split()
                assert int(index) not in acknowledged
                acknowledged[int(index)] = command
        node = Node(tmp_path)
        check(node, acknowledged)
        node.close()
    assert len(acknowledged) >= 2_574


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB, with a file that can be removed to make room."""
    if shutil.which("mount") is None:
        pytest.skip("a tmpfs cannot be mounted here: there is no mount command")
    path = tmp_path / "disk"
    path.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mount.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mount.stderr.strip()}")
    (path / "ballast").write_bytes(bytes(6 * 1024 * 1024))
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def command(number: int) -> bytes:
    return b"%d:" % number + os.urandom(8 * 1024)


def fill(node: Node) -> tuple[dict[int, bytes], BaseException]:
    """Propose until one fails: what was acknowledged, and the error."""
    acknowledged: dict[int, bytes] = {}
    for number in itertools.count():
        sent = command(number)
        future = node.replica.propose(sent)
        error = future.exception(WAIT_S)
        if error is not None:
            return acknowledged, error
        acknowledged[future.result().index] = sent
    raise AssertionError


def test_full_disk_refuses_writes_and_goes_on_once_there_is_room(small_disk: Path) -> None:
    node = Node(small_disk, disk_reserve_bytes=3 * 1024 * 1024)
    acknowledged, error = fill(node)
    assert isinstance(error, StorageFull)
    assert len(acknowledged) > 10
    assert node.replica.status().role == "leader"
    check(node, acknowledged)
    (small_disk / "ballast").unlink()
    sent = command(-1)
    acknowledged[node.replica.propose(sent).result(WAIT_S).index] = sent
    check(node, acknowledged)
    node.close()
    node = Node(small_disk)
    check(node, acknowledged)
    node.close()


def test_disk_that_fills_up_without_a_reserve_loses_nothing_acknowledged(small_disk: Path) -> None:
    node = Node(small_disk)
    acknowledged, error = fill(node)
    assert isinstance(error, StorageFull | ReplicaStopped)
    assert len(acknowledged) > 10
    assert acknowledged.items() <= node.events().items()
    node.close()
    (small_disk / "ballast").unlink()
    node = Node(small_disk)
    check(node, acknowledged)
    sent = command(-1)
    acknowledged[node.replica.propose(sent).result(WAIT_S).index] = sent
    node.close()
    node = Node(small_disk)
    check(node, acknowledged)
    node.close()


def test_log_that_meets_a_full_disk_takes_the_write_back(small_disk: Path) -> None:
    applied: dict[int, bytes] = {}

    def apply(index: int, term: int, sent: bytes) -> bytes:
        del term
        applied[index] = sent
        return b""

    config = ReplicaConfig(disk_reserve_bytes=-1024 * 1024)  # no check: the write itself must fail
    replica = SingleReplica.open(small_disk / "log", apply, 0, config)
    refused = 0
    while not refused:
        futures = [replica.propose(command(number)) for number in range(100)]
        errors = [future.exception(WAIT_S) for future in futures]
        refused = sum(isinstance(error, StorageFull) for error in errors)
        assert refused == 100 - errors.count(None)
    assert len(applied) == replica.status().last_index
    (small_disk / "ballast").unlink()
    assert replica.propose(b"room").result(WAIT_S).index == len(applied)
    replica.close()
    again: dict[int, bytes] = {}
    expected, applied = applied, again
    SingleReplica.open(small_disk / "log", apply, 0, config).close()
    assert expected == again
