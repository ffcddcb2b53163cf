"""A noisy tenant at ten times its quota, and what another one's reads take meanwhile.

One service in a process of its own, one worker. The quiet tenant reads ranked feeds at a steady
pace; in turn nobody else asks, and another process sends ten times what the noisy tenant may. So
whatever else the machine does falls on both. What matters is the ratio of the two p99s; and where
the machine has other things to do, that of the processor's time: how much the service worked, for
whomever, from when a read was sent until it was answered.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from feeds.engine import FeedEngine
from feeds.errors import StorageError
from feeds.model import ActivityDraft, FeedId, TenantId
from feeds.new_keys import create_key
from serving.bench_noise import Connection, Noise
from serving.measure import Doing, Figure, Sizes, Times

__all__ = ["tenants"]

QUIET: Final = TenantId("quiet")
NOISY: Final = TenantId("noisy")
NOISY_PER_S: Final = 50
"""The noisy tenant's quota, requests a second."""

TIMES_QUOTA: Final = 10
PACE_S: Final = 0.02
"""Seconds between two reads of the quiet tenant."""

ROUND_S: Final = 1.0
"""Seconds of quiet, and of noise, in turn."""

SETTLE_S: Final = 0.1
"""Seconds after the noise begins or ends that are not measured."""

PATH: Final = "/v2/users/reader/feeds/personalized"
START_S: Final = 60.0

_ACTIVITIES = 500
_AUTHORS = 50


def tenants(directory: Path, seconds: float, sizes: Sizes) -> Iterator[Doing | Figure]:
    """Measure the quiet tenant's reads with and without the noise of the other."""
    del sizes
    yield Doing("posts", 0.0)
    keys = _populate(directory / "data")
    with _service(directory) as (address, pid), Noise(address, PATH, keys[NOISY]) as noise:
        reads = asyncio.run(_Reads.taken(address, pid, keys[QUIET], noise, seconds))
    alone, beside = Times.of(reads.alone), Times.of(reads.beside)
    worked, worked_beside = Times.of(reads.worked_alone), Times.of(reads.worked_beside)
    yield Figure.of_times(
        "tenants",
        f"a ranked read beside another tenant at {TIMES_QUOTA} times its quota of {NOISY_PER_S}/s",
        beside,
        "the same read with nobody else",
        alone,
        goal="1.5 x of the p99",
        p99_ratio=beside.p99_us / alone.p99_us,
        worked_p99_ratio=worked_beside.p99_us / worked.p99_us,
        worked_p99_us=worked_beside.p99_us,
        worked_alone_p99_us=worked.p99_us,
        noisy_answered=noise.answered,
        noisy_refused=noise.refused,
        noisy_failed=noise.failed,
    )


def _populate(data: Path) -> dict[TenantId, str]:
    """Two tenants with the same feeds; an API key of each."""
    keys = {}
    with FeedEngine.open(data) as engine:
        for tenant in (QUIET, NOISY):
            engine.create_tenant(tenant).result()
            made = create_key(engine, tenant)
            made.stored.result()
            keys[tenant] = made.api_key
            home = FeedId("timeline", "reader")
            authors = [FeedId("user", f"author{number}") for number in range(_AUTHORS)]
            for following in [engine.follow(tenant, home, author) for author in authors]:
                following.result()
            posts = [
                engine.post(tenant, authors[number % _AUTHORS], _draft(number))
                for number in range(_ACTIVITIES)
            ]
            for posted in posts:
                posted.result()
        engine.set_quotas(NOISY, {"requests_per_s": NOISY_PER_S}).result()
    return keys


def _draft(number: int) -> ActivityDraft:
    author = f"user:author{number % _AUTHORS}"
    return ActivityDraft(actor=author, verb="post", object=f"note:{number}")


@contextmanager
def _service(directory: Path) -> Iterator[tuple[str, int]]:
    """A service on the data directory, until the block ends; its address and process."""
    address = directory / "address"
    command = ["-m", "serving", "serve", "--port", "0", "--data-dir", str(directory / "data")]
    options = ["--no-loader", "--log-level", "warning", "--address-file", str(address)]
    with (directory / "service.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, *command, *options], stdout=log, stderr=log, env=dict(os.environ)
        )
    try:
        deadline = time.monotonic() + START_S
        while not (address.exists() and address.read_text().endswith("\n")):
            if process.poll() is not None or time.monotonic() > deadline:
                why = (directory / "service.log").read_text()[-2_000:]
                raise StorageError(f"the service did not start: {why}")
            time.sleep(0.05)
        yield address.read_text().strip(), process.pid
    finally:
        process.terminate()
        process.wait()


@dataclass(slots=True)
class _Reads:
    """What the quiet tenant's reads took, and how long the service worked; nanoseconds."""

    connection: Connection
    worked_clock: int
    alone: list[int] = field(default_factory=list)
    worked_alone: list[int] = field(default_factory=list)
    beside: list[int] = field(default_factory=list)
    worked_beside: list[int] = field(default_factory=list)

    @classmethod
    async def taken(
        cls, address: str, pid: int, key: str, noise: Noise, seconds: float
    ) -> "_Reads":
        """Read in turn with nobody else and beside the noise, for about so long."""
        worked_clock = (~pid << 3) | 2  # Linux: the processor's time of another process
        reads = cls(await Connection.open(address, PATH, key), worked_clock)
        await reads.read(ROUND_S, [], [])  # the table is loaded, and code is warm
        end = time.monotonic() + seconds
        while not reads.beside or time.monotonic() < end:
            await reads.read(ROUND_S, reads.alone, reads.worked_alone)
            noise.begin(NOISY_PER_S * TIMES_QUOTA)
            await reads.read(SETTLE_S, [], [])
            await reads.read(ROUND_S, reads.beside, reads.worked_beside)
            noise.end()
            await reads.read(SETTLE_S, [], [])
        reads.connection.close()
        return reads

    async def read(self, seconds: float, taken: list[int], worked: list[int]) -> None:
        """Read at the pace for so long; each counts from when it was due, so a late one counts."""
        due_ns = time.perf_counter_ns()
        for _ in range(max(1, round(seconds / PACE_S))):
            await asyncio.sleep(max(0.0, (due_ns - time.perf_counter_ns()) / 1e9))
            worked_ns = time.clock_gettime_ns(self.worked_clock)
            status = await self.connection.get()
            worked.append(time.clock_gettime_ns(self.worked_clock) - worked_ns)
            taken.append(time.perf_counter_ns() - due_ns)
            if status != 200:  # noqa: PLR2004 - OK
                raise StorageError(f"the quiet tenant was answered {status}: nothing was measured")
            due_ns += round(PACE_S * 1e9)
