"""How long a node with a long log takes from its start until it answers.

One node, plain, with the limits of a default configuration. It is killed with SIGKILL, so its
RocksDB finds in its own write-ahead log what was not flushed; the node reads and checks its whole
log. Then once more without its store, as after a loss of power before the first flush: that is the
worst there is, as the whole log is applied again.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from feeds.cli_cluster import init_cluster
from feeds.client import EngineClient
from feeds.commands import CreateTenant, encode_command
from feeds.errors import NoLeader, OutcomeUnknown, StorageError
from feeds.replication.base import ReplicaStatus
from feeds.testing_ports import free_ports
from serving.bench_nodes import TENANT, Puts, pipelined
from serving.measure import Doing, Figure, Sizes, Times

__all__ = ["restart"]

ENTRY_BYTES: Final = 16
"""Bytes that an entry puts: with a million, a node does not yet flush and drop its log."""

IN_FLIGHT: Final = 4_000
ANSWER_S_MAX: Final = 300.0
_POLL_S: Final = 0.003


def restart(directory: Path, seconds: float, sizes: Sizes) -> Iterator[Doing | Figure]:
    """From a node's start to its first durable write, with a long log and with an empty one."""
    del seconds
    data, repeats = directory / "restart", max(1, min(3, sizes.kills))
    (config,) = init_cluster(data, "bench", free_ports(1), nodes=1, plain=True)
    yield Doing("a node with an empty log", 0.0)
    _times(config, 1)
    empty = _times(config, repeats)
    yield Doing(f"writing {sizes.log_entries:,} entries", 0.05)
    status = _fill(config, sizes.log_entries)
    kept = status.last_index - status.first_index + 1
    yield Doing(f"a node with {kept:,} entries", 0.6)
    for what, times in (
        ("the store has them", _times(config, repeats)),
        ("the store is lost: all are applied again", _times_without_store(config)),
    ):
        yield Figure.of_times(
            "restart",
            f"from the start of a node to its first write, {kept:,} entries in its log, {what}",
            times,
            "the same with an empty log",
            empty,
            "10 s",
            entries=kept,
            log_bytes=status.log_bytes,
        )


def _times(config: Path, repeats: int) -> Times:
    durations_ns = []
    for _ in range(repeats):
        with _node(config) as (_, started_ns):
            durations_ns.append(time.perf_counter_ns() - started_ns)
    return Times.of(durations_ns)


def _times_without_store(config: Path) -> Times:
    shutil.rmtree(config.parent / "n1" / "store")
    return _times(config, 1)


def _fill(config: Path, entries: int) -> ReplicaStatus:
    """Write so many entries; where the node stands then."""
    put = Puts(ENTRY_BYTES)
    with _node(config) as (client, _):
        client.propose(encode_command(CreateTenant(tenant=TENANT, now_us=1))).result(ANSWER_S_MAX)
        pipelined(
            lambda number: client.propose(put(number)), count_max=entries, in_flight=IN_FLIGHT
        )
        return client.status()


@contextmanager
def _node(config: Path) -> Iterator[tuple[EngineClient, int]]:
    """A node that has acknowledged a write, and when it was started; killed in the end."""
    socket, log = config.parent / "n1.sock", config.parent / "n1.log"
    socket.unlink(missing_ok=True)  # what a killed node leaves
    started_ns = time.perf_counter_ns()
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - a node, with arguments of ours
            [sys.executable, "-m", "serving", "node", "--config", str(config)],
            stdout=output,
            stderr=output,
            env=os.environ,
        )
    try:
        client = _answering(process, socket, log)
        try:
            yield client, started_ns
        finally:
            client.close()
    finally:
        process.kill()
        process.wait()


def _answering(process: "subprocess.Popen[bytes]", socket: Path, log: Path) -> EngineClient:
    """A client of the node, once it has acknowledged a write. Raises `StorageError`."""
    deadline = time.monotonic() + ANSWER_S_MAX
    while not socket.exists():
        _check_alive(process, log, deadline)
    client = EngineClient(socket, timeout_s=ANSWER_S_MAX)
    try:
        client.wait_connected(ANSWER_S_MAX)
        while True:
            try:
                client.propose(encode_command(CreateTenant(tenant=TENANT, now_us=1))).result()
            except (NoLeader, OutcomeUnknown):  # while it applies its log, it answers nobody
                _check_alive(process, log, deadline)
            else:
                return client
    except BaseException:
        client.close()
        raise


def _check_alive(process: "subprocess.Popen[bytes]", log: Path, deadline: float) -> None:
    if process.poll() is not None or time.monotonic() > deadline:
        raise StorageError(f"the node does not answer: {log.read_text()[-500:]}")
    time.sleep(_POLL_S)
