"""`headwater serve` at the level of bytes: clients that are slow, large, broken or lie."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from feeds.engine import FeedEngine
from feeds.model import TenantId
from serving.testing import Served, ServiceProcess, add_tenant, served

ACME = TenantId("acme")
ACTIVITY = b'{"actor":"user:ann","verb":"post","object":"o"}'
CLIENT_TIMEOUT_S = 0.5
DEADLINE_S = 15.0
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
POST = "/v2/feeds/user/ann/activities"


class Connections:
    """Opens connections to a service, and speaks for the tenant."""

    def __init__(self, address: str, key: str) -> None:
        host, _, port = address.removeprefix("http://").rpartition(":")
        self.address = host, int(port)
        self.key = key

    def head(self, request: str, *fields: str) -> bytes:
        """The head of a request with the tenant's key."""
        own = ("Host: x", f"Authorization: Bearer {self.key}", "Content-Type: application/json")
        return "\r\n".join([f"{request} HTTP/1.1", *own, *fields, "", ""]).encode()

    def post(self, body: bytes, length: object = None, *fields: str) -> bytes:
        """A request that posts; `length` in place of the true one."""
        told = f"Content-Length: {len(body) if length is None else length}"
        return self.head(f"POST {POST}", told, *fields) + body

    def say(self, *parts: bytes) -> tuple[list[tuple[int, dict[str, object]]], float]:
        """Send the parts, read until the end: each reply's status and JSON, and the seconds."""
        began = time.monotonic()
        with socket.create_connection(self.address, timeout=DEADLINE_S) as connection:
            for part in parts:
                connection.sendall(part)
            replies = []
            while (reply := _reply(connection)) is not None:
                replies.append(reply)
        return replies, time.monotonic() - began


def _reply(connection: socket.socket) -> tuple[int, dict[str, object]] | None:
    """The next reply; None at the end of the connection."""
    if not connection.recv(1, socket.MSG_PEEK):
        return None
    reply = http.client.HTTPResponse(connection)
    reply.fp = connection.makefile("rb", buffering=0)
    reply.begin()
    return reply.status, json.loads(reply.read())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connections]:
    """A service process; at the end its log must be as it was at the beginning."""
    directory = tmp_path_factory.mktemp("protocol")
    with FeedEngine.open(directory / "data") as engine:
        key = add_tenant(engine, ACME)
        before = engine.applied_index()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWATER_CLIENT_TIMEOUT_S", str(CLIENT_TIMEOUT_S))
        patch.setenv("HEADWATER_SLOW_REQUEST_MS", "600000")  # that clients are slow is the matter
        with ServiceProcess(directory, "--no-loader", "--log-level", "warning") as process:
            yield Connections(process.address(), key)
            assert process.end() == 0
            assert process.log.read_text() == (directory / "address").read_text()
    with FeedEngine.open(directory / "data") as engine:
        assert engine.applied_index() == before


def refused(
    replies: list[tuple[int, dict[str, object]]], status: int, code: int, *words: str
) -> None:
    ((found, body),) = replies
    assert (found, body["status_code"], body["code"]) == (status, status, code), body
    said = f"{body['detail']} {body.get('more_info', '')}"
    for word in words:
        assert word in said, body


@pytest.mark.parametrize("length", ["-5", "x", "9" * 5_000, "1, 2", "+4"])
def test_a_length_that_is_no_number_is_refused(service: Connections, length: str) -> None:
    replies, _ = service.say(service.post(ACTIVITY, length))

    refused(replies, 400, 4, "HTTP/1.1", "Content-Length")


@pytest.mark.parametrize("field", ["Transfer-Encoding: chunked", "Content-Length: 3"])
def test_two_lengths_are_refused(service: Connections, field: str) -> None:
    replies, _ = service.say(service.post(ACTIVITY, None, field))

    refused(replies, 400, 4, "HTTP/1.1")


def test_a_body_that_is_longer_than_it_said_is_cut_and_refused(service: Connections) -> None:
    replies, _ = service.say(service.post(ACTIVITY, 10))

    refused(replies, 400, 4, "not JSON")


def test_a_body_that_is_shorter_than_it_said_is_waited_for_no_longer(
    service: Connections,
) -> None:
    replies, seconds = service.say(service.post(ACTIVITY, 500))

    refused(replies, 408, 4, "body", "client_timeout_s", "Content-Length")
    assert CLIENT_TIMEOUT_S <= seconds < DEADLINE_S / 2


@pytest.mark.parametrize("start", [b"", b"GET /healthz HTTP/1.1\r\nHos", b"\r\n"])
def test_a_head_that_does_not_end_is_waited_for_no_longer(
    service: Connections, start: bytes
) -> None:
    replies, seconds = service.say(start)

    refused(replies, 408, 4, "head", "client_timeout_s")
    assert CLIENT_TIMEOUT_S <= seconds < DEADLINE_S / 2


def test_drop_by_drop_is_too_slow_as_well(service: Connections) -> None:
    with socket.create_connection(service.address, timeout=DEADLINE_S) as connection:
        connection.sendall(HEALTH)
        assert _reply(connection) == (200, {"status": "alive"})
        pause = threading.Event()
        for _ in range(200):
            try:
                connection.sendall(b"\r\n")
            except OSError:
                break
            pause.wait(CLIENT_TIMEOUT_S / 20)
        else:
            pytest.fail("the connection stayed")


@pytest.mark.parametrize("announced", [True, False])
def test_a_client_that_goes_on_sending_gets_its_answer(
    service: Connections, announced: bool
) -> None:
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    if announced:
        parts = [service.post(b"", 5_000_000), *[b"x" * 50_000] * 100]
    else:
        head = service.head(f"POST {POST}", "Transfer-Encoding: chunked")
        parts = [head, *[chunk] * 80, b"0\r\n\r\n"]

    replies, _ = service.say(*parts)

    refused(replies, 413, 18, "body_bytes_max", "4194304")


def test_who_has_no_key_has_no_body_read(service: Connections) -> None:
    stranger = Connections("http://x:1", "hw_nobody_0123456789abcdef")
    with socket.create_connection(service.address, timeout=DEADLINE_S) as connection:
        connection.sendall(stranger.post(b"", 4_000_000))
        reply = _reply(connection)

    assert reply is not None
    refused([reply], 401, 2, "not valid")


def test_a_broken_chunk_is_refused(service: Connections) -> None:
    head = service.head(f"POST {POST}", "Transfer-Encoding: chunked")
    for body in (b"zz\r\nabc", b"5\r\nabcdefgh\r\n"):
        replies, _ = service.say(head + body)
        refused(replies, 400, 4, "HTTP/1.1")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\x01garbage\r\n\r\n",
        b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /v2/users/é/feeds/explore HTTP/1.1\r\n\r\n".encode(),
        b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_http_is_refused(service: Connections, request_bytes: bytes) -> None:
    replies, _ = service.say(request_bytes)

    refused(replies, 400, 4, "HTTP/1.1")


def test_garbage_behind_a_request_does_not_take_its_answer(service: Connections) -> None:
    replies, _ = service.say(HEALTH + HEALTH + b"\xff\xfeGARBAGE / \r\n\r\n")

    assert replies == [(200, {"status": "alive"})] * 2


def test_requests_one_behind_the_other_are_answered_in_order(service: Connections) -> None:
    feed = service.head("GET /v2/feeds/user/ann", "Connection: close")

    replies, _ = service.say(HEALTH + feed)

    assert replies == [(200, {"status": "alive"}), (200, {"results": [], "next": None})]


@pytest.mark.parametrize(
    "fields",
    [
        ("X-Long: " + "a" * 1_000_000,),
        ("X-Short: a",) * 50_000,
        ("Idempotency-Key: " + "k" * 100_000,),
    ],
)
def test_a_long_head_is_refused(service: Connections, fields: tuple[str, ...]) -> None:
    replies, _ = service.say(service.head("GET /v2/feeds/user/ann", *fields))

    refused(replies, 431, 4, "head_bytes_max", "32768")


def test_a_user_id_of_100_000_characters_is_refused(service: Connections) -> None:
    long = "u" * 100_000
    body = {
        "type": "impression",
        "user": long,
        "activity_id": "87a9eec0-fd5f-11e8-8080-80013fed2f5b",
    }
    events = json.dumps({"events": [body]}).encode()
    head = service.head("POST /v2/events", f"Content-Length: {len(events)}", "Connection: close")

    refused(service.say(service.head(f"GET /v2/users/{long}/feeds/explore"))[0], 431, 4, "path")
    refused(service.say(head + events)[0], 400, 4, "user id")


@pytest.mark.parametrize("nested", [b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000])
def test_100_000_brackets_are_refused(service: Connections, nested: bytes) -> None:
    body = ACTIVITY[:-1] + b',"deep":' + nested + b"}"

    replies, _ = service.say(service.post(body, None, "Connection: close"))

    refused(replies, 400, 4, "JSON")


def test_another_protocol_is_not_spoken(service: Connections) -> None:
    upgrade = ("Connection: Upgrade", "Upgrade: h2c")

    read, _ = service.say(service.head("GET /v2/feeds/user/ann", *upgrade))
    written, _ = service.say(service.post(ACTIVITY, None, *upgrade))

    assert read == [(200, {"results": [], "next": None})]
    refused(written, 400, 4, "Upgrade")


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Served]:
    """A service that gives clients little time."""
    with served(tmp_path / "data", client_timeout_s=CLIENT_TIMEOUT_S) as running:
        yield running


def test_a_client_that_takes_no_answers_is_dropped(patient: Served) -> None:
    key = add_tenant(patient.services.engine, ACME)
    connections = Connections(patient.address, key)
    document = connections.head("GET /openapi.json")
    with socket.create_connection(connections.address, timeout=DEADLINE_S) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            _ask_for_ever(connection, document * 100)


def _ask_for_ever(connection: socket.socket, requests: bytes) -> None:
    """The server reads no more than it can answer, so at some time this waits for it."""
    while True:
        connection.sendall(requests)
