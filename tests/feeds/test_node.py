"""Nodes as processes: three on this machine, killed and started again."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from feeds.answers import answer
from feeds.cli_cluster import init_cluster, node_status, start_cluster, stop_cluster
from feeds.client import EngineClient
from feeds.commands import AddKey, Command, CreateTenant, encode_command
from feeds.errors import (
    ClusterMismatch,
    FeedsError,
    InvalidInput,
    NoLeader,
    OutcomeUnknown,
    StorageError,
)
from feeds.identity import Identity
from feeds.node import EngineNode
from feeds.node_config import NodeConfig
from feeds.replication.base import ReplicaStatus
from feeds.results import Accepted
from feeds.store.rocks import RocksStore
from feeds.testing_ports import free_ports

WAIT_S = 30.0
NODES = ("n1", "n2", "n3")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S:g} s for {what}"
        time.sleep(0.02)


def statuses(directory: Path) -> dict[str, ReplicaStatus | None]:
    return {node: node_status(directory / f"{node}.sock") for node in NODES}


def leader_of(directory: Path) -> str:
    def found() -> list[str]:
        return [n for n, one in statuses(directory).items() if one and one.role == "leader"]

    wait_for(lambda: bool(found()), "a leader")
    return found()[0]


def process_of(directory: Path, node: str) -> int:
    return int((directory / f"{node}.pid").read_text())


def put(client: EngineClient, command: Command) -> int:
    """As a client does: again while it may not have been written; the commands bear it."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            applied = client.propose(encode_command(command)).result(WAIT_S)
        except (NoLeader, OutcomeUnknown):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return answer(applied, Accepted).index


def key(number: int) -> AddKey:
    return AddKey(tenant="t", key_id=f"k{number}", secret_sha256=b"x" * 32, scopes=("read",))


@pytest.fixture(params=["tls", "plain"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "c"
    init_cluster(directory, "test", free_ports(), plain=request.param == "plain")
    start_cluster(directory)
    yield directory
    stop_cluster(directory)


def test_killed_leader_is_followed_by_another_and_nothing_is_lost(cluster: Path) -> None:
    leader = leader_of(cluster)
    other = next(node for node in NODES if node != leader)
    client = EngineClient.connect(cluster / f"{other}.sock")
    put(client, CreateTenant(tenant="t", now_us=1))
    for number in range(20):
        put(client, key(number))
    os.kill(process_of(cluster, leader), signal.SIGKILL)
    for number in range(20, 40):
        put(client, key(number))
    client.close()
    assert leader_of(cluster) != leader
    start_cluster(cluster)
    wait_for(
        lambda: len({one and one.applied_index for one in statuses(cluster).values()}) == 1, "all"
    )
    stop_cluster(cluster)
    stores = []
    for node in NODES:
        with RocksStore.open(cluster / node / "store") as store:
            stores.append(list(store.scan("config", b"", b"\xff")))
    assert stores[0] == stores[1] == stores[2]
    assert [name for name, _ in stores[0]] == sorted(
        [b"tt", *(b"kk%d" % number for number in range(40))]
    )


def test_replaced_node_gets_a_snapshot_and_counts_again(tmp_path: Path) -> None:
    directory = tmp_path / "c"
    init_cluster(directory, "test", free_ports())
    config = NodeConfig.load(directory / "n1.toml")
    for node in NODES:  # small segments, so that the log is soon dropped
        path = directory / f"{node}.toml"
        path.write_text(path.read_text().replace("log_keep_mb = 256", "log_keep_mb = 1"))
    start_cluster(directory)
    try:
        client = EngineClient.connect(config.socket)
        put(client, CreateTenant(tenant="t", now_us=1))
        for number in range(50):
            put(client, key(number))
        client.close()
        victim = next(node for node in NODES if node != leader_of(directory))
        os.kill(process_of(directory, victim), signal.SIGKILL)
        wait_for(lambda: node_status(directory / f"{victim}.sock") is None, "it to be dead")
        data = directory / victim
        for path in sorted(data.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        Identity.create("test", victim, joining=True).save(data)
        start_cluster(directory)

        def whole() -> bool:
            found = statuses(directory)
            one = found[victim]
            return (
                one is not None
                and one.role == "follower"
                and one.applied_index
                == max(other.applied_index for other in found.values() if other)
            )

        wait_for(whole, "the new node to catch up")
        joined = Identity.load(data)
        assert joined is not None
        assert not joined.joining
    finally:
        stop_cluster(directory)


def test_wrong_directory_is_refused_with_what_to_do(tmp_path: Path) -> None:
    init_cluster(tmp_path, "test", free_ports(), plain=True)
    config = NodeConfig.load(tmp_path / "n1.toml")
    wrong = {
        "belongs to cluster 'test'": config.model_copy(update={"cluster_id": "other"}),
        "belongs to node 'n2'": config.model_copy(update={"data_dir": tmp_path / "n2"}),
        "--join": config.model_copy(update={"data_dir": tmp_path / "empty"}),
    }
    for what, changed in wrong.items():
        with pytest.raises(ClusterMismatch, match=what), EngineNode.running(changed):
            pass


def test_socket_in_use_is_refused(tmp_path: Path) -> None:
    init_cluster(tmp_path, "test", free_ports(), nodes=1, plain=True)
    config = NodeConfig.load(tmp_path / "n1.toml")
    Identity.create("test", "n1").save(tmp_path / "again")
    again = config.model_copy(
        update={"data_dir": tmp_path / "again", "nodes": {"n1": f"127.0.0.1:{free_ports() + 3}"}}
    )
    with (
        EngineNode.running(config),
        pytest.raises(StorageError, match="another process listens"),
        EngineNode.running(again),
    ):
        pass


def test_client_is_told_when_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="headwater node"):
        EngineClient.connect(tmp_path / "none.sock", wait_s=0.1)
    client = EngineClient(tmp_path / "none.sock")
    with pytest.raises(NoLeader, match="nothing was sent"):
        client.propose(b"x").result(WAIT_S)
    client.close()
    with pytest.raises(FeedsError):
        client.propose(b"x").result(WAIT_S)


def test_every_mistake_of_a_configuration_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(
        'cluster_id = "test"\nnode = "n9"\ndata_dir = "d"\nsocket = "s"\n'
        '[nodes]\nn1 = "10.0.0.1"\nn2 = "10.0.0.2:7000"\n'
    )
    with pytest.raises(InvalidInput) as raised:
        NodeConfig.load(path)
    for what in ("write host:port", "'n9' is none of nodes", "1, 3 or 5", "headwater certs"):
        assert what in str(raised.value)


def test_configuration_survives_being_written(tmp_path: Path) -> None:
    (path,) = init_cluster(tmp_path, "test", 7400, nodes=1)
    config = NodeConfig.load(path)
    path.write_text(config.to_toml())
    assert NodeConfig.load(path) == config
