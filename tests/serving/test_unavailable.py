"""What the engine cannot take for the moment is a 503 that says when to try again."""

import threading
from pathlib import Path

import httpx
import pytest

from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.model import ActivityDraft, FeedId, TenantId
from serving.testing import add_tenant, served

ACME = TenantId("acme")
ACTIVITY = {"actor": "user:ann", "verb": "post", "object": "o"}


@pytest.fixture
def key(tmp_path: Path) -> str:
    """The API key of a tenant with one activity."""
    with FeedEngine.open(tmp_path / "data") as engine:
        made = add_tenant(engine, ACME)
        draft = ActivityDraft(actor="user:ann", verb="post", object="o")
        engine.post(ACME, FeedId("user", "ann"), draft).result()
    return made


def writes(client: httpx.Client) -> list[httpx.Response]:
    unknown = "87a9eec0-fd5f-11e8-8080-80013fed2f5b"
    event = {"type": "impression", "user": "bob", "activity_id": unknown}
    return [
        client.post("/v2/feeds/user/ann/activities", json=ACTIVITY),
        client.post("/v2/feeds/timeline/bob/follows", json={"target": "user:ann"}),
        client.delete("/v2/feeds/timeline/bob/follows/user:ann"),
        client.delete(f"/v2/activities/{unknown}"),
        client.post("/v2/events", json={"events": [event]}),
    ]


def test_a_full_disk_refuses_writes_and_reads_go_on(tmp_path: Path, key: str) -> None:
    full = FeedsConfig(disk_reserve_bytes=2**60)
    with served(tmp_path / "data", full, retry_after_s=7) as service, service.client(key) as client:
        for reply in writes(client):
            assert (reply.status_code, reply.json()["exception"]) == (503, "StorageFullException")
            assert reply.headers["retry-after"] == "7"
        assert len(client.get("/v2/feeds/user/ann").json()["results"]) == 1
        assert len(client.get("/v2/users/bob/feeds/explore").json()["results"]) == 1
        assert client.get("/readyz").status_code == 200


def test_too_many_writes_are_told_to_wait(tmp_path: Path, key: str) -> None:
    held, let_go = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        held.set()
        let_go.wait(30)

    with (
        served(tmp_path / "data", FeedsConfig(proposals_max=1)) as service,
        service.client(key) as client,
    ):
        engine = service.services.engine
        engine.subscribe(hold)
        try:
            first = engine.post(
                ACME,
                FeedId("user", "ann"),
                ActivityDraft(actor="user:ann", verb="post", object="1"),
            )
            assert held.wait(30)
            waiting = engine.create_tenant("other")
            for reply in writes(client):
                assert (reply.status_code, reply.json()["code"]) == (503, 9)
                assert reply.headers["retry-after"] == "1"
        finally:
            let_go.set()
        first.result()
        waiting.result()


def test_a_stopped_replica_is_not_ready_and_still_reads(tmp_path: Path, key: str) -> None:
    with served(tmp_path / "data") as service, service.client(key) as client:
        service.services.engine._replica.close()

        for reply in writes(client):
            assert (reply.status_code, reply.json()["code"]) == (503, -1)
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "writes are refused" in ready.json()["problems"][0]
        assert len(client.get("/v2/feeds/user/ann").json()["results"]) == 1
