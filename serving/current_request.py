"""What the request that is being answered has done so far: for its log line, metrics and trace.

One small object a request, found by whoever works for it on its task or in a thread of it. Where
nobody answers a request (a benchmark, a batch), notes go nowhere.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from time import perf_counter_ns
from typing import NamedTuple, Protocol, TypeVar

__all__ = [
    "CurrentRequest",
    "RequestSpan",
    "Source",
    "Step",
    "applied",
    "current_request",
    "entered",
    "left",
    "note_source",
    "note_step",
    "traced",
]

Value = TypeVar("Value")


class Step(NamedTuple):
    """A step of a request: when it began, by `perf_counter_ns`, and what its stages took.

    `kind` and `outcome` are those of a slate, empty elsewhere.
    """

    name: str
    began_ns: int
    stages_us: Mapping[str, int]
    kind: str = ""
    outcome: str = ""


class Source(NamedTuple):
    """A candidate source that was asked; noted for traces alone."""

    name: str
    began_ns: int
    ended_ns: int


class RequestSpan(Protocol):
    """The request in a trace (`serving.otel`)."""

    @property
    def trace_id(self) -> str:
        """The trace's id, 32 hexadecimal digits."""
        ...

    @property
    def traceparent(self) -> str:
        """What W3C's trace context says of the request, for whoever it is passed on to."""
        ...

    @property
    def sampled(self) -> bool:
        """Whether the trace is kept, so that details are worth noting."""
        ...

    def end(self, request: "CurrentRequest", method: str, route: str, status: int) -> None:
        """The request was answered; what it did becomes spans."""
        ...


class CurrentRequest:
    """What is known of a request. `span` is None where nothing is traced."""

    __slots__ = ("events", "id", "sources", "span", "steps", "tenant")

    def __init__(self, request_id: str, span: RequestSpan | None = None) -> None:
        self.id = request_id
        self.span = span
        self.tenant: str | None = None
        self.steps: list[Step] = []
        self.sources: list[Source] = []
        self.events = 0
        """Events that it recorded."""

    def stages_ms(self) -> dict[str, float]:
        """Milliseconds by stage, over all of its steps."""
        found: dict[str, float] = {}
        for step in self.steps:
            for stage, time_us in step.stages_us.items():
                found[stage] = round(found.get(stage, 0.0) + time_us / 1e3, 3)
        return found


_current: ContextVar[CurrentRequest | None] = ContextVar("current_request", default=None)

entered = _current.set
"""Let this task answer a request; the token is for `left`."""

left = _current.reset
"""It is answered."""

current_request = _current.get
"""The request that this task, or the task that this thread works for, answers; or None."""


def note_step(
    name: str, began_ns: int, stages_us: Mapping[str, int], kind: str = "", outcome: str = ""
) -> None:
    """Note a step that was done."""
    if (request := _current.get()) is not None:
        request.steps.append(Step(name, began_ns, stages_us, kind, outcome))


def traced() -> bool:
    """Whether details are worth noting."""
    request = _current.get()
    return request is not None and request.span is not None and request.span.sampled


def note_source(name: str, propose: Callable[[], Value]) -> Value:
    """Ask a candidate source; where the request is traced, note how long it takes."""
    if not traced():
        return propose()
    began_ns = perf_counter_ns()
    try:
        return propose()
    finally:
        if (request := _current.get()) is not None:
            request.sources.append(Source(name, began_ns, perf_counter_ns()))


async def applied(written: "Future[Value]") -> Value:
    """What a write answers once it is durable and applied; the request notes how long it took."""
    began_ns = perf_counter_ns()
    try:
        return await asyncio.wrap_future(written)
    finally:
        note_step("engine.write", began_ns, {"write": (perf_counter_ns() - began_ns) // 1_000})
