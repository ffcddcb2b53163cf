"""What the service tells about itself: metrics with bounded labels, structured logs, request ids.

Neither holds what users wrote, nor keys or users' ids, and the metrics name no tenant either: those
of tenants are apart (`serving.tenant_metrics`). A route is its template, a status three digits.
"""

import os
from collections.abc import Mapping
from math import isnan
from time import perf_counter
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.current_request import CurrentRequest, entered, left
from serving.errors import INTERNAL, error_response
from serving.settings import Settings
from serving.tenant_metrics import TenantMetrics
from serving.tracing import Tracing
from serving.worker import METRICS_DIRECTORY

__all__ = ["Metrics", "TelemetryMiddleware"]

_log = structlog.get_logger(__name__)

SECONDS: Final = (
    *(0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.02, 0.035, 0.06),
    *(0.1, 0.2, 0.5, 1.0, 2.5, 10.0),
)
"""Upper bounds of the latency histograms' buckets, seconds."""

SHARES: Final = tuple(tenths / 10 for tenths in range(11))
"""Upper bounds of the buckets of shares."""

CORRELATIONS: Final = (-0.5, 0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0)
"""Upper bounds of the buckets of rank correlations."""

METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""Methods that have a label of their own."""

UNMATCHED: Final = "unmatched"
"""The route label of a request that no route took."""


class Metrics:
    """The service's metrics, in a registry of their own: two services in one process do not mix.

    Workers of one service write theirs into files that they share.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "headwater_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "headwater_request_seconds",
            "Seconds from a request's head to its last byte.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "headwater_rank_stage_seconds",
            "Seconds in one stage of a ranked read.",
            ("stage",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._stages: dict[str, Histogram] = {}
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.ranked = Counter(
            "headwater_ranked_reads",
            "Slates made: by model, or why by time: no_model, loading, no_table, deadline, failed, "
            "quality (too little time).",
            ("kind", "outcome"),
            registry=self.registry,
        )
        self.quality_steps = Counter(
            "headwater_quality_steps",
            "Slates that gave something up for lack of time: candidates, diversity, features, "
            "sources, model, chronological.",
            ("step",),
            registry=self.registry,
        )
        self.quality_factor = Gauge(
            "headwater_quality_factor",
            "The quality factor, above 0 and up to 1; of several workers the lowest.",
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.source_failures = Counter(
            "headwater_source_failures",
            "Candidate sources that failed and were left out.",
            ("source",),
            registry=self.registry,
        )
        self.table_loads = Counter(
            "headwater_table_loads",
            "Activity tables loaded: first, or backlog (too much waited, or was missed).",
            ("cause",),
            registry=self.registry,
        )
        self.tables = Gauge(
            "headwater_tables",
            "Activity tables in memory.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.table_bytes = Gauge(
            "headwater_table_bytes",
            "Bytes of the activity tables in memory, about.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.quota_refusals = Counter(
            "headwater_quota_refusals",
            "Requests refused because their tenant had used up a quota.",
            ("quota",),
            registry=self.registry,
        )
        self.models = Gauge(
            "headwater_models",
            "Live models in memory; a worker each its own.",
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.models_bytes = Gauge(
            "headwater_models_bytes",
            "Bytes that the models in a worker's memory count for, of models_bytes_max.",
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.model_loads = Counter(
            "headwater_model_loads",
            "Models taken up (loaded) or not (failed), by alias: live, shadow.",
            ("alias", "outcome"),
            registry=self.registry,
        )
        self.model_load_seconds = Histogram(
            "headwater_model_load_seconds",
            "Seconds of loading a live model.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.model_evictions = Counter(
            "headwater_model_evictions",
            "Live models that left memory for others.",
            registry=self.registry,
        )
        self.shadow_trials = Counter(
            "headwater_shadow_trials",
            "Requests that a model on trial ranked as well, by what it would have shown first: "
            "same_top or other_top; or dropped, failed.",
            ("outcome",),
            registry=self.registry,
        )
        self.shadow_overlap = Histogram(
            "headwater_shadow_overlap",
            "Share of the first ten places that a model on trial fills as the live one does.",
            buckets=SHARES,
            registry=self.registry,
        )
        self.shadow_correlation = Histogram(
            "headwater_shadow_rank_correlation",
            "Spearman's rank correlation of the slates of a model on trial and the live one.",
            buckets=CORRELATIONS,
            registry=self.registry,
        )
        self.shadow_seconds = Counter(
            "headwater_shadow_seconds",
            "Seconds that models on trial took.",
            registry=self.registry,
        )
        self.slates = Gauge(
            "headwater_slates",
            "Slates held for their next pages.",
            registry=self.registry,
            multiprocess_mode="livemax",
        )

        self.store_lag = Gauge(
            "headwater_store_lag_seconds",
            "Seconds since a worker (`pid` is its number) was known to see all that was committed.",
            registry=self.registry,
            multiprocess_mode="liveall",
        )
        self.outbox_tasks = Gauge(
            "headwater_outbox_tasks",
            "Fan-outs and ended follows of all tenants whose rows are not all written or removed.",
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        self.stale_reads = Counter(
            "headwater_stale_reads",
            "Reads refused because the store was not as fresh as they asked.",
            ("consistency",),
            registry=self.registry,
        )

        self.slates_logged = Counter(
            "headwater_slates_logged",
            "Slates written to the slate log.",
            registry=self.registry,
        )
        self.slates_dropped = Counter(
            "headwater_slates_dropped",
            "Slates that should have been logged: queue (too many waited), disk (it failed), size "
            "(longer than a segment), failed (it could not be packed).",
            ("cause",),
            registry=self.registry,
        )
        self.slate_log_bytes = Counter(
            "headwater_slate_log_bytes",
            "Bytes written to the slate log.",
            registry=self.registry,
        )

    def note_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered, and time it; labels as bounded as their values."""
        counted = self._answered.get((method, route, status))
        if counted is None:
            counted = self._answered[method, route, status] = (
                self.requests.labels(method, route, str(status)),
                self.request_seconds.labels(route),
            )
        answered, taken = counted
        answered.inc()
        taken.observe(seconds)

    def note_slate(self, kind: str, outcome: str, stages_us: Mapping[str, int]) -> None:
        """Count a slate, and time its stages."""
        self.ranked.labels(kind, outcome).inc()
        for stage, time_us in stages_us.items():
            timed = self._stages.get(stage)
            if timed is None:
                timed = self._stages[stage] = self.stage_seconds.labels(stage)
            timed.observe(time_us / 1e6)

    def note_trial(self, same_top: bool, overlap: float, correlation: float) -> None:
        """Count a trial of a model; what is NaN is left out."""
        self.shadow_trials.labels("same_top" if same_top else "other_top").inc()
        for histogram, value in (
            (self.shadow_overlap, overlap),
            (self.shadow_correlation, correlation),
        ):
            if not isnan(value):
                histogram.observe(value)

    def render(self) -> bytes:
        """All metrics in Prometheus's text format; where there are several workers, of all."""
        if METRICS_DIRECTORY not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class TelemetryMiddleware:
    """Counts, times and traces requests, gives each an id, and answers 500 where one failed."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        tenants: TenantMetrics,
        tracing: Tracing,
        settings: Settings,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._tenants = tenants
        self._tracing = tracing
        self._log_request = _log.info if settings.log_requests == "info" else _log.debug
        self._slow_s = settings.slow_request_ms / 1e3

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        request_id = os.urandom(16).hex()
        scope["headwater.request_id"] = request_id
        span = self._tracing.begin(scope["headers"], request_id)
        request = CurrentRequest(request_id, span)
        told = [(b"x-request-id", request_id.encode())]
        if span is not None:
            told.append((b"traceresponse", span.traceparent.encode()))
        status = 0

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *told]
            await send(message)

        token = entered(request)
        try:
            await self._app(scope, receive, send_noted)
        except Exception as error:
            _log_failure(error, scope, request_id)
            if status:
                raise
            response = error_response(
                INTERNAL,
                f"the server failed at request {request_id}; its log has the cause",
                "Try again; if it stays, give the request's id to who runs the server.",
            )
            await response(scope, receive, send_noted)
        finally:
            left(token)
            self._note(request, scope, status, perf_counter() - started)

    def _note(self, request: CurrentRequest, scope: Scope, status: int, seconds: float) -> None:
        route = route_of(scope)
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.note_request(method, route, status, seconds)
        if request.tenant is not None:
            self._tenants.note(request, status, seconds)
        if request.span is not None:
            request.span.end(request, method, route, status)
        if seconds > self._slow_s:
            line = _line(request, method, route, status, seconds)
            _log.warning("request_slow", **line, stages_ms=request.stages_ms())
        else:
            self._log_request("request_answered", **_line(request, method, route, status, seconds))


def _line(
    request: CurrentRequest, method: str, route: str, status: int, seconds: float
) -> dict[str, str | int | float | None]:
    """What a log line says of a request: no path, no header, nothing that a user wrote."""
    traced = {} if request.span is None else {"trace_id": request.span.trace_id}
    return {
        "request_id": request.id,
        "method": method,
        "route": route,
        "status": status,
        "tenant": request.tenant,
        "ms": round(seconds * 1e3, 3),
        **traced,
    }


def route_of(scope: Scope) -> str:
    """The template of the route that took the request, such as `/v2/feeds/{group}/{feed}`."""
    return getattr(scope.get("route"), "path", None) or UNMATCHED


def _log_failure(error: Exception, scope: Scope, request_id: str) -> None:
    """Log where it failed: the frames, not the message, which could hold what a user wrote."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno} {code.co_name}")  # noqa: PTH119
        trace = trace.tb_next
    _log.error(
        "request_failed",
        request_id=request_id,
        route=route_of(scope),
        error=type(error).__name__,
        frames=frames[-12:],
    )
