"""The API's part of the issue's "Bad input": a clear 4xx each, and nothing changed."""

import json
import socket
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.cursors import SlateCursor
from serving.testing import Served, served

UNKNOWN = "87a9eec0-fd5f-11e8-8080-80013fed2f5b"
ACTIVITY = {"actor": "user:alice", "verb": "ask", "object": "question:1"}
ENGAGEMENT = {"type": "engagement", "kind": "like", "user": "bob", "activity_id": UNKNOWN}
POST = "/v2/feeds/user/alice/activities"
EVENTS = "/v2/events"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("bad") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def api(service: Served) -> Iterator[httpx.Client]:
    with service.tenant("acme") as client:
        yield client


@pytest.fixture(autouse=True)
def _nothing_changed(service: Served, api: httpx.Client) -> Iterator[None]:
    assert api.headers["authorization"]
    before = service.services.engine.applied_index()
    yield
    assert service.services.engine.applied_index() == before


def refused(reply: httpx.Response, status: int, code: int, *words: str) -> None:
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert (reply.status_code, body["status_code"], body["code"]) == (status, status, code), body
    assert body["exception"]
    for word in words:
        assert word in body["detail"] + body.get("more_info", ""), body


def event(**fields: object) -> bytes:
    return json.dumps({"events": [ENGAGEMENT | fields]}).encode()


def test_unknown_feed_group_names_the_known_ones(api: httpx.Client) -> None:
    refused(api.get("/v2/feeds/wall/bob"), 400, 6, "wall", "timeline")
    refused(api.post("/v2/feeds/wall/bob/activities", json=ACTIVITY), 400, 6, "wall")
    refused(api.post(POST, json=ACTIVITY | {"to": ["wall:bob"]}), 400, 6, "wall")


@pytest.mark.parametrize("path", ["/v2/feeds/timeline/bob", "/v2/users/bob/feeds/personalized"])
@pytest.mark.parametrize("cursor", ["nonsense", "", "%00", UNKNOWN.upper(), "A" * 5_000])
def test_bad_cursor_says_where_to_take_one_from(api: httpx.Client, path: str, cursor: str) -> None:
    refused(api.get(path, params={"cursor": cursor}), 400, 4, "take")


def test_expired_cursor_says_to_read_again(api: httpx.Client) -> None:
    cursor = SlateCursor("0" * 32, 25).encode()

    refused(
        api.get("/v2/users/bob/feeds/explore", params={"cursor": cursor}),
        410,
        4,
        "without a cursor",
    )


@pytest.mark.parametrize("limit", ["0", "-1", "101", "1e308", "NaN", "", "9" * 400])
@pytest.mark.parametrize("path", ["/v2/feeds/timeline/bob", "/v2/users/bob/feeds/explore"])
def test_limit_out_of_range_is_refused(api: httpx.Client, path: str, limit: str) -> None:
    refused(api.get(path, params={"limit": limit}), 400, 4, "limit")


def test_five_megabytes_are_refused_whether_announced_or_not(api: httpx.Client) -> None:
    body = json.dumps(ACTIVITY | {"text": "x" * 5_000_000}).encode()

    refused(api.post(POST, content=body, headers=JSON), 413, 18, "body_bytes_max", "4194304")
    refused(api.post(POST, content=iter([body]), headers=JSON), 413, 18, "body_bytes_max")


def test_a_long_body_is_refused_before_it_is_sent(service: Served) -> None:
    host, port = service.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            f"POST {POST} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            "Authorization: Bearer hw_acmer0wkey_secret-of-acme-0123456789\r\n"
            "Content-Length: 500000000\r\n\r\n".encode()
        )
        head = connection.recv(4_096)

    assert head.startswith(b"HTTP/1.1 413 ")


def test_an_activity_above_its_limit_names_the_limit(api: httpx.Client) -> None:
    refused(api.post(POST, json=ACTIVITY | {"text": "x" * 70_000}), 400, 4, "activity_bytes_max")
    refused(api.post(POST, json=ACTIVITY | {"actor": "x" * 2_000}), 400, 4, "text_bytes_max")
    to = [f"topic:t{n}" for n in range(101)]
    refused(api.post(POST, json=ACTIVITY | {"to": to}), 400, 4, "to_max")


def test_ten_thousand_events_name_the_limit(api: httpx.Client) -> None:
    body = {"events": [ENGAGEMENT] * 10_000}

    refused(api.post(EVENTS, json=body), 400, 4, "events_batch_max", "1000")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1e308", "-1e308"])
def test_a_number_that_is_none_or_far_too_large_is_refused(api: httpx.Client, number: str) -> None:
    body = event(value=0).replace(b'"value": 0', b'"value": ' + number.encode())

    refused(api.post(EVENTS, content=body, headers=JSON), 400, 4)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400"])
def test_custom_fields_hold_json_numbers_only(api: httpx.Client, number: str) -> None:
    body = json.dumps(ACTIVITY)[:-1] + f', "size": {number}}}'

    refused(api.post(POST, content=body.encode(), headers=JSON), 400, 4, "JSON")


@pytest.mark.parametrize(
    "time", ["9999-12-31T23:59:59", "0000-01-01", "1800-01-01", "tomorrow", "", "1e308"]
)
def test_a_time_out_of_range_is_refused(api: httpx.Client, time: str) -> None:
    refused(api.post(POST, json=ACTIVITY | {"time": time}), 400, 4, "time")
    refused(api.post(EVENTS, content=event(time=time), headers=JSON), 400, 4, "time")


@pytest.mark.parametrize(
    "body",
    [b"\xff\xfe{}", b'{"actor": "\xff"}', b'{"actor": "\\ud800"}', b"", b"null", b"[]", b"{"],
)
def test_a_body_that_is_no_utf8_json_object_is_refused(api: httpx.Client, body: bytes) -> None:
    for path in (POST, EVENTS, "/v2/feeds/timeline/bob/follows", "/v2/users/bob/rank"):
        refused(api.post(path, content=body, headers=JSON), 400, 4)


def test_deep_json_is_refused(api: httpx.Client) -> None:
    for depth in (300, 5_000):
        deep = b'{"a":' * depth + b"1" + b"}" * depth
        body = json.dumps(ACTIVITY).encode()[:-1] + b', "deep": ' + deep + b"}"

        refused(api.post(POST, content=body, headers=JSON), 400, 4, "JSON")


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"actor":"user:a","actor":"user:b","verb":"v","object":"o"}', "actor"),
        (b'{"actor":"user:a","verb":"v","object":"o","deep":[{"n":1,"n":1}]}', "n"),
    ],
)
def test_a_key_that_comes_twice_is_refused(api: httpx.Client, body: bytes, key: str) -> None:
    refused(api.post(POST, content=body, headers=JSON), 400, 4, repr(key), "once")


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**300])
def test_an_integer_that_would_be_rounded_is_refused(api: httpx.Client, number: int) -> None:
    refused(api.post(POST, json=ACTIVITY | {"n": number}), 400, 4, "64 bits", "text")


@pytest.mark.parametrize("name", ["actor", "verb", "object"])
@pytest.mark.parametrize("value", ["", None, 7, ["x"]])
def test_an_activity_says_who_did_what_with_what(
    api: httpx.Client, name: str, value: object
) -> None:
    refused(api.post(POST, json=ACTIVITY | {name: value}), 400, 4, name)
    missing = {key: text for key, text in ACTIVITY.items() if key != name}
    refused(api.post(POST, json=missing), 400, 4, name)


@pytest.mark.parametrize("key", ["id", "origin"])
def test_what_the_server_gives_cannot_be_sent(api: httpx.Client, key: str) -> None:
    refused(api.post(POST, json=ACTIVITY | {key: "x"}), 400, 4, key, "leave it out")


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "adore"},
        {"type": "view"},
        {"user": "bob:x"},
        {"user": ""},
        {"activity_id": "x"},
        {"position": -2},
        {"value": "1"},
        {"value": True},
        {"slate": "x"},
    ],
)
def test_an_event_that_does_not_fit_is_refused(
    api: httpx.Client, fields: dict[str, object]
) -> None:
    refused(api.post(EVENTS, content=event(**fields), headers=JSON), 400, 4)


def test_many_mistakes_are_told_in_a_bounded_answer(api: httpx.Client) -> None:
    reply = api.post(EVENTS, json={"events": [{"type": "view", "secret": "hunter2"}] * 900})

    refused(reply, 400, 4, "more")
    assert len(reply.content) < 3_000
    assert "hunter2" not in reply.text


@pytest.mark.parametrize(
    "path",
    ["/v2/feeds/timeline/%ff", "/v2/users/b%00b/feeds/explore", "/v2/users/a:b/feeds/explore"],
)
def test_ids_in_the_path_are_checked(api: httpx.Client, path: str) -> None:
    refused(api.get(path), 400, 4, "id")


def test_a_feed_cannot_follow_what_only_gathers(api: httpx.Client) -> None:
    for target in ("timeline:bob", "timeline:eve", "nonsense", ""):
        reply = api.post("/v2/feeds/timeline/bob/follows", json={"target": target})
        refused(reply, 400, 4)
    reply = api.post(
        "/v2/feeds/timeline/bob/follows", json={"target": "user:eve", "copy_limit": 1_001}
    )
    refused(reply, 400, 4, "copy_limit_max")


def test_too_many_candidates_name_the_limit(api: httpx.Client) -> None:
    reply = api.post("/v2/users/bob/rank", json={"candidates": [UNKNOWN] * 501})

    refused(reply, 400, 4, "candidates_max", "500")
    refused(api.post("/v2/users/bob/rank", json={"candidates": []}), 400, 4, "candidates")


def test_an_idempotency_key_has_a_limit(api: httpx.Client) -> None:
    for key in ("", "k" * 2_000):
        reply = api.post(POST, json=ACTIVITY, headers={"Idempotency-Key": key})
        refused(reply, 400, 4, "key")


def test_another_content_type_is_refused(api: httpx.Client) -> None:
    body = json.dumps(ACTIVITY).encode()

    reply = api.post(POST, content=body, headers={"Content-Type": "text/plain"})

    refused(reply, 400, 4, "application/json")


def test_a_request_without_a_valid_key_is_refused(service: Served) -> None:
    with service.client() as nobody, service.client("hw_acme_0123456789abcdef") as stranger:
        for client in (nobody, stranger):
            reply = client.get("/v2/feeds/timeline/bob")
            refused(reply, 401, 2, "Bearer hw_<key id>_<secret>")
            assert reply.headers["www-authenticate"] == "Bearer"


@settings(max_examples=60, deadline=None)
@given(body=st.binary(max_size=200))
def test_no_bytes_make_the_server_fail(api: httpx.Client, body: bytes) -> None:
    for path in (POST, EVENTS, "/v2/users/bob/rank"):
        reply = api.post(path, content=body, headers=JSON)
        assert 400 <= reply.status_code < 500
