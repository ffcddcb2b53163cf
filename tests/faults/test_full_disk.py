"""A node whose disk is full, while clients write and read; their history is judged.

Each node has a small disk of its own (tmpfs, which needs root: skipped with the reason where it is
not permitted). A node that has less than its reserve left refuses, and goes on. Where log and store
share a disk that is filled to the last byte from outside, the store may meet its end first: then
the node ends, and is started again once there is space.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from feeds.directory import DataDirectory
from feeds.testing_cluster import NODES, ProcessCluster

MIB = 1024 * 1024
DISK_BYTES = 192 * MIB  # three times the reserve that a node keeps for its store
FILLER = "filler"


def others(node: str) -> list[str]:
    return [other for other in NODES if other != node]


class Disks:
    """What each node has of disk: its log alone, or all of its data."""

    def __init__(self, what: str, stack: ExitStack) -> None:
        self.what = what
        self._stack = stack
        self._places: dict[str, Path] = {}

    def prepare(self, directory: Path) -> None:
        for node in NODES:
            with DataDirectory.lock(directory / node):
                pass  # a directory that a node knows as its own
            place = directory / node / "log" if self.what == "log" else directory / node
            self._mount(place)
            self._places[node] = place

    def fill(self, node: str, left_bytes: int = 0) -> None:
        with (self._places[node] / FILLER).open("wb", buffering=0) as file:
            if left_bytes:
                free_bytes = shutil.disk_usage(self._places[node]).free
                os.posix_fallocate(file.fileno(), 0, free_bytes - left_bytes)
                return
            for size in (1 << 20, 1 << 12):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:  # no space left
                    continue

    def free(self, node: str) -> None:
        (self._places[node] / FILLER).unlink()

    def _mount(self, place: Path) -> None:
        kept = place.with_name(f"{place.name}.kept")
        if place.exists():
            place.rename(kept)
        place.mkdir(parents=True)
        options = f"size={DISK_BYTES},mode=700"
        command = ["mount", "-t", "tmpfs", "-o", options, "headwater-test", str(place)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
        self._stack.callback(subprocess.run, ["umount", "--lazy", str(place)], check=False)
        if kept.exists():
            shutil.copytree(kept, place, dirs_exist_ok=True)
            shutil.rmtree(kept)


@pytest.fixture
def disks(request: pytest.FixtureRequest) -> Iterator[Disks]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small disk needs `mount`, and root to run it")
    with ExitStack() as stack:
        yield Disks(request.param, stack)


@pytest.fixture
def cluster(disks: Disks, tmp_path: Path) -> Iterator[ProcessCluster]:
    with ExitStack() as stack:
        cluster = ProcessCluster(tmp_path, prepare=disks.prepare)
        stack.callback(cluster.end)
        cluster.begin()
        yield cluster


def slow(what: str) -> ParameterSet:
    return pytest.param(what, marks=pytest.mark.slow)


def says_so(cluster: ProcessCluster, node: str) -> bool:
    return "log_full" in cluster.log(node) or "No space left" in cluster.log(node)


def refusals(cluster: ProcessCluster) -> int:
    return sum(cluster.history.refused[node, "StorageFull"] for node in NODES)


def is_full(cluster: ProcessCluster, node: str) -> bool:
    status = cluster.status(node)
    return status is not None and status.full is not None


def leads_elsewhere(cluster: ProcessCluster, node: str) -> bool:
    found = [cluster.status(other) for other in others(node)]
    return any(status is not None and status.role == "leader" for status in found)


def stop_node(cluster: ProcessCluster, node: str) -> None:
    """As an operator does; it may have ended by itself."""
    with suppress(ProcessLookupError):
        cluster.send_signal(node, signal.SIGTERM)
    cluster.wait_for(lambda: not cluster.is_running(node), f"{node} to end")


@pytest.mark.parametrize("disks", [slow("log"), "data"], indirect=True)
def test_follower_with_a_full_disk_keeps_nobody_from_writing(
    cluster: ProcessCluster, disks: Disks
) -> None:
    cluster.work(20)
    leader = cluster.leader()
    follower = others(leader)[0]
    disks.fill(follower)
    cluster.wait_for(lambda: says_so(cluster, follower), "it to say so")
    cluster.work(100, others(follower))
    assert cluster.leader() == leader
    disks.free(follower)
    if disks.what == "data":  # its store may have met the end of the disk before its log did
        stop_node(cluster, follower)
        cluster.start()
    cluster.work(20, [follower])
    cluster.judge()


@pytest.mark.parametrize("disks", ["log", slow("data")], indirect=True)
def test_leader_whose_disk_is_full_lets_another_one_lead_and_comes_back(
    cluster: ProcessCluster, disks: Disks
) -> None:
    """Its log's disk is full to the last byte; or log and store have less than the reserve."""
    cluster.work(20)
    leader = cluster.leader()
    process = cluster.process(leader)
    disks.fill(leader, 0 if disks.what == "log" else 32 * MIB)
    cluster.wait_for(lambda: leads_elsewhere(cluster, leader), "another one to lead")
    cluster.wait_for(lambda: is_full(cluster, leader), "it to show that it is full")
    assert cluster.log(leader).count("log_full") == 1
    cluster.work(100, others(leader))
    assert cluster.leader() != leader
    disks.free(leader)
    cluster.wait_for(lambda: not is_full(cluster, leader), "it to see that there is space")
    cluster.work(20, [leader])
    assert process == cluster.process(leader)
    cluster.judge()


@pytest.mark.slow
@pytest.mark.parametrize("disks", ["data"], indirect=True)
def test_leader_whose_store_meets_the_end_of_the_disk_loses_nothing(
    cluster: ProcessCluster, disks: Disks
) -> None:
    cluster.work(20)
    leader = cluster.leader()
    disks.fill(leader)
    cluster.wait_for(
        lambda: not cluster.is_running(leader) or leads_elsewhere(cluster, leader),
        "another one to lead",
    )
    stop_node(cluster, leader)
    cluster.work(100, others(leader))
    disks.free(leader)
    cluster.start()
    cluster.work(20, [leader])
    cluster.judge()


@pytest.mark.parametrize("disks", ["data"], indirect=True)
def test_nodes_with_less_than_their_reserve_refuse_before_their_stores_are_in_danger(
    cluster: ProcessCluster, disks: Disks
) -> None:
    cluster.work(20)
    processes = [cluster.process(node) for node in NODES]
    for node in NODES:
        disks.fill(node, 32 * MIB)
    cluster.wait_for(lambda: refusals(cluster) > 100, "writes to be refused")
    assert all(cluster.is_running(node) for node in NODES)
    for node in NODES:
        disks.free(node)
    cluster.work(50)
    assert processes == [cluster.process(node) for node in NODES]
    cluster.judge()
