"""Traces: what they hold, what they never hold, and that they cost nothing where they are off."""

import importlib.metadata
import io
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from feeds.model import TenantId
from ranking.registry import DirectoryRegistry
from ranking.testing_models import boosted_scorer, model_bundle
from serving.loader import Loader
from serving.models import ModelCache
from serving.otel import OtelTracing, TraceConfig, console_exporter, otlp_exporter
from serving.settings import SettingsInvalid, load_settings
from serving.testing import Served, served
from serving.tracing import NoTracing, open_tracing

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = PARENT[:-1] + "0"
POST = {"actor": "user:ann", "verb": "post", "object": "o:secret-object", "title": "secret title"}
OTLP = "opentelemetry-exporter-otlp-proto-http" in {
    distribution.name for distribution in importlib.metadata.distributions()
}


class Traced:
    """A service whose spans are kept in memory."""

    def __init__(
        self, service: Served, tracing: OtelTracing, exporter: InMemorySpanExporter
    ) -> None:
        self.service = service
        self._tracing = tracing
        self._exporter = exporter

    def spans(self) -> list[ReadableSpan]:
        """Those that ended since the last look, by when they began."""
        self._tracing.flush()
        found = sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
        self._exporter.clear()
        return found


@contextmanager
def traced(data: Path, share: float = 1.0) -> Iterator[Traced]:
    exporter = InMemorySpanExporter()
    tracing = OtelTracing(exporter, share, "0.0")
    with served(data, tracing=tracing) as service:
        yield Traced(service, tracing, exporter)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    with traced(tmp_path_factory.mktemp("traced") / "data") as running:
        yield running


def tree(spans: Sequence[ReadableSpan]) -> dict[str, set[str]]:
    """The names of spans below each span's name."""
    names = {span.context.span_id: span.name for span in spans}
    found: dict[str, set[str]] = {}
    for span in spans:
        above = names.get(span.parent.span_id, "") if span.parent else ""
        found.setdefault(above, set()).add(span.name)
    return found


def test_a_ranked_read_is_told_stage_by_stage(site: Traced) -> None:
    with site.service.tenant("acme") as acme:
        acme.post("/v2/feeds/user/ann/activities", json=POST)
        acme.post("/v2/feeds/timeline/bob/follows", json={"target": "user:ann"})
        site.spans()
        reply = acme.get("/v2/users/bob/feeds/personalized")

    spans = site.spans()
    request = "GET /v2/users/{user}/feeds/{kind}"
    assert tree(spans) == {
        "": {request},
        request: {"rank", "hydrate"},
        "rank": {
            *("gather", "filter", "features", "score"),
            *("adjust", "select", "explore", "post_filter"),
        },
        "gather": {"source following", "source trending"},
    }
    (root,) = (span for span in spans if span.name == request)
    assert root.attributes == {
        "http.request.method": "GET",
        "http.route": "/v2/users/{user}/feeds/{kind}",
        "http.response.status_code": 200,
        "headwater.request_id": reply.headers["x-request-id"],
        "headwater.tenant": "acme",
    }
    (ranked,) = (span for span in spans if span.name == "rank")
    assert ranked.attributes == {"headwater.kind": "personalized", "headwater.outcome": "no_model"}
    assert all((span.start_time or 0) <= (span.end_time or 0) for span in spans)
    stages = [span for span in spans if span.parent and span.parent == ranked.context]
    assert (ranked.end_time or 0) >= max(span.end_time or 0 for span in stages)


def test_suggestions_and_related_activities_are_told_by_what_looked_for_them(site: Traced) -> None:
    with site.service.tenant("coral") as coral:
        posted = coral.post("/v2/feeds/user/ann/activities", json=POST).json()
        site.spans()
        coral.get("/v2/users/bob/follow_suggestions").raise_for_status()
        suggested = tree(site.spans())
        coral.get(f"/v2/activities/{posted['activity']['id']}/related").raise_for_status()
        related = tree(site.spans())

    assert suggested["suggest"] == {"friends_of_friends", "tag_authors", "popular_authors"}
    assert related["GET /v2/activities/{activity}/related"] >= {"related"}


def test_a_write_is_told_until_it_is_applied(site: Traced) -> None:
    with site.service.tenant("bravo") as bravo:
        bravo.post("/v2/feeds/user/ann/activities", json=POST)

    request = "POST /v2/feeds/{group}/{feed}/activities"
    assert tree(site.spans()) == {"": {request}, request: {"engine.write"}}


def test_the_callers_trace_goes_on_and_is_handed_back(site: Traced) -> None:
    with site.service.client() as client:
        reply = client.get("/healthz", headers={"traceparent": PARENT, "tracestate": "a=secret"})
        (span,) = site.spans()
        other = client.get("/healthz", headers={"traceparent": UNSAMPLED})
        assert [] == site.spans(), "the caller keeps no trace"

    assert f"{span.context.trace_id:032x}" == PARENT[3:35]
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == PARENT[36:52]
    assert f"00-{PARENT[3:35]}-{span.context.span_id:016x}-01" == reply.headers["traceresponse"]
    assert "secret" not in span.to_json()
    assert re.fullmatch(f"00-{PARENT[3:35]}-[0-9a-f]{{16}}-00", other.headers["traceresponse"])


@given(text=st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=80))
def test_what_is_no_traceparent_begins_a_trace(site: Traced, text: str) -> None:
    with site.service.client() as client:
        for headers in ([("traceparent", text)], [("traceparent", PARENT)] * 2):
            assert 200 == client.get("/healthz", headers=headers).status_code
    spans = site.spans()
    assert 2 == len(spans)
    assert all(span.parent is None for span in spans)


def test_a_span_holds_nothing_of_a_user(site: Traced) -> None:
    with site.service.tenant("charlie") as charlie:
        key = charlie.headers["authorization"].split()[1]
        charlie.headers["user-agent"] = "secret agent"
        charlie.post("/v2/feeds/user/secret-ann/activities", json=POST)
        charlie.get("/v2/users/secret-bob/feeds/explore", params={"cursor": "secret", "limit": 1})
        charlie.get("/v2/users/secret-bob/feeds/explore?limit=secret")
        charlie.get("/secret-path?secret=1")
        charlie.request("SECRET", "/healthz")
        charlie.post("/v2/events", content=b'{"secret')

    told = "".join(span.to_json() for span in site.spans())
    assert '"headwater.tenant": "charlie"' in told
    assert "secret" not in told.lower()
    assert not set(key.split("_")[1:]) & set(re.findall(r"[\w-]+", told))


def test_the_framework_tells_no_provider_of_paths(site: Traced) -> None:
    """FastAPI makes spans with path and query by itself, for any provider that is global."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    with site.service.tenant("delta") as delta:
        delta.get("/v2/users/secret-bob/feeds/explore")
    assert () == exporter.get_finished_spans()
    assert site.spans()


def test_a_share_of_nothing_is_nothing(tmp_path: Path) -> None:
    with traced(tmp_path / "data", share=0.0) as site, site.service.client() as client:
        client.get("/healthz")
        assert [] == site.spans()
        client.get("/healthz", headers={"traceparent": PARENT})
        assert 1 == len(site.spans()), "the caller decides"


def test_a_model_load_is_a_trace_of_its_own(tmp_path: Path) -> None:
    registry = DirectoryRegistry(tmp_path / "registry")
    acme = TenantId("acme")
    model_bundle(acme, boosted_scorer()).save(tmp_path / "bundle")
    registry.promote(acme, registry.publish(acme, tmp_path / "bundle").version)
    (tmp_path / "models").mkdir()
    Loader(registry, tmp_path / "models").poll()
    exporter = InMemorySpanExporter()
    tracing = OtelTracing(exporter, 1.0, "0.0")
    cache = ModelCache(
        tmp_path / "models",
        loaded=lambda model: tracing.model_loaded(model.tenant, model.version, model.load_ms),
    )

    with served(tmp_path / "data", models=cache, tracing=tracing):
        tracing.flush()
    (span,) = exporter.get_finished_spans()

    assert "model.load" == span.name
    assert span.attributes == {"headwater.tenant": "acme", "headwater.model_version": "1"}
    assert (span.end_time or 0) > (span.start_time or 0)


def test_the_console_gets_a_line_of_json_for_each_span() -> None:
    out = io.StringIO()
    tracing = OtelTracing(console_exporter(out), 1.0, "0.0")
    tracing.model_loaded("acme", "7", 12.5)
    tracing.close()
    tracing.close()

    (line,) = out.getvalue().splitlines()
    assert "model.load" == json.loads(line)["name"]


class Stuck(SpanExporter):
    """A collector that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.seen = 0

    def export(self, spans: Sequence[ReadableSpan]) -> None:  # type: ignore[override]
        self.released.wait(30)
        self.seen += len(spans)


@pytest.mark.filterwarnings("ignore")
def test_spans_that_nobody_takes_are_bounded() -> None:
    exporter = Stuck()
    config = TraceConfig(queue_max=50, batch_max=10)
    tracing = OtelTracing(exporter, 1.0, "0.0", config)
    for number in range(1_000):
        tracing.model_loaded("acme", str(number), 1.0)
    exporter.released.set()
    tracing.close()
    assert 50 <= exporter.seen <= 60


PROGRAM = """
import asyncio, sys
from pathlib import Path
import httpx
from serving.app import create_app
from serving.compose import compose
from serving.settings import load_settings

async def ask():
    app = create_app(compose(load_settings(data_dir=Path({data!r}))))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            reply = await client.get("/healthz", headers={{"traceparent": {parent!r}}})
            assert "traceresponse" not in reply.headers

asyncio.run(ask())
print(*(name for name in sys.modules if name.startswith("opentelemetry")))
"""


def test_where_it_is_off_nothing_of_the_sdk_is_imported(tmp_path: Path) -> None:
    program = PROGRAM.format(data=str(tmp_path / "data"), parent=PARENT)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert 0 == done.returncode, done.stderr
    loaded = done.stdout.split()  # FastAPI itself imports OpenTelemetry's API, and calls none of it
    assert [name for name in loaded if re.match(r"opentelemetry\.(sdk|exporter|proto)", name)] == []


def test_where_it_is_off_no_request_has_a_span() -> None:
    tracing = open_tracing(load_settings())
    assert isinstance(tracing, NoTracing)
    assert tracing.begin([(b"traceparent", PARENT.encode())], "0" * 32) is None


@pytest.mark.skipif(OTLP, reason="the extra `trace` is installed")
def test_an_exporter_that_is_not_installed_is_told_with_its_cure() -> None:
    with pytest.raises(SettingsInvalid, match=r"pip install 'headwater\[trace\]'"):
        open_tracing(load_settings(trace_exporter="otlp"))


@pytest.mark.skipif(not OTLP, reason="needs the extra `trace`")
def test_a_collector_gets_spans_by_otlp() -> None:
    got: Future[tuple[str, bytes]] = Future()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.set_result((self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}/v1/traces"
        tracing = OtelTracing(otlp_exporter(endpoint), 1.0, "0.0")
        tracing.model_loaded("acme", "7", 12.5)
        tracing.close()
        thread.join(30)

    path, body = got.result(30)
    assert "/v1/traces" == path
    assert b"model.load" in body
    assert b"headwater" in body
