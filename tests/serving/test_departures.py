"""A service lets go of a tenant that is deleted: keys, tables, follows, slates, models."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from feeds.credentials import NO_TENANT
from feeds.errors import NotFound
from feeds.model import FeedId, TenantId, UserId
from feeds.new_keys import create_key
from serving.cursors import SlateCursor
from serving.errors import SlateExpired
from serving.handover import left_behind, write_handed
from serving.testing import ALL_SCOPES, Served, add_tenant, served, wait_until

ACME, OTHER = TenantId("acme"), TenantId("other")
RANKED = "/v2/users/bob/feeds/personalized"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "data") as service:
        yield service


@pytest.fixture
def operator(service: Served) -> Iterator[httpx.Client]:
    made = create_key(service.services.engine, NO_TENANT, ["operator"])
    made.stored.result()
    with service.client(made.api_key) as client:
        yield client


def fill(client: httpx.Client) -> str:
    """Something to rank; the cursor of its second page."""
    client.post("/v2/feeds/timeline/bob/follows", json={"target": "user:ann"})
    for number in range(5):
        post = {"actor": "user:ann", "verb": "post", "object": f"note:{number}"}
        client.post("/v2/feeds/user/ann/activities", json=post).raise_for_status()
    return str(client.get(RANKED, params={"limit": 2}).json()["next"])


def delete(operator: httpx.Client, service: Served, tenant: TenantId) -> None:
    reply = operator.delete(f"/v2/tenants/{tenant}", params={"confirm": tenant})
    assert (reply.status_code, reply.json()) == (202, {"tenant": tenant, "deleted": True})
    wait_until(lambda: service.services.engine.deleting() == [], "the rows to be removed")


def test_a_deleted_tenants_key_is_refused_and_the_operator_finds_no_such_tenant(
    service: Served, operator: httpx.Client
) -> None:
    with service.tenant("acme", ALL_SCOPES) as acme, service.tenant("other") as other:
        fill(acme)
        fill(other)
        before = other.get(RANKED).json()["results"]
        delete(operator, service, ACME)
        for method, path in (("GET", RANKED), ("GET", "/v2/keys"), ("DELETE", "/v2/activities/x")):
            assert acme.request(method, path).status_code == 401
        assert operator.get("/v2/tenants/acme").status_code == 404
        assert operator.delete("/v2/tenants/acme?confirm=acme").status_code == 404
        assert [one["tenant"] for one in operator.get("/v2/tenants").json()["tenants"]] == ["other"]
        after = other.get(RANKED).json()["results"]
        assert {entry["id"] for entry in before} == {entry["id"] for entry in after}


def test_deleting_asks_for_the_name_again(service: Served, operator: httpx.Client) -> None:
    add_tenant(service.services.engine, "acme")
    for query in ("", "?confirm=", "?confirm=other"):
        reply = operator.delete(f"/v2/tenants/acme{query}")
        assert reply.status_code == 400
        assert "send confirm=acme; nothing was changed" in reply.json()["detail"]
    assert service.services.engine.tenants() == [ACME]


def test_a_tenant_of_the_same_name_sees_nothing_of_the_first(
    service: Served, operator: httpx.Client
) -> None:
    engine, services = service.services.engine, service.services
    with service.tenant("acme", ALL_SCOPES) as acme:
        cursor = fill(acme)
        assert len(acme.get(RANKED).json()["results"]) == 5
        assert services.tables.loaded() == [ACME]
    delete(operator, service, ACME)
    wait_until(lambda: services.tables.loaded() == [], "the table to be let go")
    made = operator.post("/v2/tenants", json={"tenant": "acme", "scopes": list(ALL_SCOPES)})
    with service.client(made.json()["api_key"]) as acme:
        told = acme.get("/v2/tenant").json()
        assert (told["keys"], told["activities"]) == (1, 0)
        assert acme.get(RANKED).json()["results"] == []
        assert acme.get(RANKED, params={"cursor": cursor}).status_code == 410
        assert acme.get("/v2/feeds/timeline/bob").json()["results"] == []
        assert engine.follows(ACME, FeedId("timeline", "bob")) == {}
        fill(acme)
        assert len(acme.get(RANKED).json()["results"]) == 5


def test_slates_of_a_deleted_tenant_are_let_go_and_no_others(
    service: Served, operator: httpx.Client
) -> None:
    slates = service.services.reader.slates
    with service.tenant("acme") as acme, service.tenant("other") as other:
        gone, kept = fill(acme), fill(other)
        delete(operator, service, ACME)
        wait_until(lambda: len(slates) == 1, "the slate to be let go")
        assert other.get(RANKED, params={"cursor": kept}).status_code == 200
        with pytest.raises(SlateExpired):
            slates.find(SlateCursor.decode(gone), ACME, UserId("bob"), "personalized")


def test_what_was_served_noted_and_logged_of_a_deleted_tenant_is_let_go(
    service: Served, operator: httpx.Client
) -> None:
    services = service.services
    reader, home, bob = services.reader, services.slate_log.directory, UserId("bob")
    with service.tenant("acme", ALL_SCOPES) as acme, service.tenant("other", ALL_SCOPES) as other:
        for client in (acme, other):
            fill(client)
            client.post("/v2/ranking-configs", json={"personalized": {"deadline_ms": 77.5}})
            activated = client.post("/v2/ranking-configs/1/activate", json={"expected_version": 0})
            activated.raise_for_status()
            client.get(RANKED)
        assert services.slate_log.flush()
        for tenant in (ACME, OTHER):
            assert list((home / tenant).glob("*.slates"))
            assert reader.served.of(tenant, bob)
            assert reader.recent.last(tenant, 9)
            assert services.configs.of(tenant).version == 1
        delete(operator, service, ACME)
        wait_until(lambda: not (home / ACME).exists(), "the slate log to be removed")
        assert not reader.served.of(ACME, bob)
        assert not reader.recent.last(ACME, 9)
        with pytest.raises(NotFound):
            services.configs.of(ACME)
        made = operator.post("/v2/tenants", json={"tenant": "acme", "scopes": list(ALL_SCOPES)})
        with service.client(made.json()["api_key"]) as second:
            assert second.get("/v2/ranking-config").json()["version"] == 0
            fill(second)
        assert services.slate_log.flush()
        assert list((home / OTHER).glob("*.slates"))
        assert list((home / ACME).glob("*.slates"))
        assert reader.served.of(OTHER, bob)
        assert reader.recent.last(OTHER, 9)
        assert services.configs.of(OTHER).version == 1


def test_figures_of_a_deleted_tenant_are_told_no_more(tmp_path: Path) -> None:
    token = "operators-alone-0123456789"
    with served(tmp_path / "data", metrics_token=token) as service:
        made = create_key(service.services.engine, NO_TENANT, ["operator"])
        made.stored.result()

        def told() -> str:
            headers = {"Authorization": f"Bearer {token}"}
            return httpx.get(f"{service.address}/metrics/tenants", headers=headers).text

        with (
            service.client(made.api_key) as operator,
            service.tenant("acme") as acme,
            service.tenant("other") as other,
        ):
            fill(acme)
            fill(other)
            assert 'tenant="acme"' in told()
            delete(operator, service, ACME)
            wait_until(lambda: 'tenant="acme"' not in told(), "the figures to be forgotten")
            assert 'tenant="other"' in told()


def test_models_are_removed_and_the_loader_is_left_word(
    service: Served, operator: httpx.Client
) -> None:
    models = service.services.settings.models_path
    for tenant in (ACME, OTHER):
        add_tenant(service.services.engine, tenant)
        (models / tenant).mkdir(parents=True)
        version = SimpleNamespace(version=3, digest="d" * 64, published_us=0)
        write_handed(models / tenant, version)  # type: ignore[arg-type]
    delete(operator, service, ACME)
    wait_until(lambda: not (models / ACME).exists(), "the models to be removed")
    assert (models / OTHER).exists()
    assert (left_behind(models, ACME), left_behind(models, OTHER)) == (3, 0)


def test_what_was_deleted_while_nobody_served_is_removed_at_the_start(tmp_path: Path) -> None:
    gone = tmp_path / "data" / "models" / "gone"
    logged = tmp_path / "slates" / "gone"
    gone.mkdir(parents=True)
    logged.mkdir(parents=True)
    (gone / "live.json").write_text(
        json.dumps({"version": 2, "digest": "d", "path": "2-" + "d" * 12, "published_at": ""})
    )
    with served(tmp_path / "data", slate_log_dir=logged.parent):
        assert not gone.exists()
        wait_until(lambda: not logged.exists(), "the slate log to be removed")
    assert left_behind(tmp_path / "data" / "models", "gone") == 2
