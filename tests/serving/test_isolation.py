"""A key of one tenant never sees or moves what belongs to another: held for every route."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from feeds.model import FeedId, TenantId, UserId
from serving.testing import ALL_SCOPES, Served, served

MARK = "only-for-bravo"
BRAVOS_KEY = "bravor0wkey"
OPERATORS = {"/healthz", "/readyz", "/metrics", "/metrics/tenants"}
"""Routes without a key: they show no tenant's content."""
ADMINS = {"/v2/tenant", "/v2/keys", "/v2/keys/{key_id}", "/v2/keys/{key_id}/rotate"}
FOR_OPERATORS = "/v2/tenants"


@dataclass(frozen=True)
class Sites:
    """Two tenants with the same names in them, and what belongs to the second."""

    service: Served
    alpha: httpx.Client
    bravo: httpx.Client
    activity: str
    cursors: dict[str, str]
    slate: str


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    with (
        served(tmp_path_factory.mktemp("isolation") / "data") as service,
        service.tenant("alpha", ALL_SCOPES) as alpha,
        service.tenant("bravo", ALL_SCOPES) as bravo,
    ):
        bravo.post("/v2/feeds/timeline/bob/follows", json={"target": "user:ann"})
        posted = [
            bravo.post(
                "/v2/feeds/user/ann/activities",
                json={"actor": "user:ann", "verb": "post", "object": f"{MARK}-{n}"},
                headers={"Idempotency-Key": f"key-{n}"},
            ).json()["activity"]["id"]
            for n in range(4)
        ]
        config = {"personalized": {"deadline_ms": 77.5}}
        bravo.post("/v2/ranking-configs", json=config)
        bravo.post("/v2/ranking-configs/1/activate", json={"expected_version": 0})
        cursors = {
            path: bravo.get(path, params={"limit": 1}).json()["next"]
            for path in ("/v2/feeds/timeline/bob", "/v2/users/bob/feeds/personalized")
        }
        assert all(cursors.values())
        slate = bravo.get("/v2/users/bob/feeds/personalized").json()["slate_id"]
        assert bravo.get(f"/v2/slates/{slate}/explain").status_code == 200
        yield Sites(service, alpha, bravo, posted[0], cursors, slate)


def requests_of(sites: Sites) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """For each route, requests with everything of the other tenant that could be named."""
    one = sites.activity
    event = {"type": "engagement", "kind": "hide", "user": "bob", "activity_id": one}
    ranked = sites.cursors["/v2/users/bob/feeds/personalized"]
    return {
        ("GET", "/v2/feeds/{group}/{feed}"): [
            {"url": "/v2/feeds/timeline/bob"},
            {"url": "/v2/feeds/user/ann"},
            {
                "url": "/v2/feeds/timeline/bob",
                "params": {"cursor": sites.cursors["/v2/feeds/timeline/bob"]},
            },
        ],
        ("POST", "/v2/feeds/{group}/{feed}/activities"): [
            {
                "url": "/v2/feeds/user/ann/activities",
                "json": {"actor": "user:ann", "verb": "post", "object": "by-alpha"},
                "headers": {"Idempotency-Key": "key-0"},
            }
        ],
        ("DELETE", "/v2/activities/{activity}"): [{"url": f"/v2/activities/{one}"}],
        ("POST", "/v2/feeds/{group}/{feed}/follows"): [
            {"url": "/v2/feeds/timeline/bob/follows", "json": {"target": "user:ann"}},
            {"url": "/v2/feeds/timeline/eve/follows", "json": {"target": "user:ann"}},
        ],
        ("DELETE", "/v2/feeds/{group}/{feed}/follows/{target}"): [
            {"url": "/v2/feeds/timeline/bob/follows/user:ann"}
        ],
        ("GET", "/v2/users/{user}/feeds/{kind}"): [
            {"url": "/v2/users/bob/feeds/personalized", "params": {"explain": "1"}},
            {"url": "/v2/users/eve/feeds/explore", "params": {"explain": "1"}},
            {"url": "/v2/users/bob/feeds/personalized", "params": {"cursor": ranked}},
        ],
        ("POST", "/v2/users/{user}/rank"): [
            {"url": "/v2/users/bob/rank", "json": {"candidates": [one], "explain": True}}
        ],
        ("GET", "/v2/slates/{slate}/explain"): [{"url": f"/v2/slates/{sites.slate}/explain"}],
        ("GET", "/v2/model"): [{"url": "/v2/model"}],
        ("GET", "/v2/tenant"): [{"url": "/v2/tenant"}],
        ("GET", "/v2/tenants"): [{"url": "/v2/tenants"}],
        ("POST", "/v2/tenants"): [{"url": "/v2/tenants", "json": {"tenant": "bravo"}}],
        ("GET", "/v2/tenants/{tenant}"): [{"url": "/v2/tenants/bravo"}],
        ("DELETE", "/v2/tenants/{tenant}"): [
            {"url": "/v2/tenants/bravo", "params": {"confirm": "bravo"}}
        ],
        ("PATCH", "/v2/tenants/{tenant}/quotas"): [
            {"url": "/v2/tenants/bravo/quotas", "json": {"requests_per_s": 0}}
        ],
        ("GET", "/v2/tenants/{tenant}/pipeline"): [{"url": "/v2/tenants/bravo/pipeline"}],
        ("GET", "/v2/keys"): [{"url": "/v2/keys"}],
        ("POST", "/v2/keys"): [{"url": "/v2/keys", "json": {"scopes": ["read"]}}],
        ("POST", "/v2/keys/{key_id}/rotate"): [
            {"url": f"/v2/keys/{BRAVOS_KEY}/rotate", "json": {"grace_s": 0}}
        ],
        ("DELETE", "/v2/keys/{key_id}"): [{"url": f"/v2/keys/{BRAVOS_KEY}"}],
        ("GET", "/v2/ranking-config"): [{"url": "/v2/ranking-config"}],
        ("GET", "/v2/ranking-config/schema"): [{"url": "/v2/ranking-config/schema"}],
        ("GET", "/v2/ranking-configs"): [{"url": "/v2/ranking-configs"}],
        ("GET", "/v2/ranking-configs/{version}"): [
            {"url": "/v2/ranking-configs/0"},
            {"url": "/v2/ranking-configs/1"},
            {"url": "/v2/ranking-configs/2"},
        ],
        ("POST", "/v2/ranking-configs"): [{"url": "/v2/ranking-configs", "json": {}}],
        ("POST", "/v2/ranking-configs/preview"): [
            {"url": "/v2/ranking-configs/preview", "json": {}}
        ],
        ("POST", "/v2/ranking-configs/{version}/activate"): [
            {"url": f"/v2/ranking-configs/{version}/activate", "json": {"expected_version": one}}
            for version in (0, 1, 2)
            for one in (0, 1)
        ],
        ("POST", "/v2/ranking-configs/rollback"): [{"url": "/v2/ranking-configs/rollback"}],
        ("GET", "/v2/pipeline"): [{"url": "/v2/pipeline", "params": {"kind": "explore"}}],
        ("GET", "/v2/users/{user}/digest"): [
            {"url": "/v2/users/bob/digest"},
            {"url": "/v2/users/eve/digest", "params": {"since": "2020-01-01T00:00:00"}},
        ],
        ("GET", "/v2/users/{user}/follow_suggestions"): [
            {"url": "/v2/users/bob/follow_suggestions"},
            {"url": "/v2/users/eve/follow_suggestions"},
        ],
        ("POST", "/v2/users/{user}/follow_suggestions/feedback"): [
            {"url": "/v2/users/bob/follow_suggestions/feedback", "json": {"rejected": ["user:ann"]}}
        ],
        ("GET", "/v2/activities/{activity}/related"): [
            {"url": f"/v2/activities/{one}/related"},
            {"url": f"/v2/activities/{one}/related", "params": {"user": "bob"}},
        ],
        ("POST", "/v2/feedback"): [
            {"url": "/v2/feedback", "json": {"user": "bob", "kind": kind} | about}
            for kind, about in (
                ("mute", {"author": "user:ann"}),
                ("hide", {"activity_id": one}),
                ("unhide", {"activity_id": one}),
                ("show_less", {"activity_id": one}),
            )
        ],
        ("POST", "/v2/events"): [
            {
                "url": "/v2/events",
                "json": {"events": [event]},
                "headers": {"Idempotency-Key": "key-0"},
            }
        ],
    }


def state(sites: Sites) -> dict[str, object]:
    """All that the second tenant has."""
    engine, bravo = sites.service.services.engine, TenantId("bravo")
    return {
        "events": engine.events(bravo, 0, 1_000),
        "tenant": engine.tenant(bravo),
        "keys": engine.keys(bravo),
        "record": engine.user_record(bravo, UserId("bob")),
        "configs": engine.ranking_configs(bravo),
        "config": engine.active_ranking_config(bravo),
        "follows": engine.follows(bravo, FeedId("timeline", "bob")),
        "feed": sites.bravo.get("/v2/feeds/timeline/bob").content,
        "ranked": sorted(  # what was served comes last: the order is another at each read
            entry["id"]
            for entry in sites.bravo.get("/v2/users/bob/feeds/personalized").json()["results"]
        ),
    }


def test_every_route_is_tried(sites: Sites) -> None:
    paths = sites.alpha.get("/openapi.json").json()["paths"]
    routes = {(method.upper(), path) for path, methods in paths.items() for method in methods}

    assert set(requests_of(sites)) == {route for route in routes if route[1] not in OPERATORS}


def test_no_route_shows_or_moves_what_belongs_to_another_tenant(sites: Sites) -> None:
    before = state(sites)

    for route, requests in requests_of(sites).items():
        for request in requests:
            reply = sites.alpha.request(route[0], **request)
            assert reply.status_code < 500, (route, reply.text)
            assert MARK not in reply.text, route

    assert state(sites) == before


def test_another_tenants_activity_is_as_unknown_as_one_that_never_was(sites: Sites) -> None:
    never = "87a9eec0-fd5f-11e8-8080-80013fed2f5b"
    for template in ("/v2/activities/{}",):
        replies = [sites.alpha.delete(template.format(one)) for one in (sites.activity, never)]
        assert [reply.json()["removed"] for reply in replies] == [False, False]
    ranked = sites.alpha.post(
        "/v2/users/bob/rank", json={"candidates": [sites.activity, never]}
    ).json()
    assert ranked["unknown"] == [sites.activity, never]
    slate = sites.cursors["/v2/users/bob/feeds/personalized"]
    reply = sites.alpha.get("/v2/users/bob/feeds/personalized", params={"cursor": slate})
    assert reply.status_code == 410


def test_another_tenants_slate_is_as_unknown_as_one_that_never_was(sites: Sites) -> None:
    never = "0" * 32
    replies = [sites.alpha.get(f"/v2/slates/{one}/explain") for one in (sites.slate, never)]
    assert [reply.status_code for reply in replies] == [404, 404]
    details = [reply.json()["detail"] for reply in replies]
    assert details[0].replace(sites.slate, never) == details[1]


def test_operators_routes_show_neither_content_nor_tenants(sites: Sites) -> None:
    with sites.service.client() as nobody:
        for path in OPERATORS:
            shown = nobody.get(path).text
            for word in (MARK, "alpha", "bravo", "bob"):
                assert word not in shown, (path, word)


def test_a_reading_key_cannot_write(sites: Sites) -> None:
    with sites.service.tenant("charlie", scopes=("read",)) as reader:
        for (method, path), requests in requests_of(sites).items():
            reply = reader.request(method, **requests[0])
            if path in ADMINS or path.startswith(FOR_OPERATORS):
                assert reply.status_code == 403, (method, path)
            elif path.endswith("/explain"):  # of another tenant's slate
                assert reply.status_code == 404
            elif method == "GET" or path.endswith("/rank"):
                found = 404 if path.endswith("/related") else 200
                assert reply.status_code == found, (method, path, reply.text)
            else:
                assert (reply.status_code, reply.json()["code"]) == (403, 17), (method, path)
