"""One line a request, a warning for a slow one, and never a key or what a user wrote."""

import io
import json
import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from serving.children import loader_arguments
from serving.logs import LogFormat, configure_logs
from serving.settings import load_settings
from serving.testing import Served, ServiceProcess, served, wait_until

Line = MutableMapping[str, Any]  # Any: what a log line holds


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    structlog.reset_defaults()  # tests before may have turned the level up
    data = tmp_path_factory.mktemp("logs") / "data"
    with served(data, log_requests="info") as running:
        yield running


@pytest.fixture(scope="module")
def acme(service: Served) -> Iterator[httpx.Client]:
    with service.tenant("acme") as client:
        yield client


def of_requests(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line["event"].startswith("request_")]


def ask_logged(client: httpx.Client, method: str, path: str) -> tuple[httpx.Response, Line]:
    """A reply, and the line that the request left: it is written after the reply was sent."""
    with capture_logs() as lines:
        reply = client.request(method, path)
        wait_until(lambda: bool(of_requests(lines)), "the request's line")
    (line,) = of_requests(lines)
    return reply, line


def test_a_request_leaves_one_line(acme: httpx.Client) -> None:
    reply, line = ask_logged(acme, "GET", "/v2/feeds/user/ann?limit=7")
    assert line.pop("ms") > 0
    assert line == {
        "event": "request_answered",
        "log_level": "info",
        "request_id": reply.headers["x-request-id"],
        "method": "GET",
        "route": "/v2/feeds/{group}/{feed}",
        "status": 200,
        "tenant": "acme",
    }


def test_a_request_of_nobody_names_no_tenant(service: Served) -> None:
    with service.client() as client:
        _, line = ask_logged(client, "PURGE", "/nowhere/at/all")
    told = {name: line[name] for name in ("method", "route", "status", "tenant")}
    assert told == {"method": "other", "route": "unmatched", "status": 404, "tenant": None}


def test_a_slow_request_is_a_warning_with_its_stages(tmp_path: Path) -> None:
    with (
        served(tmp_path / "data", slow_request_ms=1, log_requests="debug") as service,
        service.tenant("acme") as acme,
    ):
        body = {"actor": "user:ann", "verb": "post", "object": "o:1"}
        found: list[Line] = []

        def slow() -> bool:
            with capture_logs() as lines:
                acme.post("/v2/feeds/user/ann/activities", json=body)
                acme.get("/v2/users/bob/feeds/explore")
                wait_until(lambda: len(of_requests(lines)) == 2, "the lines of both")
            found[:] = [line for line in lines if line["event"] == "request_slow"]
            return len(found) == 2

        wait_until(slow, "two requests of a millisecond")
    written, ranked = found
    assert {line["log_level"] for line in found} == {"warning"}
    assert set(written["stages_ms"]) == {"write"}
    assert {"gather", "score", "hydrate"} <= set(ranked["stages_ms"])
    assert 0 < written["stages_ms"]["write"] <= written["ms"]
    assert sum(ranked["stages_ms"].values()) <= ranked["ms"]


def test_a_trace_is_named(tmp_path: Path) -> None:
    with (
        served(tmp_path / "data", trace_exporter="console", log_requests="info") as service,
        service.client() as client,
    ):
        reply, line = ask_logged(client, "GET", "/healthz")
    assert line["trace_id"] == reply.headers["traceresponse"].split("-")[1]


@contextmanager
def everything_logged() -> Iterator[tuple[list[Line], io.StringIO]]:
    """Our lines, and what any library says."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for quiet in ("httpx", "httpcore"):  # the test's own client tells of its requests
        logging.getLogger(quiet).setLevel(logging.WARNING)
    try:
        with capture_logs() as lines:
            yield lines, text
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


SECRET = "secret-of-acme-0123456789"
WRITTEN = "what-a-user-wrote"
_KEYS = st.sampled_from(
    [
        f"Bearer hw_acme0r0wkey_{SECRET}",
        f"Bearer hw_acme0r0wkey_{SECRET}x",
        f"Bearer hw_other_{SECRET}",
        f"Basic {SECRET}",
        f"bearer  {SECRET}",
        SECRET,
    ]
)
_TEXT = st.sampled_from([SECRET, WRITTEN, f'{{"{SECRET}":"{WRITTEN}"}}', "\xe9", "{", "[1,"])
_NAMES = st.sampled_from(["user-agent", "idempotency-key", "traceparent", "x-any", "cookie"])
_PATHS = st.sampled_from(
    [
        "/v2/feeds/user/{0}/activities",
        "/v2/feeds/{0}/x/activities",
        "/v2/feeds/user/{0}?cursor={0}",
        "/v2/users/{0}/feeds/explore?limit={0}",
        "/v2/users/{0}/rank",
        "/v2/activities/{0}",
        "/v2/events",
        "/metrics/tenants?token={0}",
        "/{0}",
    ]
)


@given(
    key=_KEYS,
    method=st.sampled_from(["GET", "POST", "DELETE", SECRET]),
    path=_PATHS,
    place=st.sampled_from([SECRET, WRITTEN]),
    headers=st.dictionaries(_NAMES, _TEXT, max_size=3),
    body=st.one_of(
        _TEXT.map(str.encode),
        st.fixed_dictionaries(
            {"actor": _TEXT, "verb": _TEXT, "object": _TEXT}, optional={"to": st.lists(_TEXT)}
        ).map(lambda made: json.dumps(made).encode()),
        st.binary(max_size=50),
    ),
)
def test_no_line_holds_a_key_or_what_a_user_wrote(
    service: Served,
    acme: httpx.Client,
    key: str,
    method: str,
    path: str,
    place: str,
    headers: dict[str, str],
    body: bytes,
) -> None:
    assert acme.headers["authorization"].endswith(SECRET)
    sent = [(b"authorization", key.encode()), (b"content-type", b"application/json")]
    sent += [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    with everything_logged() as (lines, text), service.client() as client:
        reply = client.request(method, path.format(place), headers=sent, content=body)
        if "x-request-id" in reply.headers:  # else it was no HTTP, and nobody was asked
            wait_until(lambda: bool(of_requests(lines)), "the request's line")
    assert reply.status_code < 500
    told = repr(lines) + text.getvalue()
    assert SECRET not in told
    assert WRITTEN not in told


@pytest.fixture
def unconfigured() -> Iterator[None]:
    """What a test configures ends with it."""
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("unconfigured")
@pytest.mark.parametrize("form", ["json", "text"])
def test_what_is_logged_begins_no_line_of_its_own(
    form: LogFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    configure_logs("info", form)
    log = structlog.get_logger()
    log.debug("not_said")
    log.info("said", cause='a\n{"event": "forged"}')
    (line,) = out.getvalue().splitlines()
    if form == "json":
        assert json.loads(line)["cause"] == 'a\n{"event": "forged"}'
    else:
        assert "event='said'" in line


def test_a_service_writes_text_where_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_LOG_FORMAT", "text")
    monkeypatch.setenv("HEADWATER_LOG_REQUESTS", "info")
    with ServiceProcess(tmp_path, "--no-loader") as service:
        with service.client("no-key") as client:
            client.get("/healthz")
        wait_until(lambda: "route='/healthz'" in service.log.read_text(), "the request's line")
        assert '{"' not in service.log.read_text()
    assert loader_arguments(load_settings())[-2:] == ["--log-format", "text"]
