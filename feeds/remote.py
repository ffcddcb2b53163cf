"""A feed engine beside an engine node: it reads the node's store, and writes through the node.

The store is a RocksDB secondary that catches up whenever the node says that it has moved. A write's
future is done once this process sees its effects. How far behind the store may be is known too: the
node says ten times a second what was committed, and when it last heard so.
"""

import contextlib
import heapq
import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from feeds.change_journal import FollowedChanges, Gap, Listener
from feeds.client import EngineClient
from feeds.config import FeedsConfig
from feeds.engine import FeedEngine, system_clock_us
from feeds.errors import FeedsError, NoLeader, OutcomeUnknown, StaleRead, StorageError
from feeds.followed_store import FollowedStore
from feeds.replication.base import Applied, LogPosition, ReplicaStatus
from feeds.socket_protocol import AppliedUpTo
from feeds.store.rocks import RocksConfig

__all__ = ["Beside", "RemoteReplica", "open_beside", "open_remote"]

_log = structlog.get_logger(__name__)

RETRY_S: Final = 10.0
"""Seconds for which a write is repeated while its outcome is not known."""

VISIBLE_S_MAX: Final = 5.0
"""Seconds that the answer to a write waits until its effects are seen here; then it is told."""

_POLL_S: Final = 0.1


@dataclass(order=True, slots=True)
class _Waiter:
    """Someone who waits until an index is seen; `settle` is told whether it is."""

    index: int
    number: int
    deadline_s: float = field(compare=False)
    settle: Callable[[bool], None] = field(compare=False)


class _Level(NamedTuple):
    """A store that has applied this much held all that was committed at `at_s`."""

    position: LogPosition
    at_s: float


class RemoteReplica:
    """A `Replica` behind a node's socket, beside a followed store. Threads may share it.

    One thread catches the store up, tells what changed, and only then completes the futures of
    writes that are seen there.
    """

    def __init__(
        self,
        client: EngineClient,
        store: FollowedStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._store = store
        self._clock = clock
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._waiting: list[_Waiter] = []
        self._look_s = clock()
        self._told: tuple[AppliedUpTo, float] | None = None
        self._generation: int | None = None
        self._behind: _Level | None = None
        self._level_s = float("-inf")
        self._applied_index = store.catch_up().index
        self._changes = FollowedChanges(store)
        self._closed = False
        self._thread = threading.Thread(target=self._follow, name="store-follower", daemon=True)
        self._thread.start()
        client.watch(self._moved)
        if client.where is not None:
            self._moved(client.where)

    @property
    def applied_index(self) -> int:
        """The log index that the followed store is at, and that every listener was told of."""
        return self._applied_index

    @property
    def lag_s(self) -> float:
        """Seconds since the followed store was last known to hold all that was committed.

        Infinite until it is known the first time.
        """
        return self._clock() - self._level_s

    def subscribe(self, listener: Listener, gap: Gap) -> None:
        """As `FollowedChanges.subscribe`; called on the thread that catches up."""
        self._changes.subscribe(listener, gap)

    def propose(self, command: bytes) -> "Future[Applied]":
        """As `Replica.propose`; done once the followed store has the effects."""
        future: Future[Applied] = Future()
        future.set_running_or_notify_cancel()
        self._client.propose(command).add_done_callback(lambda done: self._answered(done, future))
        return future

    def barrier(self) -> "Future[int]":
        """As `Replica.barrier`; `seen` tells when the followed store is there."""
        return self._client.barrier()

    def seen(self, index: int, seconds: float) -> "Future[bool]":
        """Done once the followed store is at `index`, or after `seconds`: whether it is."""
        future: Future[bool] = Future()
        future.set_running_or_notify_cancel()
        self._wait(index, seconds, future.set_result)
        return future

    def wait_applied(self, index: int, seconds: float) -> bool:
        """Wait until the followed store is at `index`; whether it is."""
        return self.seen(index, seconds).result()

    def status(self) -> ReplicaStatus:
        """As `Replica.status`, of the node."""
        return self._client.status()

    def compact(self, flushed_index: int) -> None:
        """The node does that by itself."""

    def close(self) -> None:
        """Hang up; the followed store stays open. Twice is harmless."""
        self._client.close()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _answered(self, done: "Future[Applied]", future: "Future[Applied]") -> None:
        error = done.exception()
        if error is not None:
            future.set_exception(error)
            return
        applied = done.result()
        # Told late is better than not: it is durable, whether it is seen here or not.
        self._wait(applied.index, VISIBLE_S_MAX, lambda _: future.set_result(applied))

    def _wait(self, index: int, seconds: float, settle: Callable[[bool], None]) -> None:
        with self._changed:
            seen = index <= self._applied_index
            closed = self._closed
            if not seen and not closed:
                late_s = self._clock() + seconds
                heapq.heappush(self._waiting, _Waiter(index, next(self._numbers), late_s, settle))
        if seen or closed:
            settle(seen)

    def _moved(self, where: AppliedUpTo) -> None:
        """The node says how far its store is; on the client's thread."""
        with self._changed:
            self._told = where, self._clock()
            self._changed.notify_all()

    def _follow(self) -> None:
        while True:
            with self._changed:
                if self._told is None and not self._closed:
                    self._changed.wait(_POLL_S)
                told, self._told = self._told, None
            if told is not None:
                self._catch_up(*told)
            for waiter, seen in self._take_done():
                waiter.settle(seen)
            if self._closed and not self._waiting:
                return

    def _catch_up(self, told: AppliedUpTo, heard_s: float) -> None:
        try:
            if self._generation != told.generation:  # the first too: it may have restarted since
                self._store.reopen()
                self._generation = told.generation
            position = self._store.catch_up()
            if position.index < told.index:  # what the node has must be seen: it is another store
                self._store.reopen()
                position = self._store.catch_up()
            self._changes.advance()
        except StorageError as error:  # the next word of the node is the next attempt
            _log.warning("catch_up_failed", why=str(error))
            return
        self._note_level(told, heard_s, position)
        with self._changed:
            self._applied_index = position.index
            self._changed.notify_all()

    def _note_level(self, told: AppliedUpTo, heard_s: float, position: LogPosition) -> None:
        """Learn since when the store has been level with what was committed.

        What a leader of the term has committed holds all that was acknowledged before, once its
        own first entry is applied: then the store's term is the leader's.
        """
        for known in (self._behind, _level_of(told, heard_s)):
            if known is None:
                continue
            if _holds(position, known.position):
                self._level_s = max(self._level_s, known.at_s)
                self._behind = None
            elif self._behind is None:
                self._behind = known

    def _take_done(self) -> list[tuple[_Waiter, bool]]:
        """Those whose index is seen, in log order, and those who have waited for too long."""
        done: list[tuple[_Waiter, bool]] = []
        now = self._clock()
        with self._changed:
            while self._waiting and (self._waiting[0].index <= self._applied_index):
                done.append((heapq.heappop(self._waiting), True))
            if now >= self._look_s or self._closed:
                self._look_s = now + _POLL_S
                late = [one for one in self._waiting if one.deadline_s <= now or self._closed]
                if late:
                    left = [one for one in self._waiting if one not in late]
                    heapq.heapify(left)
                    self._waiting = left
                    done += [(waiter, False) for waiter in sorted(late)]
        return done


def _level_of(told: AppliedUpTo, heard_s: float) -> _Level | None:
    if told.silent_s is None:
        return None
    return _Level(LogPosition(told.commit_index, told.term), heard_s - told.silent_s)


def _holds(position: LogPosition, committed: LogPosition) -> bool:
    return position.index >= committed.index and position.term >= committed.term


@dataclass(frozen=True, slots=True)
class Beside:
    """An engine beside a node, and what follows the node for it; closed with the engine."""

    engine: FeedEngine
    replica: RemoteReplica


def open_beside(
    socket: Path,
    config: FeedsConfig | None = None,
    clock: Callable[[], int] = system_clock_us,
    wait_s: float = 10.0,
) -> Beside:
    """An engine beside the node that listens on `socket`, which has seen every write until now.

    Raises `StorageError` where the node does not answer in `wait_s`, `NoLeader` where none leads,
    and `StaleRead` where the node does not catch up.
    """
    config = config or FeedsConfig(retry_s=RETRY_S)
    rocks = RocksConfig(
        block_cache_bytes=config.block_cache_bytes, write_buffer_bytes=config.write_buffer_bytes
    )
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-follower-"))
        client = EngineClient.connect(socket, wait_s)
        stack.callback(client.close)
        welcome = client.welcome
        if welcome is None:
            raise StorageError(f"the engine on {socket} hung up: see its log")
        store = FollowedStore(Path(welcome.store), Path(scratch), rocks)
        stack.callback(store.close)
        replica = RemoteReplica(client, store)
        stack.callback(replica.close)
        _catch_up(replica, wait_s)
        opened = contextlib.ExitStack()
        engine = FeedEngine(store, replica, config, clock, changes=replica, release=opened.close)
        opened.push(stack.pop_all())
        return Beside(engine, replica)


@contextlib.contextmanager
def open_remote(
    socket: Path,
    config: FeedsConfig | None = None,
    clock: Callable[[], int] = system_clock_us,
    wait_s: float = 10.0,
) -> Iterator[FeedEngine]:
    """As `open_beside`, while the block lasts."""
    with open_beside(socket, config, clock, wait_s).engine as engine:
        yield engine


def _catch_up(replica: RemoteReplica, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            index = replica.barrier().result()
            break
        except (NoLeader, OutcomeUnknown) as error:
            if time.monotonic() > deadline:
                raise _unled(error) from error
            time.sleep(_POLL_S)
    if not replica.wait_applied(index, max(deadline - time.monotonic(), _POLL_S)):
        raise StaleRead(
            f"the node has applied {replica.applied_index} of {index} commands: look at it with "
            "`headwater cluster status`, or ask another node"
        )


def _unled(error: FeedsError) -> NoLeader:
    return NoLeader(f"{error}. Look at the nodes with `headwater cluster status`")
