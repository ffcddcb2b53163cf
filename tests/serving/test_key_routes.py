"""An admin manages the keys of its tenant, and what it takes away is refused at once."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from feeds.credentials import NO_TENANT, OPERATOR
from feeds.new_keys import create_key
from serving.testing import Served, served

ALL = ("read", "write", "admin")
FEED = "/v2/feeds/user/ann"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("keys") / "data") as service:
        yield service


@pytest.fixture
def admin(service: Served, tmp_path: Path) -> Iterator[httpx.Client]:
    name = tmp_path.name.replace("_", "-")[:40].lower()
    with service.tenant(name, ALL) as client:
        yield client


def made(reply: httpx.Response) -> tuple[str, str]:
    assert reply.status_code == 201, reply.text
    return reply.json()["key_id"], reply.json()["api_key"]


def test_tenant_is_told(admin: httpx.Client) -> None:
    told = admin.get("/v2/tenant").json()
    assert told["tenant"].startswith("test-tenant-is-told")
    assert told["created"].startswith("20")


def test_key_is_made_listed_and_does_what_its_scopes_say(
    service: Served, admin: httpx.Client
) -> None:
    key_id, written = made(admin.post("/v2/keys", json={"scopes": ["read"]}))
    listed = {key["key_id"]: key for key in admin.get("/v2/keys").json()["keys"]}
    assert listed[key_id]["scopes"] == ["read"]
    assert listed[key_id]["expires"] is None
    assert written.rpartition("_")[2] not in admin.get("/v2/keys").text
    with service.client(written) as client:
        assert client.get(FEED).status_code == 200
        assert client.get("/v2/keys").status_code == 403
        assert client.request("DELETE", f"/v2/keys/{key_id}").status_code == 403


def test_revoked_key_is_refused_at_once(service: Served, admin: httpx.Client) -> None:
    key_id, written = made(admin.post("/v2/keys", json={}))
    with service.client(written) as client:
        assert client.get(FEED).status_code == 200
        assert admin.delete(f"/v2/keys/{key_id}").json() == {"key_id": key_id, "revoked": True}
        assert client.get(FEED).status_code == 401
    reply = admin.delete(f"/v2/keys/{key_id}")
    assert (reply.status_code, reply.json()["code"]) == (404, 16)


def test_rotated_key_is_good_for_its_grace_alone(service: Served, admin: httpx.Client) -> None:
    old_id, old = made(admin.post("/v2/keys", json={}))
    new_id, new = made(admin.post(f"/v2/keys/{old_id}/rotate", json={"grace_s": 3_600}))
    last_id, last = made(admin.post(f"/v2/keys/{new_id}/rotate", json={"grace_s": 0}))
    statuses = []
    for key in (old, new, last):
        with service.client(key) as client:
            statuses.append(client.get(FEED).status_code)
    assert statuses == [200, 401, 200]
    ids = {key["key_id"] for key in admin.get("/v2/keys").json()["keys"]}
    assert {old_id, last_id} <= ids
    assert new_id not in ids


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v2/keys", {"scopes": ["root"]}, 400, "'read', 'write' or 'admin'"),
        ("/v2/keys", {"scopes": ["operator"]}, 400, "'read', 'write' or 'admin'"),
        ("/v2/keys", {"scopes": []}, 400, "at least 1 item"),
        ("/v2/keys/nothere/rotate", {}, 404, "no key 'nothere'"),
        ("/v2/keys/NOT%20AN%20ID/rotate", {}, 400, "cannot be used"),
        ("/v2/keys/nothere/rotate", {"grace_s": -1}, 400, "greater than or equal to 0"),
        ("/v2/keys/nothere/rotate", {"grace_s": 10**9}, 400, "key_grace_s_max is 2592000"),
    ],
)
def test_what_cannot_be_is_refused(
    admin: httpx.Client, path: str, body: dict[str, object], status: int, words: str
) -> None:
    reply = admin.post(path, json=body)
    assert reply.status_code == status, reply.text
    assert words in reply.json()["detail"]


def test_operators_key_reads_no_tenant(service: Served) -> None:
    key = create_key(service.services.engine, NO_TENANT, [OPERATOR])
    key.stored.result()
    with service.client(key.api_key) as operator:
        for path in (FEED, "/v2/keys", "/v2/tenant", "/v2/model"):
            assert operator.get(path).status_code == 403, path
