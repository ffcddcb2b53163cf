"""What a product team may rely on, over HTTP: odd input gets a sensible feed or a clear error, and
what a user did shows at the very next read, whatever others do meanwhile.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from serving.testing import ALL_SCOPES, Served, served

CONFIGS = "/v2/ranking-configs"
NEVER = "87a9eec0-fd5f-11e8-8080-80013fed2f5b"
WHIM = "shown to learn whether you like it"
KINDS = ("personalized", "explore")
FEEDS = tuple(f"/v2/users/bob/feeds/{kind}" for kind in KINDS)
READS = (*FEEDS, "/v2/users/bob/digest", "/v2/users/bob/follow_suggestions")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("promises") / "data"
    with served(data, deadline_ms=60_000) as service:
        yield service


@pytest.fixture(scope="module")
def acme(service: Served) -> Iterator[httpx.Client]:
    """A tenant with a dozen activities, some of which bob follows."""
    with service.tenant("acme", ALL_SCOPES) as api:
        api.post("/v2/feeds/timeline/bob/follows", json={"target": "user:u0"})
        for number in range(12):
            post(api, f"o{number}", f"u{number % 4}")
        yield api


def post(api: httpx.Client, name: str, author: str) -> str:
    body = {"actor": f"user:{author}", "verb": "post", "object": name, "tags": ["art"]}
    reply = api.post(f"/v2/feeds/user/{author}/activities", json=body)
    assert reply.status_code == 201, reply.text
    return str(reply.json()["activity"]["id"])


def page(api: httpx.Client, path: str, **params: Any) -> dict[str, Any]:
    reply = api.get(path, params=params)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def ids(told: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in told["results"]]


def refusal(reply: httpx.Response) -> str:
    assert reply.status_code == 400, reply.text
    return str(reply.json()["detail"])


def fallback(score: str) -> dict[str, Any]:
    return {kind: {"fallback": {"score": score}} for kind in KINDS}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"personalized": {"pins": [{"id": NEVER, "position": 0}] * 10_000}}, "10,000|bytes_max"),
        (fallback("popularty + 1"), "did you mean popularity"),
        (fallback("sqrt(2)"), "sqrt"),
        (fallback("popularity +"), "character 13: a number, a name or"),
        ({"personalized": {"deadline_ms": 0}}, "deadline_ms is 0"),
        ({"personalized": {"value": {"like": 10**400}}}, "number is infinity"),
        ({"personalized": {"filters": {"agee": {"on": True}}}}, "did you mean age"),
    ],
    ids=["pins", "feature", "function", "syntax", "deadline", "weight", "filter"],
)
def test_a_config_that_cannot_be_is_a_sentence(
    acme: httpx.Client, document: dict[str, Any], said: str
) -> None:
    detail = refusal(acme.post(CONFIGS, json=document))
    assert any(each in detail for each in said.split("|")), detail


def test_a_weight_that_is_no_number_is_a_sentence(acme: httpx.Client) -> None:
    body = b'{"personalized": {"value": {"like": NaN}}}'
    headers = {"Content-Type": "application/json"}
    assert "the body is not JSON" in refusal(acme.post(CONFIGS, content=body, headers=headers))


@pytest.mark.parametrize(
    ("tenant", "score"),
    [("one", "1 / 0"), ("none", "0 / 0"), ("column", "popularity / (popularity - popularity)")],
)
def test_an_expression_that_divides_by_zero_gives_a_whole_feed(
    service: Served, tenant: str, score: str
) -> None:
    with service.tenant(tenant, ALL_SCOPES) as api:
        posted = {post(api, f"o{number}", "ann") for number in range(5)}
        for user in ("bob", "eve"):
            api.post(f"/v2/feeds/timeline/{user}/follows", json={"target": "user:ann"})
        api.post(CONFIGS, json=fallback(score)).raise_for_status()
        activate = api.post(f"{CONFIGS}/1/activate", json={"expected_version": 0})
        assert activate.status_code == 200, activate.text
        for path in (FEEDS[0], "/v2/users/nobody/feeds/explore"):
            told = page(api, path)
            assert set(ids(told)) == posted
            assert told["scorer"] == "expression"
            assert {entry["score"] for entry in told["results"]} == {None}


def test_candidates_of_another_tenant_are_unknown(service: Served, acme: httpx.Client) -> None:
    own = ids(page(acme, FEEDS[1]))
    with service.tenant("stranger") as stranger:
        told = stranger.post("/v2/users/bob/rank", json={"candidates": [*own, NEVER]})
        assert told.status_code == 200
        assert (told.json()["results"], told.json()["unknown"]) == ([], [*own, NEVER])


def test_a_hundred_thousand_candidates_name_the_limit(acme: httpx.Client) -> None:
    body = {"candidates": [NEVER] * 100_000}
    assert "candidates_max is 500" in refusal(acme.post("/v2/users/bob/rank", json=body))


def test_a_user_nobody_has_seen_gets_what_is_popular_and_new(acme: httpx.Client) -> None:
    for kind in KINDS:
        told = page(acme, f"/v2/users/nobody/feeds/{kind}")
        assert len(told["results"]) == 12
        assert {entry["reason"] for entry in told["results"]} <= {"new", "active now", WHIM}
    assert len(page(acme, "/v2/users/newcomer/digest")["results"]) > 0


def test_a_tenant_without_any_activity_gets_empty_feeds(service: Served) -> None:
    with service.tenant("empty") as api:
        for path in READS:
            assert page(api, path)["results"] == []
        told = api.post("/v2/users/bob/rank", json={"candidates": [NEVER]}).json()
        assert (told["results"], told["unknown"]) == ([], [NEVER])
        assert api.get(f"/v2/activities/{NEVER}/related").status_code == 404


def test_a_like_and_a_follow_show_at_the_next_read_while_others_write_and_read(
    service: Served,
) -> None:
    """What was liked is shown no more, and what is followed stands in the personalized feed."""
    with service.tenant("busy") as api:
        posted = [post(api, f"o{number}", f"u{number % 6}") for number in range(30)]
        stop = threading.Event()

        def others(user: str) -> int:
            done = 0
            with httpx.Client(base_url=api.base_url, headers=api.headers, timeout=30) as client:
                while not stop.is_set() or not done:
                    told = page(client, f"/v2/users/{user}/feeds/explore")
                    like(client, user, ids(told)[0])
                    done += 1
            return done

        with ThreadPoolExecutor(3) as pool:
            busy = [pool.submit(others, f"reader{number}") for number in range(3)]
            try:
                for number, activity in enumerate(posted[:6]):
                    user = f"user{number}"
                    like(api, user, activity)
                    assert activity not in ids(page(api, f"/v2/users/{user}/feeds/personalized"))
                    target = {"target": f"user:u{number}"}
                    path = f"/v2/feeds/timeline/{user}/follows"
                    assert api.post(path, json=target).status_code == 201
                    told = page(api, f"/v2/users/{user}/feeds/personalized", limit=100)
                    followed = {
                        entry["id"] for entry in told["results"] if "follow" in entry["reason"]
                    }
                    assert followed == set(posted[number::6]) - {activity}
            finally:
                stop.set()
            assert min(each.result() for each in busy) > 0


def like(api: httpx.Client, user: str, activity: str) -> None:
    event = {"type": "engagement", "kind": "like", "user": user, "activity_id": activity}
    reply = api.post("/v2/events", json={"events": [event]})
    assert reply.status_code == 201, reply.text
