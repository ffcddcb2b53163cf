"""Benchmark of a ranked read from HTTP request to reply, beside other servers of the same trees.

The service is a process of its own (`headwater serve`, one worker) on one core; its peers
(`serving.bench_peers`) run on the same core, and are given bare feature rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from xgboost import Booster

from serving.bench_community import PAGE, TREES, Shape
from serving.bench_peers import Peer, peers
from serving.bench_server import CONNECTIONS, Client, Server, client_cores, on_core
from serving.bench_site import Site, read_request
from serving.measure import Doing, Figure, Sizes, Stopwatch, rounds

__all__ = ["activities_for", "check_candidates", "rank_http"]

TURNS: Final = 3
"""Times that the servers take turns while requests a second are counted."""

GOALS: Final = {100: "2 ms p50, 5 ms p99", 500: "5 ms p50, 12 ms p99", 2_000: "35 ms p99"}

_ACTIVITIES_PER_CANDIDATE: Final = 4
"""So many that trending finds enough that is not among the newest of what is followed."""


def activities_for(candidates: int) -> int:
    """Activities of a community in which a read finds so many candidates."""
    return max(Shape().activities, candidates * _ACTIVITIES_PER_CANDIDATE)


def rank_http(directory: Path, seconds: float, sizes: Sizes) -> Iterator[Doing | Figure]:
    """Ranked reads of each number of candidates, over HTTP, beside the trees alone and MLflow."""
    site = Site.made(directory / "http", Shape(activities=activities_for(max(sizes.candidates))))
    with _peers(site, sizes) as others:
        for number, candidates in enumerate(sizes.candidates):
            yield Doing(f"{candidates} candidates over HTTP", number / len(sizes.candidates))
            rows = site.rows(candidates)
            with site.service(candidates) as service:
                yield _latency(service, site.booster, rows, seconds)
                yield from _rates(service, site.booster, rows, others, seconds)


def _latency(service: Server, booster: Booster, rows: np.ndarray, seconds: float) -> Figure:
    check_candidates(service, len(rows))
    replies, predictions = Stopwatch(), Stopwatch()
    with closing(service.client()) as client, on_core(client_cores()):
        for _ in range(20):
            content = client.ask()
        began_ns = service.cpu_ns()
        for _ in rounds(seconds):
            with replies:
                client.ask()
            with predictions:
                booster.inplace_predict(rows, validate_features=False)
        cpu_us = (service.cpu_ns() - began_ns) / 1e3
    measured = replies.times()
    return Figure.of_times(
        "rank",
        f"{_what(rows)}: HTTP request to reply",
        measured,
        "inplace_predict alone",
        predictions.times(),
        goal=GOALS.get(len(rows), ""),
        candidates=len(rows),
        reply_bytes=len(content),
        service_cpu_us=cpu_us / measured.repeats,
    )


def _rates(
    service: Server, booster: Booster, rows: np.ndarray, others: Sequence[Peer], seconds: float
) -> Iterator[Figure]:
    """Requests a second of the service and of its peers in turn; the medians of the turns."""
    what = f"{_what(rows)}: requests a second over HTTP, {CONNECTIONS} connections"
    ours: list[float] = []
    theirs: list[list[float]] = [[] for _ in others]
    with on_core(client_cores()):
        for peer in others:
            peer.take(rows, booster)
        for _ in range(TURNS):
            ours.append(service.per_s(seconds / TURNS / 2))
            for peer, rates in zip(others, theirs, strict=True):
                rates.append(peer.server.per_s(seconds / TURNS / 2))
        alone = Stopwatch()
        for _ in rounds(seconds / 4):
            with alone:
                booster.inplace_predict(rows, validate_features=False)
    per_s = float(np.median(ours))
    if not others:
        yield Figure.of_rates(
            "rank", what, per_s, "inplace_predict alone", 1e6 / alone.times().p50_us
        )
    for peer, rates in zip(others, theirs, strict=True):
        goal = f"8 x {peer.name}" if len(rows) == 500 else ""  # noqa: PLR2004 - the goal's own
        yield Figure.of_rates("rank", what, per_s, peer.what, float(np.median(rates)), goal)


@contextmanager
def _peers(site: Site, sizes: Sizes) -> Iterator[Sequence[Peer]]:
    if not sizes.peers:
        yield ()
        return
    with peers(site.directory, site.booster, sizes.bentoml_python) as found:
        yield found


def _what(rows: np.ndarray) -> str:
    return f"{len(rows):,} candidates, {rows.shape[1]} features, {TREES} trees"


def check_candidates(service: Server, candidates: int) -> None:
    """Raises `RuntimeError` unless the model ranks as many candidates as the figure says."""
    request = read_request(f"limit={PAGE}&explain=true")
    with closing(Client(service.address, request)) as client:
        page: dict[str, Any] = orjson.loads(client.ask())  # Any: JSON
    came = {stage["name"]: stage["came"] for stage in page["explanation"]["stages"]}
    if page["degraded"] is not None or came["gather"] != candidates:
        raise RuntimeError(f"ranked {came['gather']} of {candidates}: {page['degraded']}")
