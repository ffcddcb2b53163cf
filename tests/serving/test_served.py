"""A new slate does not repeat what the user was just served; what is remembered is bounded."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from feeds.model import Position, TenantId, UserId
from serving.served import Served, ServedMemory
from serving.shared_served import SharedServed
from serving.testing import served

ACME, BOB, EVE = TenantId("acme"), UserId("bob"), UserId("eve")
PERSONALIZED = "/v2/users/bob/feeds/personalized"

Make = Callable[..., Served]


def places(*numbers: int) -> list[Position]:
    return [Position(bytes([number]) * 16) for number in numbers]


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "shared"])
def made(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Make]:
    """Makes the memory of one process, or what several share: one contract for both."""
    opened: list[Served] = []

    def make(served_max: int = 4, users_max: int = 2, ttl_s: float = 10.0) -> Served:
        store: Served = (
            ServedMemory(clock, served_max, users_max, ttl_s)
            if request.param == "memory"
            else SharedServed(tmp_path / "served", clock, served_max, users_max, ttl_s)
        )
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()
        store.close()


def test_what_was_noted_is_remembered_for_its_user_alone(made: Make) -> None:
    store = made()
    store.note(ACME, BOB, places(1, 2))
    store.note(ACME, BOB, places(3))

    assert store.of(ACME, BOB) == {*places(1, 2, 3)}
    assert store.of(ACME, EVE) == frozenset()
    assert store.of(TenantId("other"), BOB) == frozenset()


def test_the_oldest_places_of_a_user_leave(made: Make) -> None:
    store = made(served_max=4)
    store.note(ACME, BOB, places(1, 2, 3))
    store.note(ACME, BOB, places(4, 5, 6))

    assert store.of(ACME, BOB) == {*places(3, 4, 5, 6)}
    store.note(ACME, BOB, places(*range(10, 20)))
    assert store.of(ACME, BOB) == {*places(16, 17, 18, 19)}


def test_places_are_forgotten_after_their_time(made: Make, clock: Clock) -> None:
    store = made(ttl_s=10)
    store.note(ACME, BOB, places(1))
    clock.now = 6
    store.note(ACME, BOB, places(2))
    clock.now = 10

    assert store.of(ACME, BOB) == {*places(2)}


def test_the_user_who_was_served_longest_ago_is_forgotten(made: Make) -> None:
    store = made(users_max=2)
    for user in ("bob", "eve", "ann"):
        store.note(ACME, UserId(user), places(1))

    assert store.of(ACME, BOB) == frozenset()
    assert store.of(ACME, EVE) == store.of(ACME, UserId("ann")) == {*places(1)}


def test_none_is_remembered_where_the_limit_is_0(made: Make) -> None:
    store = made(served_max=0)
    store.note(ACME, BOB, places(1))

    assert store.of(ACME, BOB) == frozenset()


def test_one_process_knows_what_another_served(tmp_path: Path, clock: Clock) -> None:
    with (
        closing(SharedServed(tmp_path / "served", clock, 4, 2, 10)) as one,
        closing(SharedServed(tmp_path / "served", clock, 4, 2, 10)) as other,
    ):
        one.note(ACME, BOB, places(1))
        other.note(ACME, BOB, places(2))

        assert one.of(ACME, BOB) == other.of(ACME, BOB) == {*places(1, 2)}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[httpx.Client]:
    with (
        served(tmp_path / "data", deadline_ms=10_000) as service,
        service.tenant(ACME) as client,
    ):
        client.post("/v2/feeds/timeline/bob/follows", json={"target": "user:ann"})
        yield client


def post(api: httpx.Client, *numbers: int) -> list[str]:
    found = []
    for number in numbers:
        time = f"2020-01-01T00:{number // 60:02}:{number % 60:02}"
        body = {"actor": "user:ann", "verb": "post", "object": f"o{number}", "time": time}
        reply = api.post("/v2/feeds/user/ann/activities", json=body)
        found.append(str(reply.json()["activity"]["id"]))
    return found


def read(api: httpx.Client, **params: Any) -> dict[str, Any]:
    reply = api.get(PERSONALIZED, params=params)
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    return body


def ids(page: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in page["results"]]


def test_a_refresh_brings_what_was_not_served_and_then_what_was_posted(api: httpx.Client) -> None:
    posted = post(api, *range(12))[::-1]
    first = read(api, limit=5)
    second = read(api, limit=5)
    (new,) = post(api, 50)
    third = read(api, limit=3)

    assert ids(first) == posted[:5]
    assert ids(second) == posted[5:10]
    assert ids(third) == [new, *posted[10:]]


def test_pages_that_were_turned_were_served_and_the_rest_of_a_slate_was_not(
    api: httpx.Client,
) -> None:
    posted = post(api, *range(12))[::-1]
    first = read(api, limit=3)
    second = read(api, limit=3, cursor=first["next"])

    assert ids(first) + ids(second) == posted[:6]
    assert ids(read(api, limit=6)) == posted[6:]


def test_where_less_than_a_page_is_new_what_was_served_stands_behind_it(
    api: httpx.Client,
) -> None:
    posted = post(api, *range(6))[::-1]
    assert ids(read(api, limit=4)) == posted[:4]

    page = read(api, limit=4, explain=True)
    explanation = page["explanation"]

    assert ids(page) == [*posted[4:], *posted[:2]]
    assert [entry["position"] for entry in page["results"]] == [0, 1, 2, 3]
    assert [entry["activity_id"] for entry in explanation["activities"]] == ids(page)
    # Conservation: each candidate has a place, or a reason.
    assert {entry["activity_id"] for entry in explanation["removed"]} == {*posted[2:4]}
    assert {entry["filter"] for entry in explanation["removed"]} == {"served"}


def test_a_small_feed_is_never_empty(api: httpx.Client) -> None:
    posted = post(api, 1, 2)[::-1]

    assert [ids(read(api)) for _ in range(3)] == [posted] * 3


def test_each_user_and_each_feed_kind_has_what_is_new_to_the_user(api: httpx.Client) -> None:
    posted = post(api, *range(6))[::-1]
    assert ids(read(api, limit=3)) == posted[:3]
    api.post("/v2/feeds/timeline/eve/follows", json={"target": "user:ann"})

    reply = api.get("/v2/users/eve/feeds/personalized", params={"limit": 3})

    assert ids(reply.json()) == posted[:3]


def test_what_the_request_excludes_is_on_none_of_its_pages(api: httpx.Client) -> None:
    posted = post(api, *range(8))[::-1]
    first = read(api, limit=2, exclude=[posted[0], posted[3]])
    second = read(api, limit=4, cursor=first["next"], exclude=posted[5])

    assert ids(first) == posted[1:3]
    assert ids(second) == [posted[4], posted[6], posted[7]]


@pytest.mark.parametrize(
    ("exclude", "told"),
    [(["nonsense"], "nonsense"), (["x"] * 201, "201 activities to exclude, exclude_max is 200")],
)
def test_what_cannot_be_excluded_is_a_sentence(
    api: httpx.Client, exclude: list[str], told: str
) -> None:
    reply = api.get(PERSONALIZED, params={"exclude": exclude})

    assert reply.status_code == 400
    assert told in reply.json()["detail"]


def test_what_the_caller_wants_ranked_is_ranked_though_it_was_served(api: httpx.Client) -> None:
    posted = post(api, 1, 2)
    read(api)

    reply = api.post("/v2/users/bob/rank", json={"candidates": posted})

    assert [entry["id"] for entry in reply.json()["results"]] == posted[::-1]
