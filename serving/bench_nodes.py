"""What benchmarks of nodes share: nodes on this machine, and a client process that writes to them.

A command puts an API key with so many bytes of secret: it is decoded, checked, applied to RocksDB
and answered on the leader, as any write is.
"""

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from feeds.cli_cluster import init_cluster, node_status, start_cluster, stop_cluster
from feeds.client import EngineClient
from feeds.commands import AddKey, CreateTenant, FollowFeed, encode_command
from feeds.model import FeedId, TenantId
from feeds.store.rocks import RocksStore
from feeds.testing_ports import free_ports

__all__ = [
    "IN_FLIGHT",
    "NODES",
    "TARGET",
    "TENANT",
    "VALUE_BYTES",
    "WAIT_S",
    "Puts",
    "follow",
    "leader_of",
    "leader_store",
    "pipelined",
    "three_nodes",
]

TENANT: Final = TenantId("bench")
TARGET: Final = FeedId("user", "a")
NODES: Final = ("n1", "n2", "n3")

IN_FLIGHT: Final = 64
"""Writes on their way at once where it is not one client alone."""

VALUE_BYTES: Final = 100
"""Bytes that a write puts under its key, where nothing else is said."""

WAIT_S: Final = 30.0

_Value = TypeVar("_Value")
_KEY: Final = "k000000000"


class Puts:
    """The command with a number puts so many bytes under a key of its own.

    It is joined from bytes that were made beforehand, as the requests to etcd are.
    """

    def __init__(self, value_bytes: int = VALUE_BYTES) -> None:
        key = AddKey(tenant=TENANT, key_id=_KEY, secret_sha256=b"x" * value_bytes, scopes=())
        self._head, _, self._tail = encode_command(key).partition(_KEY.encode())

    def __call__(self, number: int) -> bytes:
        """The command; numbers have up to nine digits."""
        return b"%bk%09d%b" % (self._head, number, self._tail)


def follow(number: int) -> bytes:
    """The command with which a timeline of its own follows `TARGET`, and is pushed to."""
    return encode_command(
        FollowFeed(
            tenant=TENANT,
            follower=f"timeline:u{number}",
            target=str(TARGET),
            time_us=1_600_000_000_000_000,
            copy_limit=0,
            copy_max=0,
            pull_above=10**9,
            follows_max=10,
        )
    )


@contextmanager
def three_nodes(directory: Path, *, plain: bool = False) -> Iterator[EngineClient]:
    """Three nodes with a tenant, and a client of their leader."""
    init_cluster(directory, "bench", free_ports(), plain=plain)
    try:
        start_cluster(directory)
        client = EngineClient.connect(directory / f"{leader_of(directory)}.sock")
        try:
            client.propose(encode_command(CreateTenant(tenant=TENANT, now_us=1))).result(WAIT_S)
            yield client
        finally:
            client.close()
    finally:
        stop_cluster(directory)


def leader_of(directory: Path) -> str:
    """The name of the node that leads; raises `TimeoutError` if none does in time."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for node in NODES:
            status = node_status(directory / f"{node}.sock")
            if status is not None and status.role == "leader":
                return node
        time.sleep(0.01)
    raise TimeoutError(f"no node leads after {WAIT_S:g} s")


@contextmanager
def leader_store(directory: Path) -> Iterator[RocksStore]:
    """The leader's store as it is now."""
    store = directory / leader_of(directory) / "store"
    with (
        tempfile.TemporaryDirectory(dir=directory, prefix="scratch-") as scratch,
        RocksStore.open_secondary(store, Path(scratch)) as reader,
    ):
        yield reader


def pipelined(
    propose: Callable[[int], "Future[_Value]"],
    seconds: float = 3_600.0,
    *,
    count_max: int = 10**9,
    in_flight: int = IN_FLIGHT,
) -> float:
    """Writes a second, with so many on their way, until the time is over or so many are done."""
    waiting: deque[Future[_Value]] = deque()
    started = time.perf_counter()
    count = 0
    while count < count_max and time.perf_counter() - started < seconds:
        if len(waiting) >= in_flight:
            waiting.popleft().result(WAIT_S)
        waiting.append(propose(count))
        count += 1
    for future in waiting:
        future.result(WAIT_S)
    return count / (time.perf_counter() - started)
