"""What a user says is honoured by every read that begins after it was acknowledged."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from serving.testing import Served, served

PERSONALIZED = "/v2/users/bob/feeds/personalized"
UNKNOWN = "87a9eec0-fd5f-11e8-8080-80013fed2f5b"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("feedback") / "data", deadline_ms=10_000) as running:
        yield running


@pytest.fixture
def api(service: Served) -> Iterator[httpx.Client]:
    """A client of a tenant that nobody else uses, whose bob follows topic:x."""
    with service.tenant(f"t{len(service.services.engine.tenants())}") as client:
        client.post("/v2/feeds/timeline/bob/follows", json={"target": "topic:x"})
        yield client


def post(api: httpx.Client, number: int, actor: str = "user:ann", *tags: str) -> str:
    body = {
        "actor": actor,
        "verb": "post",
        "object": f"o{number}",
        "time": f"2020-01-01T00:{number // 60:02}:{number % 60:02}",
    }
    reply = api.post("/v2/feeds/topic/x/activities", json=body | ({"tags": tags} if tags else {}))
    assert reply.status_code == 201, reply.text
    return str(reply.json()["activity"]["id"])


def say(api: httpx.Client, kind: str, **about: str) -> dict[str, Any]:
    reply = api.post("/v2/feedback", json={"user": "bob", "kind": kind} | about)
    assert reply.status_code == 201, reply.text
    body: dict[str, Any] = reply.json()
    return body


def read(api: httpx.Client, **params: Any) -> dict[str, Any]:
    reply = api.get(PERSONALIZED, params=params)
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    return body


def ids(page: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in page["results"]]


def test_each_kind_shows_in_the_next_read_and_can_be_taken_back(api: httpx.Client) -> None:
    plain = post(api, 1)
    eves = post(api, 2, "user:eve")
    noise = post(api, 3, "user:ann", "noise")
    steps: list[tuple[str, str, dict[str, str], str]] = [
        ("hide", "unhide", {"activity_id": plain}, plain),
        ("report", "unhide", {"activity_id": plain}, plain),
        ("mute", "unmute", {"author": "user:eve"}, eves),
        ("mute", "unmute", {"tag": "noise"}, noise),
        ("show_less", "show_more", {"author": "user:eve"}, eves),
        ("show_less", "show_more", {"tag": "noise"}, noise),
        ("show_less", "show_more", {"activity_id": noise}, noise),
    ]
    for kind, back, about, gone in steps:
        say(api, kind, **about)
        assert set(ids(read(api))) == {plain, eves, noise} - {gone}, (kind, about)
        say(api, back, **about)
        assert set(ids(read(api))) == {plain, eves, noise}, (back, about)


def event(api: httpx.Client, kind: str, activity: str, **more: object) -> httpx.Response:
    told = {"type": "engagement", "kind": kind, "user": "bob", "activity_id": activity, **more}
    return api.post("/v2/events", json={"events": [told]})


def test_a_report_hides_from_who_reports_and_a_look_from_nobody(api: httpx.Client) -> None:
    one, other = post(api, 1), post(api, 2)
    assert event(api, "dwell", one, value=42.5).status_code == 201
    assert set(ids(read(api))) == {one, other}
    assert event(api, "report", one).status_code == 201
    page = read(api, explain=True)
    assert ids(page) == [other]
    assert [removed["filter"] for removed in page["explanation"]["removed"]] == ["hidden"]
    api.post("/v2/feeds/timeline/eve/follows", json={"target": "topic:x"})
    eves = api.get("/v2/users/eve/feeds/personalized").json()
    assert set(ids(eves)) == {one, other}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "a dwell has no value: send the seconds"),
        ({"value": -1}, "value -1.0 of a dwell is out of range: send its seconds, from 0 to 86400"),
        ({"value": 86_401}, "of a dwell is out of range"),
        ({"value": 1e12}, "out of range"),
    ],
)
def test_a_look_without_seconds_that_can_be_is_refused(
    api: httpx.Client, more: dict[str, float], words: str
) -> None:
    reply = event(api, "dwell", post(api, 1), **more)
    assert reply.status_code == 400
    assert words in reply.text


def test_more_of_a_tag_is_told_as_a_multiplier(api: httpx.Client) -> None:
    post(api, 1)
    gate = post(api, 2, "user:ann", "gate")
    say(api, "show_more", tag="gate")

    explained = read(api, explain=True)["explanation"]["activities"]

    said = {entry["activity_id"]: entry["multipliers"].get("show_more") for entry in explained}
    assert said[gate] == pytest.approx(1.5, abs=0.001)


def test_the_further_pages_of_a_slate_honour_it_too(api: httpx.Client) -> None:
    posted = [post(api, n, f"user:u{n % 4}", f"t{n % 5}") for n in range(40)][::-1]
    first = read(api, limit=5)
    assert ids(first) == posted[:5]

    hidden = posted[7]
    say(api, "hide", activity_id=hidden)
    say(api, "mute", author="user:u1")
    say(api, "mute", tag="t2")
    rest, cursor = [], first["next"]
    while cursor:
        page = read(api, limit=5, cursor=cursor)
        rest += ids(page)
        cursor = page["next"]

    kept = [
        activity
        for number, activity in enumerate(posted[5:], start=5)
        if activity != hidden and (39 - number) % 4 != 1 and (39 - number) % 5 != 2
    ]
    assert rest == kept


def test_no_read_after_the_acknowledgement_shows_it_under_load(api: httpx.Client) -> None:
    authors = [f"user:u{n}" for n in range(8)]
    posted = {post(api, n, authors[n % 8], f"t{n % 6}"): n for n in range(48)}
    gone: set[str] = set()
    lock, stop = threading.Lock(), threading.Event()
    broken: list[tuple[str, str]] = []

    def reader() -> int:
        reads = 0
        with httpx.Client(base_url=api.base_url, headers=api.headers, timeout=30) as client:
            while not stop.is_set():
                with lock:
                    before = set(gone)
                page = read(client, limit=7)
                shown = ids(page)
                if page["next"]:
                    shown += ids(read(client, limit=7, cursor=page["next"]))
                broken.extend(("shown", each) for each in shown if each in before)
                reads += 1
        return reads

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(reader) for _ in range(3)]
        try:
            for number in range(6):
                activity = next(each for each in posted if each not in gone)
                say(api, "hide", activity_id=activity)
                with lock:
                    gone.add(activity)
                say(api, "mute", author=authors[number])
                with lock:
                    gone |= {each for each, n in posted.items() if n % 8 == number}
                post(api, 100 + number)
            say(api, "show_less", tag="t3")
            with lock:
                gone |= {each for each, n in posted.items() if n % 6 == 3}
        finally:
            stop.set()
        reads = [each.result() for each in readers]

    assert broken == []
    assert min(reads) > 0


def test_an_idempotency_key_takes_effect_once(api: httpx.Client) -> None:
    body = {"user": "bob", "kind": "mute", "author": "user:eve"}
    headers = {"Idempotency-Key": "f1"}
    api.post("/v2/feedback", json=body, headers=headers)

    again = api.post("/v2/feedback", json=body, headers=headers)
    other = api.post("/v2/feedback", json=body | {"author": "user:ann"}, headers=headers)

    assert (again.status_code, again.json()["duplicate"]) == (201, True)
    assert other.status_code == 409


@pytest.mark.parametrize("kind", ["hide", "show_more", "show_less"])
def test_an_activity_that_does_not_exist_is_a_404(api: httpx.Client, kind: str) -> None:
    reply = api.post("/v2/feedback", json={"user": "bob", "kind": kind, "activity_id": UNKNOWN})

    assert (reply.status_code, reply.json()["code"]) == (404, 16)
    assert reply.json()["detail"].startswith(f"there is no activity {UNKNOWN}")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"kind": "hide"}, "hide is about one activity_id, and this names nothing"),
        ({"kind": "hide", "author": "user:a"}, "hide is about one activity_id"),
        ({"kind": "mute", "activity_id": UNKNOWN}, "mute is about one author or tag"),
        ({"kind": "mute", "author": "user:a", "tag": "b"}, "names author and tag: name one"),
        ({"kind": "block", "author": "user:a"}, "kind"),
        ({"kind": "mute", "author": ""}, "author"),
        ({"kind": "mute", "author": "x" * 1_025}, "text_bytes_max is 1024"),
        ({"kind": "mute", "tag": "x" * 256}, "tag_bytes_max, 255 bytes"),
        ({"kind": "hide", "activity_id": "nonsense"}, "nonsense"),
        ({"kind": "mute", "author": "user:a", "user": "b:b"}, "is not a user id"),
        ({"kind": "mute", "author": "user:a", "more": 1}, "more"),
    ],
)
def test_what_cannot_be_is_a_sentence(api: httpx.Client, body: dict[str, Any], told: str) -> None:
    reply = api.post("/v2/feedback", json={"user": "bob"} | body)

    assert reply.status_code == 400
    assert told in reply.json()["detail"]


def test_a_key_that_may_only_read_gives_no_feedback(service: Served) -> None:
    with service.tenant("reads-only", scopes=("read",)) as api:
        reply = api.post("/v2/feedback", json={"user": "b", "kind": "mute", "tag": "x"})

    assert reply.status_code == 403
