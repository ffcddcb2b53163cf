"""What the engine node says of itself is in /metrics, and that it is gone where it is."""

import asyncio
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from feeds.errors import NoLeader
from feeds.replication.base import PeerStatus, ReplicaStatus
from serving.node_metrics import NODE_FAMILIES, node_metrics
from serving.testing import served

FOLLOWER = ReplicaStatus(
    role="follower",
    term=7,
    last_index=120,
    applied_index=90,
    log_bytes=4_096,
    node="n2",
    leader="n1",
    commit_index=100,
    first_index=11,
    snapshot_index=10,
    peers=(PeerStatus("n1", connected=True, match_index=0, silent_s=0.25), PeerStatus("n3", False)),
)


def told(status: ReplicaStatus | Exception) -> dict[str, float]:
    """Every number by name and labels, as Prometheus reads it."""

    def ask() -> ReplicaStatus:
        if isinstance(status, Exception):
            raise status
        return status

    text = asyncio.run(node_metrics(ask)).decode()
    return {
        sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_number_of_a_node_is_told() -> None:
    found = told(FOLLOWER)
    expected = {
        "up": 1,
        "role/leader": 0,
        "role/follower": 1,
        "role/stopped": 0,
        "leader_known": 1,
        "term": 7,
        "first_index": 11,
        "last_index": 120,
        "commit_index": 100,
        "applied_index": 90,
        "snapshot_index": 10,
        "lag_entries": 10,
        "log_bytes": 4_096,
        "peer_connected/n1": 1,
        "peer_connected/n3": 0,
        "peer_match_index/n1": 0,
        "peer_silent_seconds/n1": 0.25,
    }
    assert expected == {name: found[f"headwater_node_{name}"] for name in expected}
    assert {name.partition("/")[0] for name in found} == {one.name for one in NODE_FAMILIES}


def test_a_node_that_does_not_answer_is_down() -> None:
    assert {"headwater_node_up": 0} == told(NoLeader("gone"))


def test_a_node_that_knows_no_leader_says_so() -> None:
    candidate = ReplicaStatus("candidate", 8, 120, 90, 4_096, commit_index=80)
    found = told(candidate)
    assert (0, 0) == (found["headwater_node_leader_known"], found["headwater_node_lag_entries"])


def test_a_node_that_hangs_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.node_metrics.STATUS_S_MAX", 0.01)

    async def asked() -> bytes:
        hung = asyncio.Event()
        loop = asyncio.get_running_loop()

        def ask() -> ReplicaStatus:
            asyncio.run_coroutine_threadsafe(hung.wait(), loop).result(30)
            return FOLLOWER

        text = await node_metrics(ask)
        hung.set()
        return text

    began_s = time.monotonic()
    assert b"headwater_node_up 0" in asyncio.run(asked())
    assert time.monotonic() - began_s < 30


def test_a_service_with_its_own_engine_leads(tmp_path: Path) -> None:
    with served(tmp_path / "data") as service, service.tenant("acme") as client:
        text = client.get("/metrics").text
    assert 'headwater_node_role{role="leader"} 1\n' in text
    assert "headwater_node_lag_entries 0\n" in text
    assert "headwater_node_applied_index 2\n" in text, "a tenant and its key"
