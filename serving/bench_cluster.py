"""Benchmarks of three nodes on this machine, through a client process, beside etcd's three.

etcd puts as many bytes under a key as a command of ours. Both sync their logs. Nodes of ours speak
TLS unless it says plain; etcd speaks plain.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from feeds.cli_cluster import start_cluster
from feeds.client import EngineClient
from feeds.errors import FeedsError
from serving.bench_etcd import EtcdClient, EtcdCluster
from serving.bench_nodes import (
    IN_FLIGHT,
    NODES,
    VALUE_BYTES,
    WAIT_S,
    Puts,
    leader_of,
    one_by_one,
    pipelined,
    three_nodes,
)
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
        with three_nodes(directory / f"commit-{name}", plain=plain) as leader:
            one = one_by_one(leader, seconds)
            rate = _puts(leader, VALUE_BYTES, seconds)
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
    with three_nodes(directory, plain=plain) as leader:
        return _puts(leader, value_bytes, seconds)


def etcd_rate(directory: Path, seconds: float, value_bytes: int) -> float | None:
    """The same of three new etcd nodes; None where etcd is not installed."""
    if not EtcdCluster.installed():
        return None
    with _etcd_client(directory) as (cluster, leader, client):
        rate, count = _etcd_puts(client, 0, b"x" * value_bytes, seconds)
        _check_keys(cluster, leader, count)
    return rate


def _puts(leader: EngineClient, value_bytes: int, seconds: float) -> float:
    put = Puts(value_bytes)
    return pipelined(lambda number: leader.propose(put(number)), seconds)


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
        value, watch, first = b"x" * VALUE_BYTES, Stopwatch(), 0
        for _ in rounds(seconds):
            with watch:
                client.send([(b"k%d" % first, value)])
                client.receive()
            first += 1
        rate, count = _etcd_puts(client, first, value, seconds)
        _check_keys(cluster, leader, first + count)
    return watch.times(), rate


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


def _etcd_puts(client: EtcdClient, first: int, value: bytes, seconds: float) -> tuple[float, int]:
    """Keep 64 puts under way: (puts a second, how many)."""
    started, open_, count = time.perf_counter(), 0, 0
    while time.perf_counter() - started < seconds:
        free = IN_FLIGHT - open_
        client.send([(b"k%d" % (first + count + n), value) for n in range(free)])
        count += free
        open_ = IN_FLIGHT - client.receive()
    while open_ > 0:
        open_ -= client.receive()
    return count / (time.perf_counter() - started), count


def _check_keys(cluster: EtcdCluster, leader: int, count: int) -> None:
    found = cluster.keys(leader)
    if found != count:
        raise RuntimeError(f"etcd holds {found} keys, and {count} were put")
