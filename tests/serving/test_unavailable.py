"""What the engine cannot take for the moment is a 503 that says when to try again."""

import threading
from pathlib import Path

import httpx
import pytest

from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.model import ActivityDraft, FeedId, TenantId
from feeds.state import StateMachine
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


def test_a_post_with_too_many_unfinished_fan_outs_before_it_is_told_to_wait(
    tmp_path: Path, key: str
) -> None:
    """None is finished here: the engine is told that another node leads."""
    limits = FeedsConfig(fanout_inline_max=0, outbox_tasks_max=1)
    with served(tmp_path / "data", limits) as service, service.client(key) as client:
        follow = {"target": "user:ann"}
        assert client.post("/v2/feeds/timeline/bob/follows", json=follow).status_code < 300
        machine = service.services.engine._changes
        assert isinstance(machine, StateMachine)
        machine.lead(leads=False)
        answers = [
            client.post("/v2/feeds/user/ann/activities", json={**ACTIVITY, "object": f"{number}"})
            for number in range(2)
        ]
        assert [201, 503] == [answer.status_code for answer in answers]
        assert (9, "1") == (answers[1].json()["code"], answers[1].headers["retry-after"])
        assert "outbox_tasks_max is 1" in answers[1].json()["detail"]
        machine.lead(leads=True)
        again = {**ACTIVITY, "object": "1"}
        waited = client.post("/v2/feeds/user/ann/activities", json=again)
        while waited.status_code == 503:
            waited = client.post("/v2/feeds/user/ann/activities", json=again)
        assert 201 == waited.status_code


def test_a_stopped_replica_is_not_ready_and_still_reads(tmp_path: Path, key: str) -> None:
    with served(tmp_path / "data") as service, service.client(key) as client:
        service.services.engine._replica.close()

        for reply in writes(client):
            assert (reply.status_code, reply.json()["code"]) == (503, -1)
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "writes are refused" in ready.json()["problems"][0]
        assert len(client.get("/v2/feeds/user/ann").json()["results"]) == 1
