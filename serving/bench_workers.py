"""Benchmarks of workers beside an engine node: throughput by their number, and memory of one.

The workers run on all cores, and so does the client, which is this process: on few cores it takes
its share of them. So beside requests a second stands what a request costs the workers and the
client, as CPU time; the client is large enough as long as it is far from a core of its own.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Final, Self

import numpy as np
import psutil

from serving.bench_community import Shape
from serving.bench_http import TURNS, activities_for
from serving.bench_server import CONNECTIONS, Server, client_cores, cpu_ns_of, on_core
from serving.bench_site import Site, node, read_request
from serving.measure import Doing, Figure, Sizes, Stopwatch, rounds

__all__ = ["Memory", "memory", "processes", "workers"]

CANDIDATES: Final = 500
MEMORY_GOAL_MB: Final = 600
READS_PER_TENANT: Final = 20
"""Reads of each tenant at least before memory is looked at."""

_TENANT_ACTIVITIES: Final = 500


def processes(service: Server) -> list[psutil.Process]:
    """The workers of a service beside a node."""
    found = psutil.Process(service.process.pid).children()
    return [one for one in found if "serving.worker" in one.cmdline()]


@dataclass(frozen=True, slots=True)
class _Turn:
    """What came of some seconds of load: rates and shares of a core."""

    per_s: float
    worker_cpu_us: float
    """CPU time of all workers for each request."""

    client_cpu_us: float
    busiest_share: float
    """Of the workers' CPU time, that of the one with most."""

    connections_share: float
    """Of connections that were opened one after the other, those of the worker with most."""

    @classmethod
    def taken(cls, service: Server, seconds: float, connections: int) -> Self:
        """Load with a request under way on each connection."""
        connections_share = _connections_share(service, connections)
        pids = [one.pid for one in processes(service)]
        before = [cpu_ns_of(pid) for pid in pids]
        client_ns, began = time.process_time_ns(), time.perf_counter()
        per_s = service.per_s(seconds, connections)
        elapsed = time.perf_counter() - began
        client_ns = time.process_time_ns() - client_ns
        took = [cpu_ns_of(pid) - ns for pid, ns in zip(pids, before, strict=True)]
        requests = per_s * elapsed
        return cls(
            per_s,
            sum(took) / requests / 1e3,
            client_ns / requests / 1e3,
            max(took) / sum(took),
            connections_share,
        )


def _connections_share(service: Server, connections: int) -> float:
    """Open connections, each once the one before has its reply; the most that a worker has."""
    with ExitStack() as stack:
        for _ in range(connections):
            stack.enter_context(closing(service.client())).ask()
        held = [
            sum(one.status == psutil.CONN_ESTABLISHED for one in worker.net_connections("tcp"))
            for worker in processes(service)
        ]
    return float(max(held) / connections)


def workers(directory: Path, seconds: float, sizes: Sizes) -> Iterator[Doing | Figure]:
    """Ranked reads a second with several workers, beside one worker in the same run."""
    cores = os.sched_getaffinity(0)
    candidates = min(CANDIDATES, max(sizes.candidates))
    numbers = [number for number in sizes.workers if number <= len(cores)]
    directory.mkdir(exist_ok=True)
    with ExitStack() as stack:
        yield Doing("a community beside a node", 0.0)
        socket = stack.enter_context(node(directory / "n"))
        site = Site.made(directory / "w", Shape(activities=activities_for(candidates)), node=socket)
        services = {
            number: stack.enter_context(site.service(candidates, workers=number, cores=cores))
            for number in (1, *numbers)
        }
        yield Doing("requests a second", 0.5)
        turns: dict[int, list[_Turn]] = {number: [] for number in services}
        for _ in range(TURNS):
            for number, service in services.items():
                load_s = seconds / TURNS / len(services)
                turns[number].append(_Turn.taken(service, load_s, CONNECTIONS * number))
    one = _median(turns[1])
    for number in numbers:
        several = _median(turns[number])
        yield Figure.of_rates(
            "workers",
            f"{candidates} candidates: requests a second over HTTP with {number} workers, "
            f"{CONNECTIONS * number} connections",
            several["per_s"],
            f"one worker, {CONNECTIONS} connections",
            one["per_s"],
            goal=f"{number} x" if number < len(cores) else f"{number} x, less the client",
            cores=len(cores),
            **{name: value for name, value in several.items() if name != "per_s"},
            **{f"one_{name}": value for name, value in one.items() if name != "per_s"},
        )


def _median(turns: Sequence[_Turn]) -> Mapping[str, float]:
    return {
        name: float(np.median([getattr(turn, name) for turn in turns])) for name in _Turn.__slots__
    }


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a process, MB. The proportional share counts a page that n processes map as 1/n."""

    peak_rss_mb: float
    rss_mb: float
    pss_mb: float
    anonymous_mb: float

    @classmethod
    def of(cls, pid: int) -> Self:
        """As the kernel tells it now; the peak is that since the process started."""
        files = (f"/proc/{pid}/status", f"/proc/{pid}/smaps_rollup")
        lines = [line.split() for file in files for line in Path(file).read_text().splitlines()]
        kib = {line[0]: int(line[1]) for line in lines if line[-1:] == ["kB"]}
        names = ("VmHWM:", "Rss:", "Pss:", "Anonymous:")
        return cls(*(kib[name] * 1024 / 1e6 for name in names))

    def details(self, before: str = "") -> dict[str, float]:
        """The numbers by name."""
        names = ("peak_rss_mb", "rss_mb", "pss_mb", "anonymous_mb")
        return {f"{before}{name}": round(getattr(self, name), 1) for name in names}


def memory(directory: Path, seconds: float, sizes: Sizes) -> Iterator[Doing | Figure]:
    """A worker that holds tables and models of many tenants, all of which it has served."""
    candidates = min(CANDIDATES, max(sizes.candidates))
    shape = Shape(activities=_TENANT_ACTIVITIES, tenants=sizes.tenants)
    directory.mkdir(exist_ok=True)
    yield Doing(f"{sizes.tenants} tenants, a model each", 0.0)
    with node(directory / "n") as socket:
        site = Site.made(directory / "m", shape, node=socket)
        yield Doing("reads of all of them", 0.6)
        with (
            site.service(candidates) as service,
            on_core(client_cores()),
            closing(service.client()) as client,
        ):
            (worker,) = processes(service)
            first = Memory.of(worker.pid)
            one, each = Stopwatch(), Stopwatch()
            for _ in rounds(seconds / 2):
                with one:
                    client.ask()
            requests = [read_request(number=number) for number in range(sizes.tenants)]
            for request in requests:
                client.ask(request)
            for number, request in zip(rounds(seconds / 2), cycle(requests), strict=False):
                del number
                with each:
                    client.ask(request)
            for request in requests * READS_PER_TENANT:
                client.ask(request)
            whole = Memory.of(worker.pid)
    yield Figure.of_times(
        "memory",
        f"{candidates} candidates: a worker that has served {sizes.tenants} tenants, a model each, "
        "reads in turn",
        each.times(),
        "reads of one of them",
        one.times(),
        goal=f"{MEMORY_GOAL_MB} MB at its peak",
        tenants=sizes.tenants,
        **whole.details(),
        **first.details("started_"),
    )
