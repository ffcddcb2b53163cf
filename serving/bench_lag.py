"""The lag of a secondary: from a write's acknowledgement until another process sees it.

The client of the leader is this process; the secondary is one of its own (`bench_follower`), on the
leader's store or on another node's. Both read one monotonic clock. The writes are follows: like
most writes they leave events, which the secondary reads too before it shows its new state.
"""

import json
import os
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Final, Self

from feeds.client import EngineClient
from feeds.replication.base import Applied
from serving.bench_nodes import (
    IN_FLIGHT,
    NODES,
    WAIT_S,
    follow,
    leader_of,
    pipelined,
    three_nodes,
)
from serving.measure import Doing, Figure, Sizes, Times

__all__ = ["lag", "lags"]

WRITES_PER_S: Final = 2_000
"""The steady load: a tenth of what three nodes are to commit."""

LAG_NS_MIN: Final = 1_000

_TICK_S: Final = 0.0005


def lag(directory: Path, seconds: float, sizes: Sizes) -> Iterator[Doing | Figure]:
    """A secondary of the leader and one of another node, under a steady load; then a full one."""
    del sizes
    data = directory / "lag"
    with three_nodes(data) as client:
        leader = leader_of(data)
        other = next(node for node in NODES if node != leader)
        steady = f"{WRITES_PER_S:,} writes/s"
        cases = (
            ("the leader's store", leader, steady, 0.1),
            ("another node's store", other, steady, 0.4),
            ("the leader's store", leader, f"{IN_FLIGHT} writes in flight", 0.7),
        )
        for number, (where, node, load, share) in enumerate(cases):
            yield Doing(f"{where}, {load}", share)
            writes = _Writes(client, first=number * 100_000_000)
            with _Follower(data / f"{node}.sock") as follower:
                if load == steady:
                    writes.steadily(seconds)
                else:
                    writes.crowded(seconds)
                seen = follower.seen(max(writes.acknowledged))
            from_proposed = lags(writes.proposed, seen)
            yield Figure.of_times(
                "lag",
                f"acknowledged to seen in a secondary of {where}, {load}",
                lags(writes.acknowledged, seen),
                "the write itself, proposed to acknowledged",
                writes.times(),
                "10 ms p50, 50 ms p99",
                writes=len(writes.acknowledged),
                proposed_to_seen_p50_us=from_proposed.p50_us,
                proposed_to_seen_p99_us=from_proposed.p99_us,
            )


class _Writes:
    """Writes to the leader, with the time at which each was acknowledged."""

    def __init__(self, client: EngineClient, first: int) -> None:
        self.acknowledged: dict[int, int] = {}
        """Monotonic time (ns) by log index."""
        self.proposed: dict[int, int] = {}
        """As `acknowledged`."""
        self._client = client
        self._first = first

    def steadily(self, seconds: float) -> None:
        """So many a second as the module says, at least one."""
        started, waiting = time.perf_counter(), [self._propose(0)]
        while (elapsed_s := time.perf_counter() - started) < seconds:
            due = range(len(waiting), int(elapsed_s * WRITES_PER_S))
            waiting.extend(self._propose(number) for number in due)
            time.sleep(_TICK_S)
        for future in waiting:
            future.result(WAIT_S)

    def crowded(self, seconds: float) -> None:
        """As many as go through, with 64 in flight."""
        pipelined(self._propose, seconds)

    def times(self) -> Times:
        """From a write's proposal to its acknowledgement."""
        return Times.of([at_ns - self.proposed[one] for one, at_ns in self.acknowledged.items()])

    def _propose(self, number: int) -> "Future[Applied]":
        proposed_ns = time.monotonic_ns()

        def answered(done: "Future[Applied]") -> None:
            now_ns, index = time.monotonic_ns(), done.result().index
            self.acknowledged[index] = now_ns
            self.proposed[index] = proposed_ns

        future = self._client.propose(follow(self._first + number))
        future.add_done_callback(answered)
        return future


class _Follower:
    """A process that follows a node."""

    def __init__(self, socket: Path) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "serving.bench_follower", str(socket)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ,
        )

    def __enter__(self) -> Self:
        self._line()
        return self

    def seen(self, last_index: int) -> list[tuple[int, int]]:
        """(index, monotonic ns) in order, once it has seen `last_index`."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % last_index)
        self._process.stdin.flush()
        return [(index, at_ns) for index, at_ns in json.loads(self._line())]

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.terminate()
        self._process.wait()

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the follower has ended with {self._process.wait()}")
        return line


def lags(since: dict[int, int], seen: list[tuple[int, int]]) -> Times:
    """How long each write was not yet seen, from a time of its own (ns by log index) on.

    1 us where the secondary had seen it before. `seen` ends at or behind the last.
    """
    indexes = [index for index, _ in seen]
    return Times.of(
        [
            max(LAG_NS_MIN, seen[bisect_left(indexes, index)][1] - at_ns)
            for index, at_ns in since.items()
        ]
    )
