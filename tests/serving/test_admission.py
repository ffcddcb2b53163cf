"""Requests over a quota are refused before anything of them is read; others take turns."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from feeds.credentials import NO_TENANT
from feeds.model import TenantId
from feeds.new_keys import create_key
from feeds.training_time import HOUR_US
from ranking.registry import wall_clock_us
from serving.admission import Turns
from serving.handover import write_trained_hours
from serving.testing import Served, served

ALL = ("read", "write", "admin")
FEED = "/v2/feeds/user/ann"
NOISY, QUIET = TenantId("noisy"), TenantId("quiet")
SEEN = {"type": "impression", "user": "bob", "activity_id": "87a9eec0-fd5f-11e8-8080-80013fed2f5b"}


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("admission") / "data") as service:
        yield service


def limit(service: Served, tenant: TenantId, **quotas: int | None) -> None:
    service.services.engine.set_quotas(tenant, dict(quotas)).result()


def operator_key(service: Served) -> str:
    made = create_key(service.services.engine, NO_TENANT, ["operator"])
    made.stored.result()
    return made.api_key


def test_a_tenant_over_its_quota_is_told_so_and_no_other_is(service: Served) -> None:
    with service.tenant("noisy") as noisy, service.tenant("quiet") as quiet:
        limit(service, NOISY, requests_per_s=0)
        refused = [noisy.get(FEED) for _ in range(3)]
        assert {reply.status_code for reply in refused} == {429}
        assert refused[0].json()["exception"] == "RateLimitReached"
        assert "tenant noisy has used up its quota requests_per_s, 0" in refused[0].text
        assert "headwater tenants quota set noisy" in refused[0].json()["more_info"]
        assert int(refused[0].headers["retry-after"]) >= 1
        assert quiet.get(FEED).status_code == 200
        told = quiet.get("/metrics").text
        assert 'headwater_quota_refusals_total{quota="requests_per_s"} 3.0' in told

        limit(service, NOISY, requests_per_s=None)
        assert noisy.get(FEED).status_code == 200


def test_a_refused_body_is_not_read(service: Served) -> None:
    """Were it read, it would be answered that it is no JSON."""
    with service.tenant("noisy") as noisy:
        limit(service, NOISY, requests_per_s=0)
        assert noisy.post("/v2/events", content=b"{" * 1_000).status_code == 429
        limit(service, NOISY, requests_per_s=None, events_per_s=0)
        reply = noisy.post("/v2/events", content=b"{" * 1_000)
        assert reply.status_code == 429
        assert "events_per_s, 0" in reply.json()["detail"]
        assert noisy.post("/v2/events/", content=b"{").status_code == 404


def test_events_beyond_the_quota_are_refused_whole(service: Served) -> None:
    with service.tenant("noisy") as noisy:
        limit(service, NOISY, events_per_s=1)
        sent = [
            noisy.post("/v2/events", json={"events": [SEEN] * count}).status_code
            for count in (600, 600, 300)
        ]
        assert sent == [201, 429, 201]


def test_storage_beyond_the_quota_is_refused_until_something_is_removed(service: Served) -> None:
    post = {"actor": "user:ann", "verb": "post", "object": "note:1", "text": "x" * 500}
    with service.tenant("full", ALL) as full:
        limit(service, TenantId("full"), storage_bytes=1_000)
        first = full.post("/v2/feeds/user/ann/activities", json=post).json()["activity"]["id"]
        reply = full.post("/v2/feeds/user/ann/activities", json=post | {"object": "note:2"})
        assert reply.status_code == 429
        assert "its quota storage_bytes is 1000" in reply.json()["detail"]
        assert reply.headers["retry-after"] == "60"
        assert full.get("/v2/tenant").json()["activities"] == 1
        full.delete(f"/v2/activities/{first}")
        told = full.get("/v2/tenant").json()
        assert (told["activities"], told["storage_bytes"]) == (0, 0)
        assert full.post("/v2/feeds/user/ann/activities", json=post).status_code == 201


def test_operators_make_tenants_and_set_their_quotas(service: Served) -> None:
    with service.client(operator_key(service)) as operator:
        made = operator.post("/v2/tenants", json={"tenant": "acme", "scopes": ["admin"]})
        assert made.status_code == 201
        again = operator.post("/v2/tenants", json={"tenant": "acme"})
        assert (again.status_code, again.json()["code"]) == (409, 22)
        quotas = operator.patch("/v2/tenants/acme/quotas", json={"requests_per_s": 3})
        assert quotas.json()["requests_per_s"] == 3
        (told,) = operator.get("/v2/tenants").json()["tenants"]
        assert told == operator.get("/v2/tenants/acme").json()
        assert (told["keys"], told["quotas"]) == (1, quotas.json())
        assert told["trained_minutes"] is None
        hours, now_us = {TenantId("acme"): {wall_clock_us() // HOUR_US: 90.0}}, wall_clock_us()
        write_trained_hours(service.services.settings.models_path, hours, now_us)
        told = operator.get("/v2/tenants/acme").json()
        assert told["trained_minutes"] == 1.5
    with service.client(made.json()["api_key"]) as admin:
        assert admin.get("/v2/tenant").json() == told
        assert admin.get("/v2/tenants").status_code == 403


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("PATCH", "/v2/tenants/nobody/quotas", {"requests_per_s": 1}, 404, "does not exist"),
        ("PATCH", "/v2/tenants/quiet/quotas", {"speed": 1}, 400, "'speed' is no quota: use"),
        ("PATCH", "/v2/tenants/quiet/quotas", {"requests_per_s": -1}, 400, "from 0 to"),
        ("PATCH", "/v2/tenants/quiet/quotas", {"requests_per_s": True}, 400, "valid integer"),
        ("PATCH", "/v2/tenants/quiet/quotas", {"requests_per_s": 1.5}, 400, "valid integer"),
        ("PATCH", "/v2/tenants/quiet/quotas", {"events_per_s": 10**16}, 400, "from 0 to"),
        ("PATCH", "/v2/tenants/quiet/quotas", [1], 400, "valid dictionary"),
        ("GET", "/v2/tenants/nobody", None, 404, "does not exist"),
        ("GET", "/v2/tenants/NO", None, 400, "is not a tenant id"),
        ("POST", "/v2/tenants", {"tenant": ""}, 400, "is not a tenant id"),
        ("POST", "/v2/tenants", {"tenant": "x", "scopes": ["operator"]}, 400, "'read', 'write'"),
    ],
)
def test_what_cannot_be_is_refused(
    service: Served, method: str, path: str, body: object, status: int, words: str
) -> None:
    service.services.engine.create_tenant("quiet").result()
    with service.client(operator_key(service)) as operator:
        reply = operator.request(method, path, json=body)
    assert reply.status_code == status, reply.text
    assert words in reply.json()["detail"]


def test_who_sends_much_waits_for_himself_and_others_wait_for_one_of_his() -> None:
    began: list[str] = []

    async def ask(turns: Turns, tenant: TenantId) -> None:
        await turns.take(tenant)
        began.append(tenant)

    async def crowd() -> None:
        turns = Turns()
        noisy = [asyncio.create_task(ask(turns, NOISY)) for _ in range(50)]
        await asyncio.sleep(0)
        quiet = [asyncio.create_task(ask(turns, QUIET)) for _ in range(3)]
        await asyncio.gather(*noisy, *quiet)
        assert len(turns) == 0

    asyncio.run(crowd())
    places = [place for place, tenant in enumerate(began) if tenant == QUIET]
    assert places[0] <= 3
    assert places[-1] <= 12
    assert began.count(NOISY) == 50


def test_who_comes_while_another_works_waits_for_that_one_alone() -> None:
    """What arrives at a socket during a long request begins before the next of its tenant."""
    began: list[str] = []

    async def crowd() -> None:
        turns, loop = Turns(), asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        tasks: list[asyncio.Task[None]] = []

        async def ask(tenant: TenantId, number: int) -> None:
            await turns.take(tenant)
            began.append(f"{tenant} {number}")
            if (tenant, number) == (NOISY, 2):
                theirs.send(b"x")  # while this request has the loop, another one arrives

        def arrived() -> None:
            loop.remove_reader(ours)
            tasks.append(asyncio.create_task(ask(QUIET, 0)))

        loop.add_reader(ours, arrived)
        await asyncio.gather(*(ask(NOISY, number) for number in range(6)))
        await asyncio.gather(*tasks)
        ours.close()
        theirs.close()

    asyncio.run(crowd())
    assert began[:4] == ["noisy 0", "noisy 1", "noisy 2", "quiet 0"]


def test_a_cancelled_request_keeps_nobody_waiting() -> None:
    async def work() -> None:
        turns = Turns()
        await turns.take(NOISY)
        waiting = [asyncio.create_task(turns.take(NOISY)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        waiting[1].cancel()
        await asyncio.wait_for(waiting[2], 10)

    asyncio.run(work())


def test_a_path_that_leads_nowhere_is_told_as_before(service: Served) -> None:
    with service.client() as nobody:
        assert nobody.get("/v2/nothing").status_code == 404
        assert nobody.get(FEED).status_code == 401
