"""Benchmarks of three nodes on this machine, through a client process, beside etcd's three.

A command puts an API key (about 100 bytes): it is decoded, checked, applied to RocksDB and answered
on the leader, as any write is; etcd puts as many bytes under a key. Both sync their logs. Nodes of
ours speak TLS unless it says plain; etcd speaks plain.
"""

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from feeds.cli_cluster import init_cluster, node_status, start_cluster, stop_cluster
from feeds.client import EngineClient
from feeds.commands import AddKey, CreateTenant, FollowFeed, encode_command
from feeds.engine import FeedEngine
from feeds.errors import FeedsError
from feeds.model import ActivityDraft, FeedId, TenantId
from feeds.replication.base import Applied
from feeds.store.rocks import RocksStore
from feeds.testing_ports import free_ports
from serving.bench_etcd import EtcdClient, EtcdCluster
from serving.measure import Figure, Stopwatch, SyncedFile, Times, rounds

__all__ = ["commit", "failover", "fanout"]

IN_FLIGHT: Final = 64
VALUE_BYTES: Final = 100
FOLLOWERS: Final = 1_000
FAILOVERS: Final = 5
WAIT_S: Final = 30.0

_TENANT: Final = TenantId("bench")
_NODES: Final = ("n1", "n2", "n3")


def commit(directory: Path, seconds: float) -> Iterator[Figure]:
    """Durable commits of one client and of 64, with TLS and without, beside etcd."""
    etcd_one, etcd_many = _etcd(directory / "etcd", seconds)
    with SyncedFile(directory / "commit.raw") as raw:
        appends = Stopwatch()
        for _ in rounds(seconds / 4):
            with appends:
                raw.append(b"x" * VALUE_BYTES)
    synced = appends.times()
    for name, plain in (("TLS", False), ("plain", True)):
        with _cluster(directory / f"commit-{name}", plain=plain) as leader:
            one = _one_by_one(leader, seconds)
            rate = _pipelined(leader.propose, _put, seconds)
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


def fanout(directory: Path, seconds: float) -> Iterator[Figure]:
    """Rows before followers, written on three nodes, by posts to a feed with 1,000 of them."""
    data = directory / "fanout"
    with _cluster(data, plain=False) as leader, _engine(data, leader) as engine:
        follows = [leader.propose(encode_command(_follow(number))) for number in range(FOLLOWERS)]
        for follow in follows:
            follow.result(WAIT_S)
        number = iter(range(10**9))

        def post(_: bytes) -> "Future[object]":
            draft = ActivityDraft(actor="user:a", verb="post", object=f"n:{next(number)}")
            future: Future[object] = engine.post(_TENANT, FeedId("user", "a"), draft)  # type: ignore[assignment]
            return future

        posts = _pipelined(post, lambda _: b"", seconds, in_flight=8)
    with RocksStore.open(directory / "fanout.alone") as store:
        alone = _rows_alone(store, seconds / 2)
    yield Figure.of_rates(
        "fanout",
        f"rows a second on three nodes, {FOLLOWERS:,} followers a post",
        posts * (FOLLOWERS + 1),
        "rows into one RocksDB, 1,000 to a batch",
        alone,
        "50,000/s",
        followers=FOLLOWERS,
    )


def failover(directory: Path, seconds: float) -> Iterator[Figure]:
    """From kill -9 of the leader to the next acknowledged write, as a client sees it."""
    del seconds
    gaps_ns = []
    data = directory / "failover"
    with _cluster(data, plain=False):
        for number in range(FAILOVERS):
            leader = _leader(data)
            other = next(node for node in _NODES if node != leader)
            client = EngineClient.connect(data / f"{other}.sock")
            _until_written(client, 2 * number)
            os.kill(int((data / f"{leader}.pid").read_text()), signal.SIGKILL)
            started = time.perf_counter_ns()
            _until_written(client, 2 * number + 1)
            gaps_ns.append(time.perf_counter_ns() - started)
            client.close()
            start_cluster(data)
    times = Times.of(gaps_ns)
    yield Figure.of_times(
        "failover",
        f"kill -9 of the leader to the next durable write, {FAILOVERS} times",
        times,
        "the longest election timeout",
        Times(1, 800_000.0, 800_000.0),
        "0.8 s p50, 2 s at most",
        max_us=max(gaps_ns) / 1e3,
    )


@contextmanager
def _cluster(directory: Path, *, plain: bool) -> Iterator[EngineClient]:
    """Three nodes with a tenant, and a client of their leader."""
    init_cluster(directory, "bench", free_ports(), plain=plain)
    start_cluster(directory)
    try:
        client = EngineClient.connect(directory / f"{_leader(directory)}.sock")
        try:
            client.propose(encode_command(CreateTenant(tenant=_TENANT, now_us=1))).result(WAIT_S)
            yield client
        finally:
            client.close()
    finally:
        stop_cluster(directory)


@contextmanager
def _engine(directory: Path, client: EngineClient) -> Iterator[FeedEngine]:
    """An engine that reads the leader's store beside it."""
    scratch = directory / "scratch"
    scratch.mkdir()
    store = directory / _leader(directory) / "store"
    with RocksStore.open_secondary(store, scratch) as view:
        yield FeedEngine(view, client)


def _leader(directory: Path) -> str:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for node in _NODES:
            status = node_status(directory / f"{node}.sock")
            if status is not None and status.role == "leader":
                return node
        time.sleep(0.01)
    raise TimeoutError(f"no node leads after {WAIT_S:g} s")


def _put(number: int) -> bytes:
    key = AddKey(
        tenant=_TENANT, key_id=f"k{number}", secret_sha256=b"x" * 32, scopes=("read", "write")
    )
    return encode_command(key)


def _follow(number: int) -> FollowFeed:
    return FollowFeed(
        tenant=_TENANT,
        follower=f"timeline:u{number}",
        target="user:a",
        time_us=1_600_000_000_000_000,
        copy_limit=0,
        copy_max=0,
        pull_above=10**6,
        follows_max=10,
    )


def _one_by_one(client: EngineClient, seconds: float) -> Times:
    watch = Stopwatch()
    for number in rounds(seconds):
        command = _put(-number - 1)
        with watch:
            client.propose(command).result(WAIT_S)
    return watch.times()


def _pipelined(
    propose: Callable[[bytes], "Future[Applied] | Future[object]"],
    command: Callable[[int], bytes],
    seconds: float,
    in_flight: int = IN_FLIGHT,
) -> float:
    """Commands a second with so many on their way; they are made beforehand."""
    commands = [command(number) for number in range(int(seconds * 40_000))]
    waiting: deque[Future[Applied] | Future[object]] = deque()
    started = time.perf_counter()
    count = 0
    for content in commands:
        if len(waiting) >= in_flight:
            waiting.popleft().result(WAIT_S)
        waiting.append(propose(content))
        count += 1
        if time.perf_counter() - started > seconds:
            break
    for future in waiting:
        future.result(WAIT_S)
    return count / (time.perf_counter() - started)


def _until_written(client: EngineClient, number: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            client.propose(_put(10**7 + number)).result(WAIT_S)
        except FeedsError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


def _rows_alone(store: RocksStore, seconds: float) -> float:
    from feeds.store.base import Write  # noqa: PLC0415 - beside its use

    started, count = time.perf_counter(), 0
    for number in rounds(seconds):
        position = number.to_bytes(16)
        store.write(
            [
                Write("feeds", b"bench\0timeline:u%d\0" % follower + position, b"x" * 8)
                for follower in range(FOLLOWERS)
            ]
        )
        count += FOLLOWERS
    return count / (time.perf_counter() - started)


def _etcd(directory: Path, seconds: float) -> tuple[Times | None, float]:
    """One client's times and the rate of 64; none where etcd is not installed."""
    if not EtcdCluster.installed():
        return None, 0.0
    directory.mkdir()
    with EtcdCluster(directory) as cluster:
        leader = cluster.leader()
        client = EtcdClient(leader)
        value, watch, count = b"x" * VALUE_BYTES, Stopwatch(), 0
        for _ in rounds(seconds):
            with watch:
                client.send([(b"k%d" % count, value)])
                client.receive()
            count += 1
        started, open_, first = time.perf_counter(), 0, count
        while time.perf_counter() - started < seconds:
            client.send([(b"k%d" % (count + n), value) for n in range(IN_FLIGHT - open_)])
            count += IN_FLIGHT - open_
            open_ = IN_FLIGHT - client.receive()
        while open_ > 0:
            open_ -= client.receive()
        rate = (count - first) / (time.perf_counter() - started)
        client.close()
        if cluster.keys(leader) != count:
            raise RuntimeError(f"etcd holds {cluster.keys(leader)} keys, and {count} were put")
    return watch.times(), rate
