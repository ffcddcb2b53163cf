from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from feeds.model import TenantId
from ranking.features import FeatureSpec
from ranking.scorers.recency import RecencyScorer
from serving.handover import write_problem
from serving.models import ModelCache
from serving.testing import HeldModel, HeldModels, Served, served

ACTIVITY = {"actor": "user:alice", "verb": "ask", "object": "question:1"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("routes") / "data") as running:
        yield running


@pytest.fixture
def api(service: Served) -> Iterator[httpx.Client]:
    """A client of a tenant that nobody else uses."""
    with service.tenant(f"t{len(service.services.engine.tenants())}") as client:
        yield client


def post(api: httpx.Client, feed: str = "user/alice", **fields: object) -> str:
    reply = api.post(f"/v2/feeds/{feed}/activities", json=ACTIVITY | fields)
    assert reply.status_code == 201, reply.text
    return str(reply.json()["activity"]["id"])


def ids(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [entry["id"] for entry in reply.json()["results"]]


def test_a_post_is_read_at_once_by_a_follower(api: httpx.Client) -> None:
    assert (
        api.post("/v2/feeds/timeline/bob/follows", json={"target": "user:alice"}).json()["copied"]
        == 0
    )
    activity = post(api, title="What is a qubit?", time="2020-01-31T12:00:00")

    (entry,) = api.get("/v2/feeds/timeline/bob").json()["results"]

    assert entry == ACTIVITY | {
        "id": activity,
        "foreign_id": "",
        "time": "2020-01-31T12:00:00.000000",
        "target": "",
        "title": "What is a qubit?",
        "origin": "user:alice",
    }


def test_custom_fields_come_back_as_they_were(api: httpx.Client) -> None:
    custom = {"when": "2020-01-01T00:00:00.0Z", "n": 1e308, "deep": [{"é": None}], "custom": {}}
    post(api, **custom)

    (entry,) = api.get("/v2/feeds/user/alice").json()["results"]

    assert {key: entry[key] for key in custom} == custom


def test_pages_follow_each_other(api: httpx.Client) -> None:
    posted = [post(api, time=f"2020-01-01T00:00:0{n}") for n in range(5)]

    first = api.get("/v2/feeds/user/alice", params={"limit": 2})
    second = api.get("/v2/feeds/user/alice", params={"limit": 9, "cursor": first.json()["next"]})

    assert ids(first) + ids(second) == posted[::-1]
    assert second.json()["next"] is None


def test_the_same_idempotency_key_posts_once(api: httpx.Client) -> None:
    replies = [
        api.post(
            "/v2/feeds/user/alice/activities", json=ACTIVITY, headers={"Idempotency-Key": "k1"}
        )
        for _ in range(2)
    ]

    assert [reply.json()["duplicate"] for reply in replies] == [False, True]
    assert len({reply.json()["activity"]["id"] for reply in replies}) == 1
    assert len(ids(api.get("/v2/feeds/user/alice"))) == 1

    other = api.post(
        "/v2/feeds/user/alice/activities",
        json=ACTIVITY | {"verb": "answer"},
        headers={"Idempotency-Key": "k1"},
    )
    assert (other.status_code, other.json()["code"]) == (409, 22)


def test_a_removed_activity_leaves_every_feed(api: httpx.Client) -> None:
    api.post("/v2/feeds/timeline/bob/follows", json={"target": "topic:qubit"})
    activity = post(api, to=["topic:qubit"])
    assert ids(api.get("/v2/feeds/timeline/bob")) == [activity]

    assert api.delete(f"/v2/activities/{activity}").json()["removed"] is True
    assert api.delete(f"/v2/activities/{activity}").json()["removed"] is False

    assert ids(api.get("/v2/feeds/timeline/bob")) == []


@pytest.mark.parametrize("keep", [True, False])
def test_unfollowing_keeps_history_only_if_told(api: httpx.Client, keep: bool) -> None:
    api.post("/v2/feeds/timeline/bob/follows", json={"target": "user:alice"})
    activity = post(api)

    reply = api.delete("/v2/feeds/timeline/bob/follows/user:alice", params={"keep_history": keep})

    assert reply.json()["removed"] is True
    assert ids(api.get("/v2/feeds/timeline/bob")) == ([activity] if keep else [])


def test_events_are_recorded_and_unknown_activities_named(api: httpx.Client) -> None:
    activity = post(api)
    unknown = "87a9eec0-fd5f-11e8-8080-80013fed2f5b"
    events = [
        {"type": "impression", "user": "bob", "activity_id": activity, "position": 0},
        {"type": "engagement", "kind": "like", "user": "bob", "activity_id": activity},
        {"type": "engagement", "kind": "like", "user": "bob", "activity_id": unknown},
    ]

    reply = api.post("/v2/events", json={"events": events}, headers={"Idempotency-Key": "e1"})

    assert reply.status_code == 201, reply.text
    assert (reply.json()["recorded"], reply.json()["unknown"]) == (2, [unknown])
    again = api.post("/v2/events", json={"events": events}, headers={"Idempotency-Key": "e1"})
    assert (again.status_code, again.json()["duplicate"]) == (201, True)


def test_feedback_shows_in_the_next_read(api: httpx.Client) -> None:
    api.post("/v2/feeds/timeline/bob/follows", json={"target": "user:alice"})
    liked, hidden, kept = (post(api, time=f"2020-01-01T00:00:0{n}") for n in range(3))
    assert ids(api.get("/v2/users/bob/feeds/personalized")) == [kept, hidden, liked]

    api.post(
        "/v2/events",
        json={
            "events": [
                {"type": "engagement", "kind": kind, "user": "bob", "activity_id": activity}
                for kind, activity in (("like", liked), ("hide", hidden))
            ]
        },
    )
    reply = api.get("/v2/users/bob/feeds/personalized", params={"explain": True})

    assert ids(reply) == [kept]
    removed = {
        entry["activity_id"]: entry["filter"] for entry in reply.json()["explanation"]["removed"]
    }
    assert removed == {liked: "engaged", hidden: "hidden"}


def test_candidates_of_the_caller_are_ranked_and_none_vanishes(api: httpx.Client) -> None:
    older, newer = (post(api, time=f"2020-01-01T00:00:0{n}") for n in range(2))
    own = post(api, "user/bob", actor="user:bob")
    unknown = "87a9eec0-fd5f-11e8-8080-80013fed2f5b"

    reply = api.post(
        "/v2/users/bob/rank", json={"candidates": [older, own, unknown, newer, older]}
    ).json()

    assert [entry["id"] for entry in reply["results"]] == [newer, older]
    assert [entry["activity_id"] for entry in reply["removed"]] == [own]
    assert reply["unknown"] == [unknown]


def test_openapi_describes_every_route_with_its_errors(service: Served) -> None:
    with service.client() as client:
        document = client.get("/openapi.json").json()

    paths = document["paths"]
    assert len(paths) == 35
    for path, methods in paths.items():
        for method, operation in methods.items():
            assert operation.get("summary"), (method, path)
            if path.startswith("/v2"):
                assert {"400", "401", "403", "413", "503"} <= set(operation["responses"]), path
                assert operation["security"] == [{"ApiKey": []}]
    schemas = document["components"]["schemas"]
    for name in (
        "ActivateBody",
        "ActivityBody",
        "EventsBody",
        "FeedbackBody",
        "FollowBody",
        "RankBody",
        "SuggestionsBody",
        "Error",
    ):
        assert schemas[name]["examples"], name
    assert set(schemas["Error"]["properties"]) == {
        "detail",
        "status_code",
        "code",
        "exception",
        "more_info",
        "problems",
    }


def test_health_readiness_and_metrics_need_no_key(service: Served) -> None:
    with service.client() as client:
        assert client.get("/healthz").json() == {"status": "alive"}
        ready = client.get("/readyz")
        metrics = client.get("/metrics").text

    assert (ready.status_code, ready.json()["problems"]) == (200, [])
    assert 'headwater_requests_total{method="GET",route="/healthz",status="200"}' in metrics
    assert "headwater_outbox_tasks 0.0" in metrics


def test_metrics_name_no_tenant_user_or_path(api: httpx.Client, service: Served) -> None:
    post(api, "user/very-private", title="very-secret")
    api.get("/v2/users/very-private/feeds/explore")
    api.get("/very-private")
    api.request("VERYPRIVATE", "/healthz")

    with service.client() as client:
        metrics = client.get("/metrics").text.lower()

    assert "private" not in metrics
    assert "secret" not in metrics
    assert 'route="unmatched"' in metrics


def test_readiness_counts_and_names_nobody(tmp_path: Path) -> None:
    (tmp_path / "models" / "acme").mkdir(parents=True)
    write_problem(tmp_path / "models" / "acme", 3, "/very/private is damaged", 0)
    models = ModelCache(tmp_path / "models")
    with (
        served(tmp_path / "data", models=models) as service,
        service.tenant("acme") as acme,
        service.tenant("bravo") as bravo,
    ):
        ready = acme.get("/readyz").json()
        assert (ready["tables"], ready["models"], ready["model_problems"]) == (0, 0, 1)
        problem = acme.get("/v2/model").json()["problem"]
        assert "could not be taken up, time ranks" in problem
        assert "private" not in problem
        assert "no model is live" in bravo.get("/v2/model").json()["problem"]


def test_a_tenant_sees_what_ranks_its_feeds(tmp_path: Path) -> None:
    models = HeldModels()
    spec = FeatureSpec()
    models.held[TenantId("acme")] = HeldModel("7", RecencyScorer(spec))
    with served(tmp_path / "data", models=models) as service, service.tenant("acme") as acme:
        assert acme.get("/v2/model").json() == {
            "version": "7",
            "previous": None,
            "loading": False,
            "scorer": "recency",
            "spec_fingerprint": spec.fingerprint,
            "since": None,
            "problem": None,
            "shadow": None,
        }


def test_a_trailing_slash_is_no_redirect(api: httpx.Client) -> None:
    assert api.get("/v2/feeds/user/alice/").status_code == 404


def test_every_reply_has_an_id_of_its_own(service: Served) -> None:
    with service.client() as client:
        found = {client.get("/healthz").headers["x-request-id"] for _ in range(3)}

    assert len(found) == 3


def test_the_service_comes_back_with_what_it_had(tmp_path: Path) -> None:
    with served(tmp_path / "data") as first, first.tenant("acme") as api:
        activity = post(api)
        key = api.headers["authorization"].removeprefix("Bearer ")
    with served(tmp_path / "data") as second, second.client(key) as api:
        assert ids(api.get("/v2/feeds/user/alice")) == [activity]
