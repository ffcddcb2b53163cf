"""Three replicas that talk over real sockets."""

import datetime as dt
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from feeds.errors import InvalidInput, NoLeader, OutcomeUnknown, ReplicaStopped
from feeds.replication.base import Applied, ApplyCommand, LogPosition
from feeds.replication.certificates import NodeFiles, make_certificates
from feeds.replication.cluster import ClusterReplica
from feeds.replication.config import ClusterConfig
from feeds.replication.transport import Address, TransportConfig, check_addresses
from feeds.testing import Recorder
from feeds.testing_ports import free_ports

WAIT_S = 20.0
NODES = ("n1", "n2", "n3")


def free_addresses() -> dict[str, Address]:
    first = free_ports()
    return {node: Address("127.0.0.1", first + place) for place, node in enumerate(NODES)}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S:g} s for {what}"
        time.sleep(0.005)


class Cluster:
    """Three replicas in this process, each with a machine that records."""

    def __init__(self, directory: Path, certificates: dict[str, NodeFiles] | None = None) -> None:
        self.addresses = free_addresses()
        self.recorders = {node: Recorder() for node in NODES}
        self.replicas: dict[str, ClusterReplica] = {}
        self._directory = directory
        self._certificates = certificates
        for node in NODES:
            self.start(node)

    def start(self, node: str, **changes: object) -> None:
        recorder = self.recorders[node] = Recorder()
        self.replicas[node] = self.open(node, recorder, **changes)

    def open(self, node: str, apply: ApplyCommand, **changes: object) -> ClusterReplica:
        transport = {
            "cluster_id": "test",
            "node": node,
            "nodes": self.addresses,
            "tls": self._certificates[node] if self._certificates else None,
        }
        config = ClusterConfig(transport=TransportConfig(**(transport | changes)))  # type: ignore[arg-type]
        return ClusterReplica.open(self._directory / node, apply, LogPosition(0, 0), config)

    def leader(self) -> str:
        def found() -> bool:
            return any(replica.leads for replica in self.replicas.values())

        wait_for(found, "a leader")
        return next(node for node, replica in self.replicas.items() if replica.leads)

    def propose(self, node: str, command: bytes) -> Applied:
        """As a client does: what was surely not written is proposed again."""
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                return self.replicas[node].propose(command).result(WAIT_S)
            except NoLeader:
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def close(self) -> None:
        for replica in self.replicas.values():
            replica.close()


@pytest.fixture(params=["plain", "tls"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    certificates = None
    if request.param == "tls":
        now = dt.datetime.now(dt.UTC)
        certificates = make_certificates(tmp_path / "certs", "test", NODES, now, days=2)
    with ExitStack() as stack:
        cluster = Cluster(tmp_path, certificates)
        stack.callback(cluster.close)
        yield cluster


def _own(recorder: Recorder) -> list[bytes]:
    return [command for _, command in recorder.applied if command]


def test_every_node_applies_what_any_node_was_given(cluster: Cluster) -> None:
    cluster.leader()
    done = [
        cluster.propose(node, f"{node} {number}".encode()) for number in range(20) for node in NODES
    ]
    assert sorted(one.index for one in done) == [one.index for one in done]
    wait_for(
        lambda: all(len(_own(recorder)) == len(done) for recorder in cluster.recorders.values()),
        "all to apply",
    )
    assert len({tuple(recorder.applied) for recorder in cluster.recorders.values()}) == 1


def test_many_at_once_share_turns_and_keep_their_order(cluster: Cluster) -> None:
    leader = cluster.leader()
    cluster.propose(leader, b"first")
    futures = [cluster.replicas[leader].propose(b"%d" % number) for number in range(500)]
    indexes = [future.result(WAIT_S).index for future in futures]
    assert indexes == list(range(indexes[0], indexes[0] + 500))
    assert _own(cluster.recorders[leader])[-500:] == [b"%d" % number for number in range(500)]


def test_barrier_is_behind_what_was_acknowledged(cluster: Cluster) -> None:
    leader = cluster.leader()
    other = next(node for node in NODES if node != leader)
    done = cluster.propose(leader, b"x")
    assert cluster.replicas[other].barrier().result(WAIT_S) >= done.index


def test_another_node_leads_when_the_leader_stops(cluster: Cluster) -> None:
    first = cluster.leader()
    done = cluster.propose(first, b"before")
    cluster.replicas.pop(first).close()
    second = cluster.leader()
    assert second != first
    assert cluster.propose(second, b"after").index > done.index
    assert _own(cluster.recorders[second]) == [b"before", b"after"]
    cluster.start(first)
    wait_for(lambda: _own(cluster.recorders[first]) == [b"before", b"after"], "it to catch up")


def test_without_a_majority_nothing_is_acknowledged(cluster: Cluster) -> None:
    leader = cluster.leader()
    cluster.propose(leader, b"before")
    for node in NODES:
        if node != leader:
            cluster.replicas.pop(node).close()
    future = cluster.replicas[leader].propose(b"after")
    with pytest.raises((NoLeader, OutcomeUnknown)):
        future.result(WAIT_S)
    assert _own(cluster.recorders[leader]) == [b"before"]


def test_error_while_applying_stops_the_node(cluster: Cluster) -> None:
    leader = cluster.leader()
    cluster.propose(leader, b"before")
    with pytest.raises(ReplicaStopped, match="the store's disk is broken"):
        cluster.replicas[leader].propose(b"raise").result(WAIT_S)
    assert cluster.replicas[leader].status().role == "stopped"
    with pytest.raises(ReplicaStopped):
        cluster.replicas[leader].propose(b"after").result(WAIT_S)


def test_node_of_another_cluster_counts_for_nothing(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    try:
        cluster.leader()
        cluster.replicas.pop("n3").close()
        cluster.start("n3", cluster_id="other")
        leader = cluster.leader()
        done = cluster.propose(leader, b"x")
        assert done.index > 0
        assert cluster.recorders["n3"].applied == []
        assert cluster.replicas["n3"].status().leader is None
    finally:
        cluster.close()


def test_plain_connections_stay_on_this_machine() -> None:
    check_addresses({"n1": Address("127.0.0.1", 1), "n2": Address("localhost", 2)}, None)
    with pytest.raises(InvalidInput, match="headwater certs"):
        check_addresses({"n1": Address("127.0.0.1", 1), "n2": Address("10.0.0.2", 2)}, None)
