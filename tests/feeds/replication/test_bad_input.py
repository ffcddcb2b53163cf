"""Nodes that do not belong together, in every way that people mix them up.

Each case: what is wrong is said, with what to do; the cluster goes on; nothing wrong is applied.
"""

import datetime as dt
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import structlog.testing

from feeds.errors import ClusterMismatch, NoLeader
from feeds.replication.base import LogPosition
from feeds.replication.certificates import NodeFiles, make_certificates
from feeds.replication.cluster import ClusterReplica
from feeds.replication.config import ClusterConfig
from feeds.replication.transport import Address, TransportConfig
from feeds.testing import Recorder
from feeds.testing_ports import free_ports

WAIT_S = 20.0
NODES = ("n1", "n2", "n3")
NOW = dt.datetime.now(dt.UTC)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S:g} s for {what}"
        time.sleep(0.005)


class Nodes:
    """Replicas of this process, each as its own configuration says."""

    def __init__(self, directory: Path, stack: ExitStack, logs: Sequence[object]) -> None:
        first = free_ports()
        self.addresses = {node: Address("127.0.0.1", first + n) for n, node in enumerate(NODES)}
        self.spare = Address("127.0.0.1", first + len(NODES))
        self.directory = directory
        self.certificates = make_certificates(directory / "certs", "test", NODES, NOW, days=2)
        self._stack = stack
        self._logs = logs

    def open(
        self, node: str, *, data: str = "", **changes: object
    ) -> tuple[ClusterReplica, Recorder]:
        settings = {
            "cluster_id": "test",
            "node": node,
            "nodes": self.addresses,
            "tls": self.certificates.get(node),
            "incarnation": f"of {data or node}",
        }
        recorder = Recorder()
        replica = ClusterReplica.open(
            self.directory / (data or node),
            recorder,
            LogPosition(0, 0),
            ClusterConfig(transport=TransportConfig(**(settings | changes))),  # type: ignore[arg-type]
        )
        return self._stack.enter_context(closing(replica)), recorder

    def told(self, event: str) -> list[str]:
        """What was said for people, by any node."""
        return [
            str(entry["why"])
            for entry in list(self._logs)
            if isinstance(entry, dict) and entry["event"] == event
        ]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with structlog.testing.capture_logs() as logs, ExitStack() as stack:
        yield Nodes(tmp_path, stack, logs)


@pytest.fixture
def healthy(nodes: Nodes) -> dict[str, ClusterReplica]:
    """`n1` and `n2`, of which one leads; `n3` is missing."""
    found = {node: nodes.open(node)[0] for node in ("n1", "n2")}
    wait_for(lambda: any(replica.leads for replica in found.values()), "a leader")
    return found


def write(replicas: dict[str, ClusterReplica], command: bytes) -> int:
    deadline = time.monotonic() + WAIT_S
    while True:
        leader = next((one for one in replicas.values() if one.leads), None)
        try:
            if leader is not None:
                return leader.propose(command).result(WAIT_S).index
        except NoLeader:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stays_out(stranger: tuple[ClusterReplica, Recorder], others: dict[str, ClusterReplica]) -> None:
    """The others write on, and nothing of it reaches the stranger, nor anything of it them."""
    replica, recorder = stranger
    terms = [one.status().term for one in others.values()]
    for number in range(5):
        write(others, b"%d" % number)
    assert recorder.applied == []
    assert replica.status().leader is None
    assert terms == [one.status().term for one in others.values()]


def test_node_of_another_cluster_is_told_what_to_correct(
    nodes: Nodes, healthy: dict[str, ClusterReplica]
) -> None:
    """Its certificate names its own cluster; so it is TLS that tells."""
    files = make_certificates(nodes.directory / "other", "other", NODES, NOW, days=2)
    stranger = nodes.open("n3", cluster_id="other", tls=files["n3"])
    wait_for(lambda: bool(nodes.told("peer_mismatch")), "it to be told")
    stays_out(stranger, healthy)
    assert any("certificate of another cluster" in why for why in nodes.told("peer_mismatch"))


def test_wrong_cluster_id_is_told_without_certificates_too(nodes: Nodes) -> None:
    first, _ = nodes.open("n1", tls=None)
    nodes.open("n2", tls=None, cluster_id="other")
    wait_for(lambda: len(nodes.told("peer_mismatch")) == 2, "both to be told")
    for why in nodes.told("peer_mismatch"):
        assert "refuses this node: it belongs to cluster" in why
        assert "correct cluster_id, or the addresses under [nodes]" in why
    assert first.status().leader is None


@pytest.mark.parametrize("age_days", [0, 30], ids=["another authority", "expired"])
def test_certificate_that_does_not_fit_is_told_once_with_what_to_do(
    nodes: Nodes, healthy: dict[str, ClusterReplica], age_days: int
) -> None:
    made = NOW - dt.timedelta(days=age_days)
    other = make_certificates(nodes.directory / "other", "test", NODES, made, days=2)["n3"]
    stranger = nodes.open("n3", tls=other)
    wait_for(lambda: len(nodes.told("peer_mismatch")) >= 4, "both sides to be told")
    stays_out(stranger, healthy)
    told = nodes.told("peer_mismatch")
    for why in told:
        assert "no TLS with n" in why
        assert "give each the ca.pem of this cluster, and its own certificate" in why
    assert len(told) <= 8, "it is said once for each reason, and not for each attempt"


def test_certificate_of_another_node_is_told_by_its_name(
    nodes: Nodes, healthy: dict[str, ClusterReplica]
) -> None:
    stranger = nodes.open("n3", tls=nodes.certificates["n2"])
    wait_for(
        lambda: any("it says that it is 'n3'" in why for why in nodes.told("peer_mismatch")),
        "it to be told",
    )
    stays_out(stranger, healthy)
    (why, *_) = [why for why in nodes.told("peer_mismatch") if "says that it is" in why]
    assert "its certificate names ['n2.test']" in why
    assert "give it its own certificate and key, or correct node" in why


def test_certificate_without_its_key_is_refused_at_once(nodes: Nodes) -> None:
    mixed = NodeFiles(
        nodes.certificates["n1"].ca, nodes.certificates["n1"].cert, nodes.certificates["n2"].key
    )
    with pytest.raises(ClusterMismatch, match=r"cannot be used.*headwater certs"):
        nodes.open("n1", tls=mixed)


def test_second_node_with_an_id_is_told_and_the_first_goes_on(
    nodes: Nodes, healthy: dict[str, ClusterReplica]
) -> None:
    """The twin has its own address in its own config, and the certificate of the first."""
    healthy["n3"], _ = nodes.open("n3")
    everyone = healthy
    write(everyone, b"before")
    wait_for(lambda: all(one.status().leader for one in everyone.values()), "n3 to follow")
    twin = nodes.open("n3", data="twin", nodes=nodes.addresses | {"n3": nodes.spare})
    wait_for(lambda: len(nodes.told("peer_mismatch")) >= 2, "it to be told by both others")
    stays_out(twin, everyone)
    for why in nodes.told("peer_mismatch"):
        assert "it says that it is n3, and another one with that id answers at 127.0.0.1:" in why
        assert "two nodes have one id. Stop one of them" in why
    index = write(everyone, b"after")
    wait_for(lambda: everyone["n3"].status().applied_index >= index, "the first n3 to go on")


def test_node_with_the_address_and_id_of_another_names_both_remedies(
    nodes: Nodes, healthy: dict[str, ClusterReplica]
) -> None:
    with pytest.raises(OSError, match="in use"):  # the node says what to do: see test_node
        nodes.open("n1", data="twin")
    assert write(healthy, b"after") > 0


def test_peer_that_says_that_it_is_this_node_is_refused(nodes: Nodes) -> None:
    """Addresses were mixed up: n2's config leads to itself under another name."""
    nodes.open("n1", tls=None)
    nodes.open(
        "n1",
        data="twin",
        tls=None,
        nodes={"n1": nodes.spare, "n2": nodes.addresses["n1"], "n3": nodes.addresses["n3"]},
    )
    wait_for(lambda: bool(nodes.told("peer_mismatch")), "it to be told")
    (why, *_) = nodes.told("peer_mismatch")
    assert "which is this node: two nodes have one id" in why
    assert "correct its node and data_dir" in why


def test_node_that_nobody_has_in_its_config_is_told(nodes: Nodes) -> None:
    nodes.open("n1", tls=None)
    strange = {"n9": nodes.spare, "n1": nodes.addresses["n1"], "n2": nodes.addresses["n2"]}
    nodes.open("n9", tls=None, nodes=strange)
    wait_for(lambda: bool(nodes.told("peer_mismatch")), "it to be told")
    (why, *_) = nodes.told("peer_mismatch")
    assert "'n9' is no node of this cluster: [nodes] must be the same in every config" in why


def test_node_that_replaces_a_lost_one_is_no_second_one(
    nodes: Nodes, healthy: dict[str, ClusterReplica]
) -> None:
    """Same id and address, another directory: as soon as the lost one's connections are gone."""
    lost, _ = nodes.open("n3")
    index = write(healthy, b"before")
    wait_for(lambda: lost.status().applied_index >= index, "n3 to follow")
    lost.close()
    replica, recorder = nodes.open("n3", data="new", joining=True)
    index = write(healthy, b"after")
    wait_for(lambda: replica.status().applied_index >= index, "it to catch up")
    assert [command for _, command in recorder.applied if command] == [b"before", b"after"]
