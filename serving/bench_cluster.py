"""Benchmarks of three nodes on this machine, through a client process, beside etcd's three.

etcd puts as many bytes under a key as a command of ours. Both sync their logs, and both have a
client that costs as little as it can; what ours does through `EngineClient` stands beside it. Nodes
of ours speak TLS unless it says plain; etcd speaks plain. In the end the keys are counted.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from feeds.cli_cluster import start_cluster
from feeds.client import EngineClient
from feeds.errors import FeedsError
from feeds.keys import ApiKeyKey, after
from serving.bench_etcd import EtcdClient, EtcdCluster
from serving.bench_nodes import (
    IN_FLIGHT,
    NODES,
    VALUE_BYTES,
    WAIT_S,
    Puts,
    leader_of,
    leader_store,
    pipelined,
    three_nodes,
)
from serving.bench_quick import QuickClient
from serving.measure import Doing, Figure, Sizes, Stopwatch, SyncedFile, Times, rounds

__all__ = ["commit", "etcd_rate", "failover", "nodes_rate"]

ELECTION_US_MAX: Final = 800_000.0
"""The longest election timeout of a node with its default configuration."""


def commit(directory: Path, seconds: float, sizes: Sizes) -> Iterator[Doing | Figure]:
    """Durable commits of one client and of 64, with TLS and without, beside etcd."""
    del sizes
    yield Doing("etcd", 0.0)
    etcd_one, etcd_many = _etcd(directory / "etcd", seconds)
    synced = _synced(directory / "commit.raw", seconds / 4)
    for name, plain, share in (("TLS", False, 0.3), ("plain", True, 0.65)):
        yield Doing(f"three nodes, {name}", share)
        nodes = directory / f"commit-{name}"
        with three_nodes(nodes, plain=plain) as writer:
            writer.close()  # the client that is measured is alone, as that of etcd is
            one, rate = _commits(nodes, VALUE_BYTES, seconds)
            threaded = _threaded(nodes, seconds)
        goal = "1 ms, or 3 fdatasync + 0.5 ms"
        what = f"a durable commit on three nodes, {name}, one client"
        yield Figure.of_times(
            "commit", what, one, "an fdatasync'd append", synced, goal,
            goal_us=max(1_000.0, 3 * synced.p50_us + 500),
        )  # fmt: skip
        if etcd_one is not None:
            yield Figure.of_times("commit", what, one, "etcd, one client", etcd_one, goal)
        what = f"durable commits on three nodes, {name}, {IN_FLIGHT} in flight"
        reference = f"etcd, {IN_FLIGHT} in flight" if etcd_many else "an fdatasync'd append each"
        yield Figure.of_rates(
            "commit", what, rate, reference, etcd_many or 1e6 / synced.p50_us,
            "20,000/s and 1.5 x etcd",
        )  # fmt: skip
        yield Figure.of_rates(
            "commit", f"{what}, through EngineClient", threaded, "the client above", rate,
        )  # fmt: skip


def failover(directory: Path, seconds: float, sizes: Sizes) -> Iterator[Doing | Figure]:
    """From kill -9 of the leader to the next acknowledged write, as a client sees it."""
    del seconds
    gaps_ns = []
    data = directory / "failover"
    with three_nodes(data):
        for number in range(sizes.kills):
            yield Doing(f"kill {number + 1} of {sizes.kills}", number / sizes.kills)
            leader = leader_of(data)
            other = next(node for node in NODES if node != leader)
            client = EngineClient.connect(data / f"{other}.sock")
            _until_written(client, 2 * number)
            os.kill(int((data / f"{leader}.pid").read_text()), signal.SIGKILL)
            started = time.perf_counter_ns()
            _until_written(client, 2 * number + 1)
            gaps_ns.append(time.perf_counter_ns() - started)
            client.close()
            start_cluster(data)
    yield Figure.of_times(
        "failover",
        f"kill -9 of the leader to the next durable write, {sizes.kills} times",
        Times.of(gaps_ns),
        "the longest election timeout",
        Times(1, ELECTION_US_MAX, ELECTION_US_MAX),
        "0.8 s p50, 2 s at most",
        max_us=max(gaps_ns) / 1e3,
    )


def nodes_rate(directory: Path, seconds: float, value_bytes: int, *, plain: bool) -> float:
    """Durable commits a second of so many bytes each, 64 in flight, on three new nodes."""
    with three_nodes(directory, plain=plain) as writer:
        writer.close()  # as in `commit`
        return _commits(directory, value_bytes, seconds)[1]


def etcd_rate(directory: Path, seconds: float, value_bytes: int) -> float | None:
    """The same of three new etcd nodes; None where etcd is not installed."""
    if not EtcdCluster.installed():
        return None
    with _etcd_client(directory) as (cluster, leader, client):
        return _measure(
            _Putting(client, b"x" * value_bytes), seconds, lambda: cluster.keys(leader)
        )[1]


class _Client(Protocol):
    """A connection with any number of puts under way."""

    def send(self, count: int) -> None:
        """Begin so many."""

    def receive(self) -> int:
        """Wait; how many have ended."""


class _Putting:
    """etcd's client, which is told each key and value."""

    def __init__(self, client: EtcdClient, value: bytes) -> None:
        self._client, self._value, self._count = client, value, 0

    def send(self, count: int) -> None:
        first, self._count = self._count, self._count + count
        self._client.send([(b"k%d" % number, self._value) for number in range(first, self._count)])

    def receive(self) -> int:
        return self._client.receive()


def _measure(client: _Client, seconds: float, keys: Callable[[], int]) -> tuple[Times, float]:
    """(how long each of one put after the other takes, puts a second with 64 under way)."""
    watch, before = Stopwatch(), keys()
    for _ in rounds(seconds / 2):
        with watch:
            client.send(1)
            client.receive()
    one = watch.times()
    started, open_, count = time.perf_counter(), 0, 0
    while time.perf_counter() - started < seconds:
        client.send(IN_FLIGHT - open_)
        count += IN_FLIGHT - open_
        open_ = IN_FLIGHT - client.receive()
    while open_ > 0:
        open_ -= client.receive()
    rate = count / (time.perf_counter() - started)
    found = keys() - before
    if found != one.repeats + count:
        raise RuntimeError(f"{found} keys are there, and {one.repeats + count} were put")
    return one, rate


def _commits(nodes: Path, value_bytes: int, seconds: float) -> tuple[Times, float]:
    """As `_measure`, of the leader of nodes."""
    client = QuickClient(nodes / f"{leader_of(nodes)}.sock", value_bytes)
    try:
        return _measure(client, seconds, lambda: _keys(nodes))
    finally:
        client.close()


def _threaded(nodes: Path, seconds: float) -> float:
    """Durable commits a second, 64 in flight, through the client that workers use."""
    put = Puts()
    client = EngineClient.connect(nodes / f"{leader_of(nodes)}.sock")
    try:
        return pipelined(lambda number: client.propose(put(700_000_000 + number)), seconds)
    finally:
        client.close()


def _keys(nodes: Path) -> int:
    with leader_store(nodes) as store:
        return sum(1 for _ in store.scan("config", ApiKeyKey.prefix(), after(ApiKeyKey.prefix())))


def _until_written(client: EngineClient, number: int) -> None:
    put, deadline = Puts(), time.monotonic() + WAIT_S
    while True:
        try:
            client.propose(put(number)).result(WAIT_S)
        except FeedsError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


def _synced(path: Path, seconds: float) -> Times:
    with SyncedFile(path) as raw:
        appends = Stopwatch()
        for _ in rounds(seconds):
            with appends:
                raw.append(b"x" * VALUE_BYTES)
    return appends.times()


def _etcd(directory: Path, seconds: float) -> tuple[Times | None, float]:
    """One client's times and the rate of 64; none where etcd is not installed."""
    if not EtcdCluster.installed():
        return None, 0.0
    with _etcd_client(directory) as (cluster, leader, client):
        putting = _Putting(client, b"x" * VALUE_BYTES)
        return _measure(putting, seconds, lambda: cluster.keys(leader))


@contextmanager
def _etcd_client(directory: Path) -> Iterator[tuple[EtcdCluster, int, EtcdClient]]:
    """Three new nodes: (the cluster, the leader's port, a client of the leader)."""
    directory.mkdir()
    with EtcdCluster(directory) as cluster:
        leader = cluster.leader()
        client = EtcdClient(leader)
        try:
            yield cluster, leader, client
        finally:
            client.close()
