"""Real processes, killed and stopped while clients write and read; then their history is judged.

The short form runs in CI. The long one, `make faults`, kills the leader 200 times and all nodes 50.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from feeds.testing_cluster import NODES, ProcessCluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ProcessCluster]:
    with ExitStack() as stack:
        cluster = ProcessCluster(tmp_path)
        stack.callback(cluster.end)
        cluster.begin()
        yield cluster


def kill_leaders(cluster: ProcessCluster, times: int) -> None:
    for _ in range(times):
        cluster.work(20)
        cluster.kill(cluster.leader())
        cluster.work(10)
        cluster.start()
    cluster.judge()


def kill_all(cluster: ProcessCluster, times: int) -> None:
    for _ in range(times):
        cluster.work(20)
        cluster.kill(*NODES)
        cluster.start()
    cluster.judge()


def test_killed_leaders_lose_nothing(cluster: ProcessCluster) -> None:
    kill_leaders(cluster, 3)


def test_killing_all_nodes_at_once_loses_nothing(cluster: ProcessCluster) -> None:
    kill_all(cluster, 2)


def test_leader_that_was_stopped_for_a_while_does_harm_to_nobody(cluster: ProcessCluster) -> None:
    cluster.work(20)
    leader = cluster.leader()
    cluster.send_signal(leader, signal.SIGSTOP)
    cluster.work(20, [node for node in NODES if node != leader])
    time.sleep(2.0)  # it must come back with its term long over
    cluster.send_signal(leader, signal.SIGCONT)
    cluster.judge()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_killed_leaders_lose_nothing(cluster: ProcessCluster) -> None:
    kill_leaders(cluster, 200)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killing_all_nodes_fifty_times_loses_nothing(cluster: ProcessCluster) -> None:
    kill_all(cluster, 50)
