"""A feed engine beside an engine node: it reads the node's store, and writes through the node.

The store is a RocksDB secondary that catches up whenever the node says that it has moved. A write's
future is done once this process sees its effects.
"""

import contextlib
import heapq
import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final

import structlog

from feeds.client import EngineClient
from feeds.config import FeedsConfig
from feeds.engine import FeedEngine, system_clock_us
from feeds.errors import FeedsError, NoLeader, OutcomeUnknown, StaleRead, StorageError
from feeds.replication.base import Applied, ReplicaStatus
from feeds.socket_protocol import AppliedUpTo
from feeds.state import applied_position
from feeds.store.rocks import RocksConfig, RocksStore

__all__ = ["FollowedStore", "RemoteReplica", "open_remote"]

_log = structlog.get_logger(__name__)

RETRY_S: Final = 10.0
"""Seconds for which a write is repeated while its outcome is not known."""

VISIBLE_S_MAX: Final = 5.0
"""Seconds that the answer to a write waits until its effects are seen here; then it is told."""

_POLL_S: Final = 0.1


class FollowedStore:
    """A `View` of a node's store, as of the last `catch_up`; any thread may read.

    Where a snapshot takes the store's place, the view moves to the new one; reads under way end on
    the old one, which is closed when the next takes its place.
    """

    def __init__(self, path: Path, scratch: Path, config: RocksConfig | None = None) -> None:
        """Open the store at `path`; `scratch` is an empty directory. Raises `StorageError`."""
        self._path = path
        self._scratch = scratch
        self._config = config
        self._numbers = itertools.count()
        self._before: RocksStore | None = None
        self._store = self._open()

    def get(self, family: str, key: bytes) -> bytes | None:
        """As `View.get`."""
        return self._store.get(family, key)

    def get_many(self, family: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `View.get_many`."""
        return self._store.get_many(family, keys)

    def scan(
        self, family: str, start: bytes, stop: bytes, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """As `View.scan`."""
        return self._store.scan(family, start, stop, limit)

    def catch_up(self) -> int:
        """See what the node has written since; the log index of the last command in it."""
        self._store.catch_up()
        return applied_position(self._store).index

    def reopen(self) -> None:
        """Move to the store that lies there now."""
        opened = self._open()
        if self._before is not None:
            self._before.close()
        self._before, self._store = self._store, opened

    def close(self) -> None:
        """Let go of it; twice is harmless."""
        if self._before is not None:
            self._before.close()
        self._store.close()

    def _open(self) -> RocksStore:
        notes = self._scratch / str(next(self._numbers))
        notes.mkdir()
        return RocksStore.open_secondary(self._path, notes, self._config)


class RemoteReplica:
    """A `Replica` behind a node's socket, beside a followed store. Threads may share it.

    One thread catches the store up, and completes the futures of writes that are seen there.
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
        self._unseen: list[tuple[int, int, float, Applied, Future[Applied]]] = []
        self._told: AppliedUpTo | None = None
        self._generation: int | None = None
        self._applied_index = store.catch_up()
        self._closed = False
        self._thread = threading.Thread(target=self._follow, name="store-follower", daemon=True)
        self._thread.start()
        client.watch(self._moved)
        if client.where is not None:
            self._moved(client.where)

    @property
    def applied_index(self) -> int:
        """The log index that the followed store is at."""
        return self._applied_index

    def propose(self, command: bytes) -> "Future[Applied]":
        """As `Replica.propose`; done once the followed store has the effects."""
        future: Future[Applied] = Future()
        future.set_running_or_notify_cancel()
        self._client.propose(command).add_done_callback(lambda done: self._answered(done, future))
        return future

    def barrier(self) -> "Future[int]":
        """As `Replica.barrier`; `wait_applied` tells when the followed store is there."""
        return self._client.barrier()

    def wait_applied(self, index: int, seconds: float) -> bool:
        """Wait until the followed store is at `index`; whether it is."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._closed or self._applied_index >= index, seconds
            ) and (self._applied_index >= index)

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
        with self._changed:
            seen = applied.index <= self._applied_index or self._closed
            if not seen:
                late_s = self._clock() + VISIBLE_S_MAX
                unseen = (applied.index, next(self._numbers), late_s, applied, future)
                heapq.heappush(self._unseen, unseen)
        if seen:
            future.set_result(applied)

    def _moved(self, where: AppliedUpTo) -> None:
        """The node says how far its store is; on the client's thread."""
        with self._changed:
            self._told = where
            self._changed.notify_all()

    def _follow(self) -> None:
        while True:
            with self._changed:
                if self._told is None and not self._closed:
                    self._changed.wait(_POLL_S)
                told, self._told = self._told, None
            if told is not None:
                self._catch_up(told)
            for applied, future in self._take_seen():
                future.set_result(applied)
            if self._closed and not self._unseen:
                return

    def _catch_up(self, told: AppliedUpTo) -> None:
        try:
            if self._generation not in {None, told.generation}:
                self._store.reopen()
            self._generation = told.generation
            index = self._store.catch_up()
            if index < told.index:  # what the node has applied must be seen: it is another store
                self._store.reopen()
                index = self._store.catch_up()
        except StorageError as error:  # the next word of the node is the next attempt
            _log.warning("catch_up_failed", why=str(error))
            return
        with self._changed:
            self._applied_index = index
            self._changed.notify_all()

    def _take_seen(self) -> "list[tuple[Applied, Future[Applied]]]":
        """Those that are seen here, in log order; those that waited for too long are told too."""
        now, seen = self._clock(), []
        with self._changed:
            while self._unseen and (
                self._closed
                or self._unseen[0][0] <= self._applied_index
                or self._unseen[0][2] <= now
            ):
                _, _, _, applied, future = heapq.heappop(self._unseen)
                seen.append((applied, future))
        return seen


@contextlib.contextmanager
def open_remote(
    socket: Path,
    config: FeedsConfig | None = None,
    clock: Callable[[], int] = system_clock_us,
    wait_s: float = 10.0,
) -> Iterator[FeedEngine]:
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
        yield stack.enter_context(FeedEngine(store, replica, config, clock))


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
