"""What comes in on the short way is answered as by the route, and nothing else comes in there."""

from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from fastapi.dependencies.utils import request_params_to_args
from fastapi.routing import APIRoute
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import QueryParams
from starlette.types import Message, Receive, Scope, Send

from feeds.credentials import ApiKey
from feeds.model import TenantId
from ranking.features import FeatureSpec
from ranking.scorers.recency import RecencyScorer
from serving.direct_reads import DirectReads, plain_query
from serving.routes.ranked import RankedQuery, read_route
from serving.tenants import KEY
from serving.testing import HeldModel, HeldModels, Served, served

ACME = TenantId("acme")
FEED = "/v2/users/bob/feeds/personalized"
UNREAD = "unread=1"
"""A parameter that nobody reads: with it a request takes the long way."""

VALUES = st.sampled_from(
    [
        *("1", "25", "0", "007", "-1", "+5", "1e3", "2.50", "60000", "70000", "nan", "inf", " 7"),
        *("true", "false", "True", "on", "abc", "a_-Z", "%41", "a+b", "é", "", "1_000", "٣", "5."),
        *("87a9eec0-fd5f-11e8-8080-80013fed2f5b", "87A9", "null", "1;limit=2", "1&explain"),
    ]
)
NAMES = st.sampled_from(
    ["limit", "cursor", "explain", "exclude", "deadline_ms", "consistency", "min_index", "Limit"]
)


@st.composite
def queries(draw: st.DrawFn) -> bytes:
    pairs = draw(st.lists(st.tuples(NAMES, VALUES), max_size=5))
    return "&".join(f"{name}={value}" for name, value in pairs).encode()


@given(queries())
@settings(max_examples=400)
def test_what_is_plain_means_what_fastapi_reads(query: bytes) -> None:
    plain = plain_query(query)
    if plain is None:
        return
    route = read_route()
    assert isinstance(route, APIRoute)
    given = QueryParams(query)
    values, errors = request_params_to_args(route.dependant.query_params, given)
    assert (errors, set(given)) == ([], set(given) & set(RankedQuery._fields))
    assert RankedQuery(**{**values, "exclude": tuple(values["exclude"])}) == plain


@pytest.mark.parametrize(
    "query", [b"", b"limit=25", b"cursor=AZ_-9&limit=1", b"explain=true", b"deadline_ms=12.5"]
)
def test_common_queries_are_plain(query: bytes) -> None:
    assert plain_query(query) is not None


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    models = HeldModels()
    models.held[ACME] = HeldModel("7", RecencyScorer(FeatureSpec(("age_h",))), None)
    directory = tmp_path_factory.mktemp("direct") / "data"
    with served(directory, models=models, deadline_ms=10_000, served_max=0) as running:
        yield running


@pytest.fixture(scope="module")
def api(service: Served) -> Iterator[httpx.Client]:
    with service.tenant(ACME) as client:
        client.post("/v2/feeds/timeline/bob/follows", json={"target": "user:ann"})
        for number in range(5):
            activity = {"actor": "user:ann", "verb": "ask", "object": f"q:{number}"}
            client.post("/v2/feeds/user/ann/activities", json=activity)
        yield client


def told(reply: httpx.Response) -> tuple[int, list[str], dict[str, Any]]:
    """Status, names of headers and content; of what each request has of its own, that it is there.

    Ages differ by the moment of the request, and with them scores; of explore, chance decides.
    """
    content: dict[str, Any] = orjson.loads(reply.content)
    own = [name for name in ("slate_id", "next", "explanation") if content.pop(name, None)]
    results = content.pop("results", [])
    by_chance = content.get("kind") == "explore"
    shown = [("" if by_chance else entry["id"], sorted(entry)) for entry in results]
    return reply.status_code, sorted(reply.headers), content | {"own": own, "shown": shown}


@pytest.mark.parametrize(
    ("user", "query"),
    [
        ("bob", ""),
        ("bob", "limit=2"),
        ("bob", "limit=2&explain=true"),
        ("bob", "deadline_ms=0"),
        ("nobody", "limit=3"),
        ("bob", "limit=0"),
        ("bob", "limit=9999"),
        ("bob", "cursor=abc"),
        ("bob", "exclude=87a9"),
        ("bo b", ""),
        ("b%C3%B6b", ""),
    ],
)
@pytest.mark.parametrize("kind", ["personalized", "explore"])
def test_the_short_way_answers_as_the_route(
    api: httpx.Client, user: str, kind: str, query: str
) -> None:
    path = f"/v2/users/{user}/feeds/{kind}"
    short, long = api.get(f"{path}?{query}"), api.get(f"{path}?{query}&{UNREAD}")
    assert told(short) == told(long)


def test_a_cursor_turns_pages_on_both_ways(api: httpx.Client) -> None:
    first = api.get(f"{FEED}?limit=2").json()
    pages = [api.get(f"{FEED}?limit=2&cursor={first['next']}{more}") for more in ("", "&" + UNREAD)]
    assert pages[0].json() == pages[1].json()
    gone = f"{FEED}?cursor={'A' * 26}"
    assert told(api.get(gone)) == told(api.get(f"{gone}&{UNREAD}"))


@pytest.mark.parametrize("scopes", [("write",), ("admin",)])
def test_a_key_that_may_not_read_is_told_so(
    service: Served, api: httpx.Client, scopes: tuple[str, ...]
) -> None:
    assert api.get(FEED).status_code == 200
    with service.tenant(f"other-{scopes[0]}", scopes) as other:
        short, long = other.get(FEED), other.get(f"{FEED}?{UNREAD}")
    assert short.status_code == 403
    assert told(short) == told(long)


def test_both_ways_are_counted_under_one_route(service: Served, api: httpx.Client) -> None:
    labels = ("GET", "/v2/users/{user}/feeds/{kind}", "200")
    before = service.services.metrics.requests.labels(*labels)._value.get()
    api.get(FEED)
    api.get(f"{FEED}?{UNREAD}")
    assert service.services.metrics.requests.labels(*labels)._value.get() == before + 2


async def ways(service: Served, **changed: object) -> str:
    """Which way a request takes: `short`, or `long`."""
    taken: list[str] = []

    async def onward(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive, send
        taken.append("long")

    async def receive() -> Message:
        raise AssertionError("a read has no body")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200
            taken.append("short")

    key = ApiKey(ACME, "key1", bytes(32), ("read",))
    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": FEED,
        "query_string": b"limit=5",
        "headers": [(b"host", b"here")],
        "root_path": "",
        KEY: key,
        **changed,
    }
    if changed.get(KEY, key) is None:
        del scope[KEY]
    await DirectReads(onward, service.services, read_route())(scope, receive, send)
    (way,) = taken
    return way


@pytest.mark.parametrize(
    ("changed", "way"),
    [
        ({}, "short"),
        ({"query_string": b""}, "short"),
        ({"path": "/v2/users/bob/feeds/explore"}, "short"),
        ({"path": "/v2/users/bob/feeds/other"}, "long"),
        ({"path": "/v2/users/bob/feeds/personalized/"}, "long"),
        ({"path": "/v2/users/bob/feeds/personalized\n"}, "long"),
        ({"path": "/v2/users/a/b/feeds/personalized"}, "long"),
        ({"method": "POST"}, "long"),
        ({"method": "HEAD"}, "long"),
        ({"type": "lifespan"}, "long"),
        ({"root_path": "/below"}, "long"),
        ({"headers": [(b"content-type", b"application/json")]}, "long"),
        ({"query_string": b"limit=5&limit=6"}, "long"),
        ({"query_string": b"consistency=linearizable"}, "long"),
        ({KEY: None}, "long"),
    ],
)
def test_only_plain_reads_take_the_short_way(
    service: Served, api: httpx.Client, changed: dict[str, object], way: str
) -> None:
    assert api.get(FEED).status_code == 200
    assert service.run(lambda: ways(service, **changed)) == way
