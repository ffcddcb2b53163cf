"""Follow suggestions: who comes first and why, who never does, and feedback that holds."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serving.testing import Served, served

SUGGESTIONS = "/v2/users/bob/follow_suggestions"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("suggestions") / "data", deadline_ms=10_000) as running:
        yield running


@pytest.fixture
def api(service: Served) -> Iterator[httpx.Client]:
    with service.tenant(f"t{len(service.services.engine.tenants())}") as client:
        yield client


def follow(api: httpx.Client, user: str, *targets: str) -> None:
    for target in targets:
        reply = api.post(f"/v2/feeds/timeline/{user}/follows", json={"target": target})
        assert reply.status_code == 201, reply.text


def post(api: httpx.Client, name: str, actor: str, *tags: str) -> str:
    body = {"actor": actor, "verb": "post", "object": name, "tags": tags}
    reply = api.post("/v2/feeds/topic/x/activities", json=body)
    return str(reply.json()["activity"]["id"])


def like(api: httpx.Client, activity: str, *users: str) -> None:
    events = [
        {"type": "engagement", "kind": "like", "user": user, "activity_id": activity}
        for user in users
    ]
    assert api.post("/v2/events", json={"events": events}).status_code == 201


def suggest(api: httpx.Client, user: str = "bob", **params: Any) -> list[dict[str, Any]]:
    reply = api.get(f"/v2/users/{user}/follow_suggestions", params=params)
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = reply.json()["results"]
    return found


def feeds(found: list[dict[str, Any]]) -> list[str]:
    return [entry["feed"] for entry in found]


@pytest.fixture
def community(api: httpx.Client) -> httpx.Client:
    """Bob's friends follow others, he likes a tag, and someone is popular."""
    follow(api, "bob", "user:ann", "user:eve", "topic:x")
    follow(api, "ann", "user:kim", "user:lee", "user:bob", "user:eve")
    follow(api, "eve", "user:kim", "topic:y")
    liked = post(api, "o1", "user:ann", "gate")
    like(api, liked, "bob")
    post(api, "o2", "user:tag", "gate")
    like(api, post(api, "o3", "user:star"), "u1", "u2", "u3")
    return api


def test_each_algorithm_suggests_with_its_reason(community: httpx.Client) -> None:
    found = {entry["feed"]: entry for entry in suggest(community)}

    assert {feed: (entry["algorithm"], entry["reason"]) for feed, entry in found.items()} == {
        "user:kim": ("friends_of_friends", "followed by ann and 1 other whom you follow"),
        "user:lee": ("friends_of_friends", "followed by ann, whom you follow"),
        "topic:y": ("friends_of_friends", "followed by eve, whom you follow"),
        "user:tag": ("tag_authors", "posts about gate"),
        "user:star": ("popular_authors", "popular now"),
    }
    assert next(iter(found)) == "user:kim"
    for entry in found.values():
        assert entry["score"] == pytest.approx(sum(entry["algorithm_scores"].values()))


def test_the_limit_cuts_from_the_end(community: httpx.Client) -> None:
    assert feeds(suggest(community, limit=2)) == feeds(suggest(community))[:2]


def test_neither_oneself_nor_who_is_followed_or_muted_is_suggested(
    community: httpx.Client,
) -> None:
    follow(community, "bob", "user:lee")
    said = {"user": "bob", "kind": "mute", "author": "user:star"}
    assert community.post("/v2/feedback", json=said).status_code == 201

    found = feeds(suggest(community))

    assert not {"user:bob", "user:ann", "user:eve", "user:lee", "user:star"} & set(found)
    assert {"user:kim", "user:tag"} <= set(found)


def test_what_was_accepted_or_rejected_is_not_suggested_again(community: httpx.Client) -> None:
    body = {"accepted": ["user:kim"], "rejected": ["user:tag", "topic:y"]}
    reply = community.post(f"{SUGGESTIONS}/feedback", json=body)

    assert reply.status_code == 201, reply.text
    assert set(feeds(suggest(community))) == {"user:lee", "user:star"}
    assert "topic:y" in feeds(suggest(community, "ann"))


def test_a_user_nobody_has_seen_gets_who_is_popular(community: httpx.Client) -> None:
    found = suggest(community, "stranger")

    assert feeds(found) == ["user:star", "user:ann"]
    assert {entry["algorithm"] for entry in found} == {"popular_authors"}


def test_a_tenant_without_activity_has_no_suggestions(api: httpx.Client) -> None:
    assert suggest(api) == []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"accepted": ["user:kim"], "rejected": ["nonsense"]}, "'nonsense' is not a feed id"),
        ({"rejected": ["wall:kim"]}, "feed group 'wall' is not configured"),
        ({"rejected": ["user:a"] * 101}, "rejected"),
        ({"dismissed": []}, "dismissed"),
    ],
)
def test_what_cannot_be_is_a_sentence_and_changes_nothing(
    community: httpx.Client, body: dict[str, Any], told: str
) -> None:
    before = feeds(suggest(community))

    reply = community.post(f"{SUGGESTIONS}/feedback", json=body)

    assert reply.status_code == 400
    assert told in reply.json()["detail"]
    assert feeds(suggest(community)) == before


@pytest.mark.parametrize("limit", [0, 101])
def test_a_limit_out_of_range_is_refused(api: httpx.Client, limit: int) -> None:
    reply = api.get(SUGGESTIONS, params={"limit": limit})

    assert (reply.status_code, reply.json()["code"]) == (400, 4)
