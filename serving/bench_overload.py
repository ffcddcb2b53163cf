"""Benchmark of the deadline of ranked reads, at twice the load that a worker can carry.

Reads are sent when they are due, whether or not those before were answered, and timed from then: so
a backlog shows as time. Once with the quality factor, once without it.
"""

import select
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from serving.bench_community import Shape
from serving.bench_http import activities_for
from serving.bench_server import Client, Server, client_cores, on_core
from serving.bench_site import Site
from serving.measure import Doing, Figure, Sizes, Times

__all__ = ["overload"]

DEADLINE_MS: Final = 100.0
"""The deadline that is to hold, the settings' default."""

LOAD: Final = 2.0
"""Times what the worker carried."""

CONNECTIONS_MAX: Final = 400
"""Reads under way at once at most; those due beyond them wait here, and their time runs."""

SETTLING_SHARE: Final = 1 / 3
"""Share of the replies that is left out: the backlog grows until the factor has found its place."""

CANDIDATES: Final = 500


@dataclass(slots=True)
class _Replies:
    """What came back: nanoseconds from when each read was due, and what was given up."""

    took_ns: list[int] = field(default_factory=list)
    steps: Counter[str] = field(default_factory=Counter)

    def note(self, took_ns: int, body: bytes) -> None:
        self.took_ns.append(took_ns)
        page: dict[str, Any] = orjson.loads(body)  # Any: JSON
        self.steps[(page["quality"]["steps"] or ["nothing"])[-1]] += 1

    def settled(self) -> list[int]:
        """Without those of the beginning."""
        return self.took_ns[int(len(self.took_ns) * SETTLING_SHARE) :]

    def within_share(self) -> float:
        """Share of the settled replies within the deadline."""
        settled = self.settled()
        return sum(took <= DEADLINE_MS * 1e6 for took in settled) / len(settled)


def overload(directory: Path, seconds: float, sizes: Sizes) -> Iterator[Doing | Figure]:
    """Twice as many reads as one worker answers at full work, with the factor and without."""
    candidates = min(CANDIDATES, max(sizes.candidates))
    site = Site.made(directory / "overload", Shape(activities=activities_for(candidates)))
    yield Doing("what a worker carries", 0.0)
    with site.service(candidates, quality_min=1.0) as service, on_core(client_cores()):
        carried = service.per_s(seconds)
        yield Doing("twice as much, all of it at full work", 0.3)
        without = _sent(service, carried * LOAD, seconds)
    yield Doing("twice as much, within the deadline", 0.6)
    with site.service(candidates, deadline_ms=DEADLINE_MS) as service, on_core(client_cores()):
        began_ns, worked_ns = time.perf_counter_ns(), service.cpu_ns()
        replies = _sent(service, carried * LOAD, seconds)
        cpu_share = (service.cpu_ns() - worked_ns) / (time.perf_counter_ns() - began_ns)
    shares = {
        f"last_given_up_{step}": count / len(replies.took_ns)
        for step, count in replies.steps.items()
    }
    yield Figure.of_times(
        "overload",
        f"{candidates} candidates at {LOAD:g} times the load that a worker carries, from when a "
        "read was due",
        Times.of(replies.settled()),
        "the same without a quality factor",
        Times.of(without.settled()),
        goal=f"{DEADLINE_MS:g} ms p99",
        carried_per_s=carried,
        answered=len(replies.took_ns),
        within_deadline_share=replies.within_share(),
        service_cpu_share=cpu_share,
        **shares,
    )


def _sent(service: Server, per_s: float, seconds: float) -> _Replies:
    """Send reads at a fixed rate for so long, and wait for all replies.

    Raises `ConnectionError` where one is answered by anything but 200.
    """
    replies, count = _Replies(), max(20, int(per_s * seconds))
    idle: list[Client] = []
    under_way: dict[Any, tuple[Client, int]] = {}  # Any: sockets
    due = deque(int(number * 1e9 / per_s) for number in range(count))
    began_ns = time.perf_counter_ns()
    while due or under_way:
        now_ns = time.perf_counter_ns() - began_ns
        while due and due[0] <= now_ns and len(under_way) < CONNECTIONS_MAX:
            client = idle.pop() if idle else service.client()
            client.send()
            under_way[client.socket] = client, due.popleft()
        wait_s = max(0.0, (due[0] - now_ns) / 1e9) if due else 1.0
        ready, _, _ = select.select(list(under_way), [], [], min(wait_s, 1.0))
        for each in ready:
            client, due_ns = under_way[each]
            if (body := client.receive()) is not None:
                del under_way[each]
                idle.append(client)
                replies.note(time.perf_counter_ns() - began_ns - due_ns, body)
    for client in idle:
        client.close()
    return replies
