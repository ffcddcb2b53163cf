"""How fresh a read must be, and how it is made sure before anything is read.

bounded            the default: refused where the store may be more than `max_lag_s` behind
read_your_writes   waits until the log index `min_index` is seen, which a write answered with
linearizable       asks the cluster where it is, and waits until that is seen

In a process that applies the log itself, every acknowledged write is in every read.
"""

import asyncio
from concurrent.futures import Future
from typing import Annotated, Final, Literal, Protocol

from fastapi import Depends, Query, Request

from feeds.errors import InvalidInput, StaleRead
from serving.telemetry import Metrics

__all__ = [
    "DEFAULT",
    "Consistency",
    "Consistent",
    "FollowedLog",
    "FollowedReads",
    "OwnReads",
    "Reads",
]

Consistency = Literal["bounded", "read_your_writes", "linearizable"]

_ELSEWHERE: Final = "read again in a moment, or at another node"


class Reads(Protocol):
    """Lets a read begin once what it sees is fresh enough."""

    async def admit(self, consistency: Consistency, min_index: int) -> None:
        """Wait until a read may begin.

        Raises `StaleRead` where the store does not get there in time, `InvalidInput` for an index
        that the log does not have, and what a barrier raises: `NoLeader`, `OutcomeUnknown`.
        """
        ...

    def problem(self) -> str | None:
        """Why bounded reads are refused at present; None if they are not."""
        ...


class OwnLog(Protocol):
    """What is asked of an engine whose log is of this process."""

    def applied_index(self) -> int:
        """The log index that it is at."""
        ...


class FollowedLog(Protocol):
    """What is asked of whoever follows a node's store (`feeds.remote.RemoteReplica`)."""

    @property
    def applied_index(self) -> int:
        """The log index that is seen here."""
        ...

    @property
    def lag_s(self) -> float:
        """Seconds since all that was committed was known to be seen here."""
        ...

    def barrier(self) -> "Future[int]":
        """The log index of all that was acknowledged before."""
        ...

    def seen(self, index: int, seconds: float) -> "Future[bool]":
        """Whether an index is seen here within so many seconds."""
        ...


class OwnReads:
    """Where this process applies the log: there is nothing to wait for."""

    def __init__(self, log: OwnLog) -> None:
        self._log = log

    async def admit(self, consistency: Consistency, min_index: int) -> None:
        """As `Reads.admit`."""
        del consistency
        if min_index:
            _check_index(min_index, self._log.applied_index())

    def problem(self) -> str | None:
        """Nothing is ever stale."""
        return None


class FollowedReads:
    """Where this process follows a node's store; on one event loop."""

    def __init__(self, log: FollowedLog, metrics: Metrics, max_lag_s: float, wait_s: float) -> None:
        self._log = log
        self._metrics = metrics
        self._max_lag_s = max_lag_s
        self._wait_s = wait_s

    async def admit(self, consistency: Consistency, min_index: int) -> None:
        """As `Reads.admit`."""
        try:
            match consistency:
                case "bounded":
                    self._check_lag()
                case "read_your_writes":
                    await self._see_own(min_index)
                case "linearizable":
                    await self._see(await self._barrier())
        except StaleRead:
            self._metrics.stale_reads.labels(consistency).inc()
            raise

    def problem(self) -> str | None:
        """As `Reads.problem`."""
        lag_s = self._log.lag_s
        self._metrics.store_lag.set(min(lag_s, 1e9))
        if lag_s <= self._max_lag_s:
            return None
        old = f"may be {lag_s:.1f} s old" if lag_s < 1e9 else "is of an unknown age"  # noqa: PLR2004
        return (
            f"what this server sees {old}, and max_lag_s is {self._max_lag_s:g}: {_ELSEWHERE}, or "
            "ask with consistency=linearizable"
        )

    def _check_lag(self) -> None:
        if (problem := self.problem()) is not None:
            raise StaleRead(problem)

    async def _see_own(self, index: int) -> None:
        """Wait for the index; where it does not come, the leader says whether there is such a one.

        It may be that this node has not heard of it yet: what the barrier is at, it will.
        """
        if index <= self._log.applied_index or await self._comes(index):
            return
        _check_index(index, await self._barrier())
        await self._see(index)

    async def _see(self, index: int) -> None:
        if index > self._log.applied_index and not await self._comes(index):
            raise StaleRead(
                f"this server sees the log up to {self._log.applied_index}, and {index} did not "
                f"come within read_wait_s, {self._wait_s:g} s: {_ELSEWHERE}"
            )

    async def _comes(self, index: int) -> bool:
        return await asyncio.wrap_future(self._log.seen(index, self._wait_s))

    async def _barrier(self) -> int:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self._log.barrier()), self._wait_s)
        except TimeoutError:
            raise StaleRead(
                f"the cluster did not say where it is within read_wait_s, {self._wait_s:g} s: "
                f"{_ELSEWHERE}"
            ) from None


def _check_index(index: int, last: int) -> None:
    if index > last:
        raise InvalidInput(
            f"min_index is {index}, and the log ends at {last}: send the `index` of a reply of "
            "this server"
        )


DEFAULT: Final[Consistency] = "bounded"
"""What a read asks for that says nothing of it."""


async def _admit(
    request: Request,
    consistency: Annotated[
        Consistency | None,
        Query(
            description="How fresh the reply must be. `bounded` (the default): at most "
            "`max_lag_s` behind. `read_your_writes`: with everything up to `min_index`. "
            "`linearizable`: with every write that was acknowledged before."
        ),
    ] = None,
    min_index: Annotated[
        int,
        Query(
            ge=0,
            le=2**63 - 1,
            description="The `index` that a write answered with; the reply has seen it.",
        ),
    ] = 0,
) -> None:
    """Let the request go on once what it reads is fresh enough."""
    asked = consistency or ("read_your_writes" if min_index else DEFAULT)
    if (asked == "read_your_writes") != bool(min_index):
        raise InvalidInput(
            "min_index and consistency=read_your_writes belong together: send the `index` of the "
            "write that the reply must have seen as min_index"
        )
    reads: Reads = request.app.state.services.reads
    await reads.admit(asked, min_index)


Consistent = Annotated[None, Depends(_admit)]
"""A parameter of routes that read: they begin once the store is as fresh as the request asks."""
