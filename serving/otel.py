"""Traces through OpenTelemetry: the one module that imports its SDK, and only where it is wanted.

A request is one span; when it was answered, its steps and their stages become spans below it, from
the times that were noted anyway. So the request path makes no span but the first, and nothing there
knows of OpenTelemetry. A span holds routes, statuses, numbers, the tenant's id and the request's;
never a path, a user, a key, or what a user wrote. The caller's `tracestate` is left out as well: it
may hold anything.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TextIO

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving.current_request import CurrentRequest, Source, Step
from serving.tracing import Headers

__all__ = ["OtelTracing", "TraceConfig", "console_exporter", "otlp_exporter"]

_FAILED: Final = 500
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_Attributes = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceConfig:
    """Limits of the spans that wait to be sent."""

    queue_max: int = 4_096
    """Spans that wait at most; beyond, they are lost."""

    batch_max: int = 512
    """Spans of one message at most."""

    interval_ms: int = 2_000
    """Milliseconds until spans are sent, unless a batch is full before."""

    timeout_s: int = 5
    """Seconds that the collector is given for a message."""


def console_exporter(out: TextIO) -> SpanExporter:
    """Spans as lines of JSON."""
    return ConsoleSpanExporter(out=out, formatter=lambda span: span.to_json(indent=None) + "\n")


def otlp_exporter(endpoint: str, config: TraceConfig = TraceConfig()) -> SpanExporter:
    """Spans to a collector, by OTLP over HTTP; raises `ModuleNotFoundError` without the extra."""
    from opentelemetry.exporter.otlp.proto.http import trace_exporter  # noqa: PLC0415 - an extra

    exporter: SpanExporter = trace_exporter.OTLPSpanExporter(
        endpoint=endpoint, timeout=config.timeout_s
    )
    return exporter


class OtelTracing:
    """Keeps a share of the traces, and sends them from a thread of its own.

    The caller decides for a request that comes with a `traceparent`. No provider is made global:
    what other libraries would tell of a request (its path, its query) is not asked for.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        share: float,
        version: str,
        config: TraceConfig = TraceConfig(),
    ) -> None:
        """`share` of the traces that begin here are kept, from 0 to 1."""
        self._processor = BatchSpanProcessor(
            exporter,
            max_queue_size=config.queue_max,
            max_export_batch_size=config.batch_max,
            schedule_delay_millis=config.interval_ms,
            export_timeout_millis=1e3 * config.timeout_s,
        )
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource.create({"service.name": "headwater", "service.version": version}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("headwater", version)

    def begin(self, headers: Headers, request_id: str) -> "_OtelSpan":
        """As `Tracing.begin`; a `traceparent` that is none, or several, begin a trace."""
        context, found = Context(), [value for name, value in headers if name == b"traceparent"]
        if len(found) == 1:
            context = _PROPAGATOR.extract({"traceparent": found[0].decode("latin-1")}, context)
        span = self._tracer.start_span("request", context, SpanKind.SERVER)
        return _OtelSpan(self, span, request_id)

    def model_loaded(self, tenant: str, model_version: str, load_ms: float) -> None:
        """As `Tracing.model_loaded`: a trace of one span."""
        ended_ns = time.time_ns()
        span = self._tracer.start_span(
            "model.load",
            Context(),
            attributes={"headwater.tenant": tenant, "headwater.model_version": model_version},
            start_time=ended_ns - round(load_ms * 1e6),
        )
        span.end(ended_ns)

    def flush(self) -> None:
        """Send what waits."""
        self._provider.force_flush()

    def close(self) -> None:
        """As `Tracing.close`."""
        self._provider.shutdown()

    def add(
        self, below: Span, name: str, began_ns: int, ended_ns: int, attributes: _Attributes
    ) -> Span:
        """A span that is over, below another one."""
        context = set_span_in_context(below, Context())
        span = self._tracer.start_span(name, context, attributes=attributes, start_time=began_ns)
        span.end(ended_ns)
        return span


class _OtelSpan:
    """A request under way, as `RequestSpan`."""

    __slots__ = ("_epoch_ns", "_request_id", "_span", "_tracing", "sampled")

    def __init__(self, tracing: OtelTracing, span: Span, request_id: str) -> None:
        self._tracing = tracing
        self._span = span
        self._request_id = request_id
        self._epoch_ns = time.time_ns() - time.perf_counter_ns()
        self.sampled = span.is_recording()

    @property
    def trace_id(self) -> str:
        """As `RequestSpan.trace_id`."""
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def traceparent(self) -> str:
        """As `RequestSpan.traceparent`."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def end(self, request: CurrentRequest, method: str, route: str, status: int) -> None:
        """As `RequestSpan.end`."""
        if self.sampled:
            self._span.update_name(f"{method} {route}")
            self._span.set_attributes(
                {
                    "http.request.method": method,
                    "http.route": route,
                    "http.response.status_code": status,
                    "headwater.request_id": self._request_id,
                    **({"headwater.tenant": request.tenant} if request.tenant else {}),
                }
            )
            if status >= _FAILED or not status:
                self._span.set_status(Status(StatusCode.ERROR))
            sources = deque(request.sources)
            for step in request.steps:
                self._add(step, sources)
        self._span.end()

    def _add(self, step: Step, sources: deque[Source]) -> None:
        """The step, and below it its stages, one after the other; and what sources it asked."""
        attributes = {"headwater.kind": step.kind, "headwater.outcome": step.outcome}
        ended_ns = step.began_ns + 1_000 * sum(step.stages_us.values())
        below = self._at(
            self._span, step.name, step.began_ns, ended_ns, attributes if step.outcome else {}
        )
        if len(step.stages_us) == 1:
            return  # the step is its stage
        for stage, began_ns, stage_ended_ns in _in_turn(step):
            span = self._at(below, stage, began_ns, stage_ended_ns, {})
            while stage == "gather" and sources and sources[0].began_ns <= ended_ns:
                source = sources.popleft()
                self._at(span, f"source {source.name}", source.began_ns, source.ended_ns, {})

    def _at(
        self, below: Span, name: str, began_ns: int, ended_ns: int, attributes: _Attributes
    ) -> Span:
        epoch_ns = self._epoch_ns
        return self._tracing.add(below, name, epoch_ns + began_ns, epoch_ns + ended_ns, attributes)


def _in_turn(step: Step) -> Iterator[tuple[str, int, int]]:
    """The stages of a step with their beginning and end."""
    began_ns = step.began_ns
    for stage, time_us in step.stages_us.items():
        yield stage, began_ns, began_ns + 1_000 * time_us
        began_ns += 1_000 * time_us
