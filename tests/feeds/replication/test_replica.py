import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from pathlib import Path
from threading import Event

import pytest

from feeds.errors import LimitExceeded, LogDamaged, Overloaded, ReplicaStopped, StorageFull
from feeds.replication import disk_space
from feeds.replication.base import Applied, ApplyCommand, Replica
from feeds.replication.config import LogConfig
from feeds.replication.replica import ReplicaConfig, SingleReplica
from feeds.testing import Recorder, ReplicaContract

WAIT_S = 30
SMALL = ReplicaConfig(log=LogConfig(segment_bytes_max=200), disk_reserve_bytes=0)


class TestSingleReplica(ReplicaContract):
    def open_replica(self, directory: Path, apply: ApplyCommand, applied_index: int) -> Replica:
        return SingleReplica.open(directory, apply, applied_index, SMALL)


class Gate:
    """An apply that waits before the first command until it is let through."""

    def __init__(self) -> None:
        self.reached = Event()
        self.opened = Event()
        self.recorder = Recorder()

    def __call__(self, index: int, term: int, command: bytes) -> bytes:
        self.reached.set()
        assert self.opened.wait(WAIT_S)
        return self.recorder(index, term, command)


@pytest.fixture
def gate() -> Gate:
    return Gate()


def propose_all(replica: Replica, commands: list[bytes]) -> list[Applied]:
    futures = [replica.propose(command) for command in commands]
    return [future.result(WAIT_S) for future in futures]


def test_commands_are_applied_on_one_thread(tmp_path: Path) -> None:
    recorder = Recorder()
    replica = SingleReplica.open(tmp_path, recorder, 0, SMALL)
    propose_all(replica, [b"x"] * 50)
    replica.close()
    assert len(recorder.threads) == 1


@pytest.mark.parametrize("applied", [0, 1, 7, 20])
def test_restart_applies_what_the_store_lacks_and_nothing_else(
    tmp_path: Path, applied: int
) -> None:
    commands = [b"%d" % n for n in range(20)]
    first = SingleReplica.open(tmp_path, Recorder(), 0, SMALL)
    propose_all(first, commands)
    first.close()
    recorder = Recorder()
    again = SingleReplica.open(tmp_path, recorder, applied, SMALL)
    assert list(enumerate(commands, 1))[applied:] == recorder.applied
    assert again.status().applied_index == 20
    assert again.propose(b"next").result(WAIT_S).index == 21
    again.close()


def test_restart_after_compaction_needs_only_the_rest(tmp_path: Path) -> None:
    first = SingleReplica.open(tmp_path, Recorder(), 0, SMALL)
    for _ in range(9):
        propose_all(first, [b"x" * 100])
    bytes_before = first.status().log_bytes
    first.compact(6)
    assert first.status().log_bytes < bytes_before
    first.close()
    recorder = Recorder()
    SingleReplica.open(tmp_path, recorder, 6, SMALL).close()
    assert [7, 8, 9] == [index for index, _ in recorder.applied]
    with pytest.raises(LogDamaged, match="records are missing"):
        SingleReplica.open(tmp_path, Recorder(), 3, SMALL)


def test_command_that_could_not_be_applied_is_applied_at_the_next_start(tmp_path: Path) -> None:
    replica = SingleReplica.open(tmp_path, Recorder(), 0, SMALL)
    with pytest.raises(ReplicaStopped, match="broken"):
        replica.propose(b"raise").result(WAIT_S)
    replica.close()
    with pytest.raises(OSError, match="broken"):
        SingleReplica.open(tmp_path, Recorder(), 0, SMALL)
    seen: list[bytes] = []
    SingleReplica.open(tmp_path, lambda *args: seen.append(args[2]) or b"", 0, SMALL).close()
    assert [b"raise"] == seen


def test_waiting_commands_share_one_sync(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    fdatasync = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda file: syncs.append(file) or fdatasync(file))
    config = ReplicaConfig(group_commit_ops_max=10, disk_reserve_bytes=0)
    replica = SingleReplica.open(tmp_path, gate, 0, config)
    first = replica.propose(b"first")
    assert gate.reached.wait(WAIT_S)
    before = len(syncs)
    futures = [replica.propose(b"%d" % n) for n in range(25)]
    gate.opened.set()
    assert list(range(2, 27)) == [future.result(WAIT_S).index for future in futures]
    assert first.result(0).index == 1
    assert len(syncs) - before == 3
    replica.close()


def test_group_is_limited_in_bytes_too(tmp_path: Path, gate: Gate) -> None:
    config = ReplicaConfig(group_commit_bytes_max=250, disk_reserve_bytes=0)
    replica = SingleReplica.open(tmp_path, gate, 0, config)
    replica.propose(b"first")
    assert gate.reached.wait(WAIT_S)
    futures = [replica.propose(b"x" * size) for size in (100, 100, 100, 900, 10)]
    gate.opened.set()
    assert [2, 3, 4, 5, 6] == [future.result(WAIT_S).index for future in futures]
    replica.close()


@pytest.mark.parametrize(
    ("config", "waiting"),
    [
        (ReplicaConfig(proposals_max=5, disk_reserve_bytes=0), 5),
        (ReplicaConfig(proposals_bytes_max=250, disk_reserve_bytes=0), 3),
    ],
)
def test_full_queue_refuses_at_once_and_takes_more_later(
    tmp_path: Path, gate: Gate, config: ReplicaConfig, waiting: int
) -> None:
    replica = SingleReplica.open(tmp_path, gate, 0, config)
    first = replica.propose(b"first")
    assert gate.reached.wait(WAIT_S)
    futures = [replica.propose(b"x" * 100) for _ in range(waiting)]
    with pytest.raises(Overloaded, match=f"{waiting} commands .* retry"):
        replica.propose(b"x")
    gate.opened.set()
    done = [future.result(WAIT_S).index for future in (first, *futures)]
    assert list(range(1, waiting + 2)) == done
    assert replica.propose(b"x").result(WAIT_S).index == waiting + 2
    replica.close()


def test_command_above_the_limit_is_refused_at_once(tmp_path: Path) -> None:
    config = ReplicaConfig(log=LogConfig(record_bytes_max=10), disk_reserve_bytes=0)
    replica = SingleReplica.open(tmp_path, Recorder(), 0, config)
    with pytest.raises(LimitExceeded, match="record_bytes_max"):
        replica.propose(b"x" * 11)
    assert replica.propose(b"x" * 10).result(WAIT_S).index == 1
    replica.close()


def test_cancelled_proposal_is_not_written_and_breaks_nothing(tmp_path: Path, gate: Gate) -> None:
    replica = SingleReplica.open(tmp_path, gate, 0, SMALL)
    first = replica.propose(b"first")
    assert gate.reached.wait(WAIT_S)
    assert not first.cancel()
    futures = [replica.propose(b"%d" % n) for n in range(6)]
    assert all(future.cancel() for future in futures[::2])
    gate.opened.set()
    assert not wait(futures, timeout=WAIT_S).not_done
    with pytest.raises(CancelledError):
        futures[0].result(0)
    assert [2, 3, 4] == [future.result(0).index for future in futures[1::2]]
    replica.close()
    assert [b"first", b"1", b"3", b"5"] == [command for _, command in gate.recorder.applied]


def test_cancelled_proposals_that_wait_for_a_stopped_replica_are_released(
    tmp_path: Path, gate: Gate
) -> None:
    config = ReplicaConfig(group_commit_ops_max=1, disk_reserve_bytes=0)
    replica = SingleReplica.open(tmp_path, gate, 0, config)
    futures = [replica.propose(command) for command in (b"raise", b"a", b"b")]
    assert gate.reached.wait(WAIT_S)
    assert futures[1].cancel()
    gate.opened.set()
    assert not wait(futures, timeout=WAIT_S).not_done
    for future in (futures[0], futures[2]):
        with pytest.raises(ReplicaStopped):
            future.result(0)
    replica.close()


def test_close_from_its_own_thread_does_not_wait_for_itself(tmp_path: Path) -> None:
    replica = SingleReplica.open(tmp_path, Recorder(), 0, SMALL)
    future = replica.propose(b"x")
    future.add_done_callback(lambda _: replica.close())
    assert future.result(WAIT_S).index == 1
    replica.close()
    assert replica.status().role == "stopped"


def test_too_little_free_space_refuses_before_writing_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    recorder = Recorder()
    config = ReplicaConfig(disk_reserve_bytes=free * 2)
    replica = SingleReplica.open(tmp_path, recorder, 0, config)
    for _ in range(3):
        with pytest.raises(StorageFull, match="nothing was written"):
            replica.propose(b"x").result(WAIT_S)
    assert list(tmp_path.iterdir()) == []
    assert replica.status().role == "leader"

    class Roomy:
        f_bavail, f_frsize = free * 3, 1

    with monkeypatch.context() as later:
        later.setattr(disk_space.os, "statvfs", lambda _: Roomy)
        assert replica.propose(b"x").result(WAIT_S).index == 1
    deadline_s = time.monotonic() + WAIT_S
    while replica.propose(b"x").exception(WAIT_S) is None:  # until the disk is looked at again
        assert time.monotonic() < deadline_s
    replica.close()
    assert recorder.applied[0] == (1, b"x")


def fail_sync(file: int) -> None:
    del file
    raise OSError(errno.EIO, "Input/output error")


def fail_write(file: int, data: memoryview) -> int:
    del file, data
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize(("call", "fault"), [("fdatasync", fail_sync), ("write", fail_write)])
def test_input_output_error_stops_it_and_acknowledged_commands_stay(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    fault: Callable[..., int | None],
) -> None:
    replica = SingleReplica.open(tmp_path, Recorder(), 0, SMALL)
    propose_all(replica, [b"a", b"b"])
    with monkeypatch.context() as broken:
        broken.setattr(os, call, fault)
        with pytest.raises(ReplicaStopped, match="Input/output error"):
            replica.propose(b"lost").result(WAIT_S)
    with pytest.raises(ReplicaStopped, match="Reads go on"):
        replica.propose(b"later").result(WAIT_S)
    assert replica.status().role == "stopped"
    assert replica.status().applied_index == 2
    replica.close()
    recorder = Recorder()
    SingleReplica.open(tmp_path, recorder, 0, SMALL).close()
    assert recorder.applied == [(1, b"a"), (2, b"b")]


def test_full_disk_while_writing_refuses_that_group_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, data: memoryview) -> int:
        del file, data
        raise OSError(errno.ENOSPC, "No space left on device")

    recorder = Recorder()
    replica = SingleReplica.open(tmp_path, recorder, 0, SMALL)
    propose_all(replica, [b"a"])
    with monkeypatch.context() as fault:
        fault.setattr(os, "write", full)
        with pytest.raises(StorageFull, match="No space left"):
            replica.propose(b"refused").result(WAIT_S)
    assert [Applied(2, b"2:b")] == propose_all(replica, [b"b"])
    replica.close()
    assert recorder.applied == [(1, b"a"), (2, b"b")]
