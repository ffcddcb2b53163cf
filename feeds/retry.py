"""Writes that are repeated until their outcome is known, or a deadline has passed.

Every command given to a `RetryingReplica` must bear being proposed again: it carries an idempotency
key, or does nothing the second time. Then a lost answer is no reason to bother the caller: the
command is proposed again, and takes effect once.
"""

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from feeds.errors import FeedsError, NoLeader, OutcomeUnknown, Overloaded, ReplicaStopped
from feeds.replication.base import Applied, Replica, ReplicaStatus

__all__ = ["RetryingReplica"]

PAUSE_S_MIN: Final = 0.02
PAUSE_S_MAX: Final = 0.5
"""Seconds between two attempts while nobody leads: doubled each time, up to this."""


@dataclass(order=True, slots=True)
class _Operation:
    """A write under way; `unknown` once an attempt may have taken effect, `early` once one was."""

    number: int
    command: bytes = field(compare=False)
    deadline_s: float = field(compare=False)
    future: "Future[Applied]" = field(compare=False)
    unknown: bool = field(compare=False, default=False)
    early: bool = field(compare=False, default=False)


class RetryingReplica:
    """A `Replica` whose proposals are repeated after `NoLeader` and `OutcomeUnknown`.

    While one waits, later ones wait behind it: they are proposed again in the order in which they
    came, the first alone until it succeeds. One that was on its way already, and is answered that
    it is early (it depends on one that waits), is repeated behind that one. Every future is done
    within `retry_s` and the time that the replica takes to answer. One that may have taken effect
    fails with `OutcomeUnknown`, whatever its last attempt met.
    """

    def __init__(
        self,
        replica: Replica,
        retry_s: float,
        is_early: Callable[[bytes], bool] = lambda _: False,
        waiting_max: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replica = replica
        self._retry_s = retry_s
        self._is_early = is_early
        self._open: set[int] = set()
        self._waiting_max = waiting_max
        self._clock = clock
        self._numbers = itertools.count()
        self._waiting: list[_Operation] = []
        self._probe: _Operation | None = None
        self._releasing = False
        self._pause_s = PAUSE_S_MIN
        self._next_s = 0.0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def propose(self, command: bytes) -> "Future[Applied]":
        """As `Replica.propose`; raises `Overloaded` too where many wait for a leader."""
        future: Future[Applied] = Future()
        future.set_running_or_notify_cancel()
        deadline_s = self._clock() + self._retry_s
        with self._changed:
            if len(self._waiting) >= self._waiting_max:
                raise Overloaded(
                    f"{len(self._waiting)} writes wait for a leader: retry in a moment"
                )
            operation = _Operation(next(self._numbers), command, deadline_s, future)
            self._open.add(operation.number)
            waits = not self._closed and bool(self._waiting or self._probe or self._releasing)
            if waits:
                self._park(operation)
        if not waits:
            try:
                attempt = self._replica.propose(command)
            except BaseException:
                with self._changed:
                    self._open.discard(operation.number)
                raise
            attempt.add_done_callback(lambda done: self._attempted(operation, done))
        return future

    def barrier(self) -> "Future[int]":
        """As `Replica.barrier`; it is not repeated."""
        return self._replica.barrier()

    def status(self) -> ReplicaStatus:
        """As `Replica.status`."""
        return self._replica.status()

    def compact(self, flushed_index: int) -> None:
        """As `Replica.compact`."""
        self._replica.compact(flushed_index)

    def close(self) -> None:
        """As `Replica.close`; what waits for a leader is not proposed any more."""
        with self._changed:
            self._closed = True
            left, self._waiting = self._waiting, []
            self._changed.notify_all()
        closed = ReplicaStopped("the replica takes no writes: it was closed")
        for operation in sorted(left):
            _fail(operation, closed)
        self._replica.close()
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join()

    def _attempted(self, operation: _Operation, done: "Future[Applied]") -> None:
        """An attempt has ended: pass the outcome on, or try again later."""
        error = done.exception()
        with self._changed:
            again = self._is_repeated(operation, done)
            if again:
                self._releasing = False
                self._park(operation)
            else:
                self._open.discard(operation.number)
            if self._probe is operation:
                self._probe = None
                self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX) if again else PAUSE_S_MIN
                self._next_s = self._clock() + self._pause_s
                self._releasing = not again and error is None
                self._changed.notify_all()
        if again:
            return
        if error is None:
            operation.future.set_result(done.result())
        else:
            _fail(operation, error)

    def _is_repeated(self, operation: _Operation, done: "Future[Applied]") -> bool:
        """Whether what an attempt met is met with another one; under the lock."""
        error = done.exception()
        operation.unknown |= isinstance(error, OutcomeUnknown)
        if error is None:
            if not self._is_early(done.result().result):
                return False
            again = not operation.early or any(one < operation.number for one in self._open)
            operation.early = True
        else:
            again = isinstance(error, NoLeader | OutcomeUnknown)
        return again and not self._closed and self._clock() < operation.deadline_s

    def _park(self, operation: _Operation) -> None:
        """Let an operation wait for the next attempt; under the lock."""
        if not self._waiting and self._probe is None:
            self._pause_s = PAUSE_S_MIN
            self._next_s = self._clock() + self._pause_s
        heapq.heappush(self._waiting, operation)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="retries", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        """Propose again what waits: one, and the others once that one has succeeded."""
        while True:
            with self._changed:
                if not self._due():
                    self._changed.wait(self._wait_s())
                if self._closed:
                    return
                late = self._take_late()
                turn = self._take_turn() if self._due() else []
            for operation in late:
                self._open.discard(operation.number)
                _fail(operation, NoLeader(f"no node led within {self._retry_s:g} s: retry later"))
            for operation in turn:
                self._attempt(operation)

    def _attempt(self, operation: _Operation) -> None:
        try:
            attempt = self._replica.propose(operation.command)
        except FeedsError as error:
            attempt = Future()
            attempt.set_exception(error)
        attempt.add_done_callback(lambda done: self._attempted(operation, done))

    def _due(self) -> bool:
        if self._closed or self._releasing:
            return True
        return bool(self._waiting) and self._probe is None and self._clock() >= self._next_s

    def _wait_s(self) -> float | None:
        if not self._waiting:
            return None
        return PAUSE_S_MAX if self._probe else max(self._next_s - self._clock(), 0.001)

    def _take_late(self) -> list[_Operation]:
        """Those whose time is up."""
        now = self._clock()
        late = sorted(one for one in self._waiting if one.deadline_s <= now)
        if late:
            self._waiting = [one for one in self._waiting if one.deadline_s > now]
            heapq.heapify(self._waiting)
        return late

    def _take_turn(self) -> list[_Operation]:
        """All where the first has succeeded, else the first alone."""
        if self._releasing:  # until none is left: what is proposed meanwhile comes behind
            turn, self._waiting = sorted(self._waiting), []
            self._releasing = bool(turn)
            return turn
        if not self._waiting:
            return []
        self._probe = heapq.heappop(self._waiting)
        return [self._probe]


def _fail(operation: _Operation, error: BaseException) -> None:
    if operation.unknown and not isinstance(error, OutcomeUnknown):
        what = (
            f"an earlier attempt may have taken effect, and then: {error}. Repeat it with its key"
        )
        error = OutcomeUnknown(what)
    operation.future.set_exception(error)
