"""A replica with peers keeps the contract of a replica: alone, as leader of three, over TLS."""

import datetime as dt
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from feeds.replication.base import ApplyCommand, LogPosition, Replica
from feeds.replication.certificates import make_certificates
from feeds.replication.cluster import ClusterReplica
from feeds.replication.config import ClusterConfig
from feeds.replication.transport import Address, TransportConfig
from feeds.testing import Recorder, ReplicaContract
from feeds.testing_ports import free_ports

WAIT_S = 20.0


class ClusterContract(ReplicaContract):
    """The replica under test is the one that leads; the others apply for themselves."""

    nodes: tuple[str, ...]
    tls = False

    @pytest.fixture(autouse=True)
    def _nodes(self) -> Iterator[None]:
        with ExitStack() as self.stack:
            yield

    def open_replica(self, directory: Path, apply: ApplyCommand, applied_index: int) -> Replica:
        """Nodes that come to lead hand over until the first one does."""
        first = free_ports()
        addresses = {
            node: Address("127.0.0.1", first + place) for place, node in enumerate(self.nodes)
        }
        now = dt.datetime.now(dt.UTC)
        certificates = (
            make_certificates(directory / "certs", "test", self.nodes, now, days=2)
            if self.tls
            else {}
        )
        replicas = []
        for node in self.nodes:
            config = ClusterConfig(
                transport=TransportConfig(
                    cluster_id="test", node=node, nodes=addresses, tls=certificates.get(node)
                )
            )
            machine = apply if node == self.nodes[0] else Recorder()
            applied = LogPosition(applied_index, 1 if applied_index else 0)
            replica = ClusterReplica.open(directory / node, machine, applied, config)
            replicas.append(self.stack.enter_context(closing(replica)))
        deadline = time.monotonic() + WAIT_S
        while not _ready(replicas[0], applied_index):
            assert time.monotonic() < deadline
            for replica in replicas[1:]:
                if replica.leads and replicas[0].status().last_index == replica.status().last_index:
                    replica.loop.call_soon_threadsafe(replica._member.transfer)
            time.sleep(0.01)
        return replicas[0]


def _ready(replica: ClusterReplica, applied_index: int) -> bool:
    """Whether it leads, and has applied what it began with."""
    status = replica.status()
    return status.role == "leader" and status.last_index == status.applied_index > applied_index


class TestClusterOfOne(ClusterContract):
    nodes = ("n1",)


class TestClusterOfThree(ClusterContract):
    nodes = ("n1", "n2", "n3")


class TestClusterOfThreeOverTls(ClusterContract):
    nodes = ("n1", "n2", "n3")
    tls = True
