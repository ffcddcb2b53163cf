"""Related activities over HTTP: for anyone, and for a user."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from feeds.model import TenantId, position_of
from ranking.scorers.recency import RecencyScorer
from serving.testing import HeldModel, HeldModels, Served, served

UNKNOWN = "87a9eec0-fd5f-11e8-8080-80013fed2f5b"


class Vectors:
    """Factors in which the activities named lie in one direction, and all others are unknown."""

    def __init__(self, *alike: str) -> None:
        self._alike = {position_of(activity) for activity in alike}

    def dot(self, *_: Any) -> Any:
        """Nothing is known of users."""
        raise NotImplementedError

    def activity_vectors(self, positions: Any) -> Any:
        """One vector for those alike."""
        return np.array(
            [[1, 1] if position in self._alike else [np.nan] * 2 for position in positions],
            np.float32,
        )


@pytest.fixture(scope="module")
def models() -> HeldModels:
    return HeldModels()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, models: HeldModels) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("related") / "data"
    with served(directory, models=models, deadline_ms=10_000) as running:
        yield running


@pytest.fixture
def tenant(service: Served) -> str:
    return f"t{len(service.services.engine.tenants())}"


@pytest.fixture
def api(service: Served, tenant: str) -> Iterator[httpx.Client]:
    with service.tenant(tenant) as client:
        yield client


def post(api: httpx.Client, number: int, actor: str, *tags: str) -> str:
    body = {
        "actor": actor,
        "verb": "post",
        "object": f"o{number}",
        "time": f"2020-01-01T00:00:{number:02}",
        "tags": tags,
    }
    reply = api.post("/v2/feeds/topic/x/activities", json=body)
    return str(reply.json()["activity"]["id"])


def engage(api: httpx.Client, activity: str, *users: str, kind: str = "like") -> None:
    events = [
        {"type": "engagement", "kind": kind, "user": user, "activity_id": activity}
        for user in users
    ]
    assert api.post("/v2/events", json={"events": events}).status_code == 201


def related(api: httpx.Client, activity: str, **params: Any) -> list[dict[str, Any]]:
    reply = api.get(f"/v2/activities/{activity}/related", params=params)
    assert reply.status_code == 200, reply.text
    assert reply.json()["activity_id"] == activity
    found: list[dict[str, Any]] = reply.json()["results"]
    return found


def ids(found: list[dict[str, Any]]) -> list[str]:
    return [entry["id"] for entry in found]


def test_the_nearest_come_first_and_say_why(api: httpx.Client) -> None:
    seed = post(api, 1, "user:ann", "gate", "qubit")
    by_author = post(api, 2, "user:ann", "other")
    by_tag = post(api, 3, "user:eve", "gate")
    post(api, 4, "user:eve", "noise")
    by_people = post(api, 5, "user:kim")
    engage(api, seed, "u1", "u2")
    engage(api, by_people, "u1", "u2")

    found = related(api, seed)

    assert [(entry["id"], entry["reason"]) for entry in found] == [
        (by_people, "engaged with by the same people"),
        (by_tag, "about the same"),
        (by_author, "by the same author"),
    ]
    assert ids(related(api, seed, limit=1)) == [by_people]


def test_for_a_user_the_tenants_ranking_orders_and_filters(api: httpx.Client) -> None:
    seed = post(api, 1, "user:ann", "gate")
    old, newer, hidden, own = (
        post(api, number, actor, "gate")
        for number, actor in ((2, "user:ann"), (3, "user:eve"), (4, "user:eve"), (5, "user:bob"))
    )
    api.post("/v2/feedback", json={"user": "bob", "kind": "hide", "activity_id": hidden})

    found = related(api, seed, user="bob")

    assert ids(found) == [newer, old]
    assert {entry["reason"] for entry in found} == {"about the same"}
    assert ids(related(api, seed, user="eve")) == [own, old]


def test_the_models_factors_relate_too(api: httpx.Client, models: HeldModels, tenant: str) -> None:
    seed, alike, _ = (post(api, number, f"user:u{number}") for number in range(3))
    assert related(api, seed) == []
    models.held[TenantId(tenant)] = HeldModel("1", RecencyScorer(), Vectors(seed, alike))

    found = related(api, seed)

    assert [(entry["id"], entry["reason"]) for entry in found] == [(alike, "liked like it")]


def test_an_activity_that_nothing_resembles_has_none(api: httpx.Client) -> None:
    seed = post(api, 1, "user:ann", "gate")

    assert related(api, seed) == []
    assert related(api, seed, user="nobody-yet") == []


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        (f"{UNKNOWN}/related", 404, f"there is no activity {UNKNOWN}"),
        ("nonsense/related", 400, "nonsense"),
        (f"{UNKNOWN}/related?limit=0", 400, "limit is 0, page_size_max is 100"),
        (f"{UNKNOWN}/related?limit=101", 400, "ask for 1 to 100"),
        (f"{UNKNOWN}/related?user=a:b", 400, "is not a user id"),
    ],
)
def test_what_cannot_be_is_a_sentence(api: httpx.Client, path: str, status: int, told: str) -> None:
    reply = api.get(f"/v2/activities/{path}")

    assert reply.status_code == status
    assert told in reply.json()["detail"]
