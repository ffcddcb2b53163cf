"""A process that follows a node's store, and notes when it sees what: `bench_lag` starts it.

    python -m serving.bench_follower SOCKET

It prints `ready`; then reads a line with a log index, and once it has seen that one prints JSON:
pairs of an index and the monotonic time (ns) at which everything up to it was visible here.
"""

import json
import select
import sys
import time
from pathlib import Path
from typing import Final

import structlog

from feeds.remote import RemoteReplica, open_beside

__all__ = ["follow"]

_WAIT_S: Final = 0.1


def follow(socket: Path) -> None:
    """Follow the node behind a socket as the module says."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    beside = open_beside(socket)
    with beside.engine:
        print("ready", flush=True)  # noqa: T201 - what it prints is its answer
        print(json.dumps(_seen(beside.replica)), flush=True)  # noqa: T201 - as above


def _seen(replica: RemoteReplica) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    index, last = replica.applied_index, None
    while last is None or index < last:
        if replica.wait_applied(index + 1, _WAIT_S):
            index = replica.applied_index
            seen.append((index, time.monotonic_ns()))
        if last is None and select.select([sys.stdin], [], [], 0)[0]:
            last = int(sys.stdin.readline())
    return seen


if __name__ == "__main__":
    follow(Path(sys.argv[1]))
