"""A replica in a cluster: a member, its connections and its snapshots, on a thread of their own.

The thread runs an event loop. Whatever arrives in one turn of it (messages, proposals) is handed to
the member first, and then the member ticks once: so many entries share a write, a sync and a
message, without anyone waiting for a batch to fill.
"""

import asyncio
import shutil
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from random import Random
from threading import Thread, current_thread
from time import monotonic
from typing import Final, Self, TypeVar

import msgspec
import structlog

from feeds.errors import (
    FeedsError,
    InvalidInput,
    LimitExceeded,
    Overloaded,
    ReplicaStopped,
    SnapshotDamaged,
)
from feeds.replication.base import Applied, ApplyCommand, LogPosition, ReplicaStatus
from feeds.replication.config import ClusterConfig
from feeds.replication.connection import Connection
from feeds.replication.disk_space import DiskSpace
from feeds.replication.event_loop import new_event_loop
from feeds.replication.journal import Journal
from feeds.replication.member import Member
from feeds.replication.messages import Message
from feeds.replication.segment import PendingSync
from feeds.replication.snapshots import (
    Chunk,
    Manifest,
    SnapshotReceiver,
    SnapshotSource,
    begin_install,
    chunks,
    describe,
    finish_install,
)
from feeds.replication.sync_thread import SyncThread
from feeds.replication.transport import Listener, Transport
from feeds.replication.waiting import Done

__all__ = ["ClusterReplica"]

_log = structlog.get_logger(__name__)

START_S_MAX: Final = 30.0
_SENDING: Final = "snapshot.out"
_Value = TypeVar("_Value")


class ClusterReplica:
    """A `Replica` with peers. Proposals may come from any thread, to any node.

    Futures and callbacks are completed on the replica's thread: a slow one delays every write.
    """

    def __init__(
        self,
        data: Path,
        journal: Journal,
        apply: ApplyCommand,
        applied: LogPosition,
        config: ClusterConfig,
        source: SnapshotSource | None,
        on_joined: Callable[[], None],
        commit: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        # Use `ClusterReplica.open`.
        self.loop = loop
        """The event loop of the replica's thread."""
        self._data = data
        self._config = config
        self._source = source
        self._journal = journal
        self._syncs = SyncThread(self._sync_has_run)
        transport = config.transport
        self._member = Member(
            node=transport.node,
            peers=[node for node in transport.nodes if node != transport.node],
            journal=journal,
            apply=apply,
            applied=applied,
            send=self._send,
            clock=monotonic,
            random=Random(),  # noqa: S311 - election timeouts are no secrets
            config=config.member,
            joining=transport.joining,
            on_joined=on_joined,
            commit=commit,
            run_sync=self._syncs.run,
        )
        listener = Listener(
            self._received, self._connected, self._disconnected, self._take_snapshot
        )
        self._transport = Transport(transport, listener, Random())  # noqa: S311 - as above
        self._proposed: deque[tuple[bytes, Done]] = deque()
        self._turn_due = False
        self._news_due = False
        self._waking = False
        self._closing = False
        self._ended: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._watchers: tuple[Callable[[], None], ...] = ()
        self._snapshots: set[asyncio.Task[None]] = set()
        self._receiving = False
        self._thread = Thread(target=self._run, name="replica", daemon=True)

    @classmethod
    def open(
        cls,
        data: Path,
        apply: ApplyCommand,
        applied: LogPosition,
        config: ClusterConfig,
        source: SnapshotSource | None = None,
        on_joined: Callable[[], None] = lambda: None,
        commit: Callable[[], None] = lambda: None,
    ) -> Self:
        """Open the log in `data` behind a store that has applied up to `applied`, and take part.

        `commit` follows `apply` after some commands; then their proposers are told.

        Raises `LogDamaged`, `ClusterMismatch` or another `StorageError`, and OSError where the
        node's address cannot be listened on.
        """
        space = DiskSpace.of([data / "log", data], config.disk_reserve_bytes)
        journal = Journal.open(data / "log", applied, config.log, space=space)
        loop = new_event_loop()
        try:
            replica = cls(data, journal, apply, applied, config, source, on_joined, commit, loop)
            started: Future[None] = Future()
            replica._thread.start()
            asyncio.run_coroutine_threadsafe(replica._start(), loop).add_done_callback(
                lambda done: _pass_on(done, started)
            )
            started.result(START_S_MAX)
        except BaseException:
            loop.call_soon_threadsafe(loop.stop)
            journal.close()
            raise
        return replica

    def propose(self, command: bytes) -> "Future[Applied]":
        """Queue a command; the future is done once it is durable on a majority, and applied.

        At a follower it is applied where the leader is; here it is soon. Raises `Overloaded` and
        `LimitExceeded` at once.
        """
        if len(self._proposed) >= self._config.member.proposals_max:
            raise Overloaded(f"{len(self._proposed)} commands wait: retry in a moment")
        if len(command) > self._config.member.record_bytes_max:
            raise LimitExceeded(
                f"a command of {len(command)} bytes is above record_bytes_max "
                f"({self._config.member.record_bytes_max}): send less at once"
            )
        future: Future[Applied] = Future()
        future.set_running_or_notify_cancel()
        self._propose(command, lambda outcome: _settle(future, outcome))
        return future

    def barrier(self) -> "Future[int]":
        """An index at or below which lies every write that was acknowledged before this call."""
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()

        def found(outcome: Applied | FeedsError) -> None:
            _settle(future, outcome.index if isinstance(outcome, Applied) else outcome)

        self._propose(b"", found)
        return future

    def submit_on_loop(self, command: bytes, done: Done) -> None:
        """As `propose`, on the replica's own thread, and `done` is called there."""
        self._member.submit(command, done)
        self._turn_soon()

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call `watcher` on the replica's thread when something was applied or the role changed."""
        self._watchers = (*self._watchers, watcher)

    def ask_before_writes(self, before_write: Callable[[], bytes | None]) -> None:
        """Ask, while this node leads, what the log must hold before the commands written next."""
        self._member.before_write = before_write

    @property
    def leads(self) -> bool:
        """Whether this node leads, as far as it knows."""
        return self._member.leads

    def status(self) -> ReplicaStatus:
        """Where this replica stands."""
        return self._member.status()

    def compact(self, flushed_index: int) -> None:
        """Drop the log that neither the store nor a peer needs. Raises OSError."""
        if current_thread() is self._thread:
            self._member.compact(flushed_index)
        elif self.loop.is_running():
            self.loop.call_soon_threadsafe(self._member.compact, flushed_index)

    def close(self) -> None:
        """Finish what was proposed, let another node lead, and stop; twice is harmless."""
        if self._thread.is_alive() and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._begin_close)
            if current_thread() is not self._thread:
                self._thread.join()

    # The loop.

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self._syncs.close(self._config.close_s_max)
            self._journal.close()
            self.loop.close()

    def _sync_has_run(self, pending: PendingSync) -> None:
        self.loop.call_soon_threadsafe(self._synced, pending)

    def _synced(self, pending: PendingSync) -> None:
        try:
            self._member.synced(pending)
        except Exception as error:  # noqa: BLE001 - as in `_turn`
            self._fail(error)
        self._turn()

    async def _start(self) -> None:
        await self._transport.start()
        self._ended = asyncio.Event()
        self._timer()
        self._turn_soon()

    def _timer(self) -> None:
        if not self._closing or self._member.status().role != "stopped":
            self._turn_soon()
            self.loop.call_later(self._config.tick_s, self._timer)

    def _propose(self, command: bytes, done: Done) -> None:
        self._proposed.append((command, done))
        if not self._waking:
            self._waking = True
            try:
                self.loop.call_soon_threadsafe(self._turn)
            except RuntimeError:  # the loop is closed
                self._refuse_proposed()

    def _turn_soon(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Hand on what was proposed, and let the member go on."""
        self._turn_due = self._waking = False
        member = self._member
        before = member.status_key
        while self._proposed:
            member.submit(*self._proposed.popleft())
        try:
            member.tick()
            for peer in member.snapshot_wanted() if self._source is not None else ():
                self._send_snapshot_soon(peer)
        except Exception as error:  # noqa: BLE001 - whatever it was: this node must not go on
            self._fail(error)
        if member.status_key != before:
            self._tell_watchers()
        if member.busy:
            self._turn_soon()
        elif member.owes_news and not self._news_due:
            self._news_due = True
            self.loop.call_later(self._config.member.consensus.commit_news_s, self._tell_news)
        if self._closing and not member.waiting:
            self._end()

    def _tell_news(self) -> None:
        self._news_due = False
        self._turn_soon()

    def _tell_watchers(self) -> None:
        for watcher in self._watchers:
            try:
                watcher()
            except Exception:  # noqa: BLE001 - a watcher must not stop the log
                _log.exception("watcher_failed")

    def _fail(self, error: Exception) -> None:
        """Take part no more: what happened cannot be mended while the process runs."""
        if self._failure is not None:
            return
        self._failure = error
        _log.error("replica_stopped", why=f"{type(error).__name__}: {error}", exc_info=error)
        stopped = ReplicaStopped(
            f"the replica takes no writes: {error}. Reads go on; restart to write again. A write "
            "under way may be there then: repeat it with its key"
        )
        stopped.__cause__ = error
        self._member.stop(stopped)

    def _begin_close(self) -> None:
        if not self._closing:
            self._closing = True
            self._turn()
            self.loop.call_later(self._config.close_s_max, self._end)

    def _end(self) -> None:
        if self._ended is None or self._ended.is_set():
            return
        self._ended.set()
        if self._failure is None:
            self._member.transfer()
        self._member.stop(ReplicaStopped("the replica takes no writes: it was closed"))
        self._refuse_proposed()
        task = self.loop.create_task(self._hang_up())
        task.add_done_callback(lambda _: self.loop.stop())

    async def _hang_up(self) -> None:
        await asyncio.sleep(0)  # so that what was sent last leaves
        for task in self._snapshots:
            task.cancel()
        await asyncio.gather(*self._snapshots, return_exceptions=True)
        await self._transport.stop()

    def _refuse_proposed(self) -> None:
        while self._proposed:
            _, done = self._proposed.popleft()
            done(ReplicaStopped("the replica takes no writes: it was closed"))

    # Peers.

    def _send(self, peer: str, message: Message) -> None:
        self._transport.send(peer, message)

    def _received(self, peer: str, messages: list[Message]) -> None:
        try:
            for message in messages:
                self._member.receive(peer, message)
        except Exception as error:  # noqa: BLE001 - as in `_turn`
            self._fail(error)
        self._turn_soon()

    def _connected(self, peer: str, anew: bool) -> None:
        _log.info("peer_connected", peer=peer)
        self._member.connected(peer, anew=anew)
        self._turn_soon()

    def _disconnected(self, peer: str) -> None:
        _log.info("peer_disconnected", peer=peer)
        self._member.disconnected(peer)

    # Snapshots.

    def _send_snapshot_soon(self, peer: str) -> None:
        self._member.snapshot_started(peer)
        task = self.loop.create_task(self._send_snapshot(peer))
        self._snapshots.add(task)
        task.add_done_callback(self._snapshots.discard)

    async def _send_snapshot(self, peer: str) -> None:
        position = None
        out = self._data / f"{_SENDING}.{peer}"
        try:
            position = await self._stream_snapshot(peer, out)
        except (OSError, FeedsError, TimeoutError) as error:
            _log.warning("snapshot_failed", peer=peer, why=str(error))
        finally:
            shutil.rmtree(out, ignore_errors=True)
            self._member.snapshot_ended(peer, position)
            self._turn_soon()

    async def _stream_snapshot(self, peer: str, out: Path) -> LogPosition:
        source = self._source
        assert source is not None
        shutil.rmtree(out, ignore_errors=True)
        connection = await self._transport.dial_snapshot(peer)
        try:
            position = source.checkpoint(out)
            manifest = await asyncio.to_thread(describe, out, position)
            _log.info("snapshot_sent", peer=peer, index=position.index, bytes=manifest.bytes)
            await connection.write(msgspec.msgpack.encode(manifest))
            for chunk in chunks(out, manifest):
                async with asyncio.timeout(self._config.snapshot_silence_s_max):
                    await connection.write(msgspec.msgpack.encode(chunk))
            async with asyncio.timeout(self._config.snapshot_silence_s_max):
                answer = await connection.read()
            if answer != b"ok":
                raise SnapshotDamaged(
                    f"{peer} did not take it: {(answer or b'it hung up')[:300]!r}"
                )
        finally:
            await connection.close()
        return position

    async def _take_snapshot(self, peer: str, connection: Connection) -> None:
        """Receive a snapshot and put it in the store's place; the answer says how it went."""
        if self._receiving or self._source is None:
            await connection.write(b"another one is coming in")
            return
        self._receiving = True
        try:
            answer = await self._receive_snapshot(peer, connection)
        except (FeedsError, msgspec.DecodeError) as error:
            answer = str(error)[:300]
            _log.warning("snapshot_refused", peer=peer, why=answer)
        finally:
            self._receiving = False
        await connection.write(answer.encode())
        self._turn_soon()

    async def _receive_snapshot(self, peer: str, connection: Connection) -> str:
        manifest = msgspec.msgpack.decode(await self._piece(connection), type=Manifest)
        if not self._member.may_install(manifest.position):
            return "ok"  # what it brings is here
        receiver = SnapshotReceiver(self._data, manifest)
        try:
            left = manifest.bytes
            while left > 0:
                chunk = msgspec.msgpack.decode(await self._piece(connection), type=Chunk)
                receiver.add(chunk)
                left -= len(chunk.data)
            await asyncio.to_thread(receiver.finish)
        finally:
            receiver.abandon()
        if self._member.may_install(manifest.position):
            self._install(manifest.position)
            _log.info("snapshot_installed", peer=peer, index=manifest.index, bytes=manifest.bytes)
        return "ok"

    async def _piece(self, connection: Connection) -> bytes:
        async with asyncio.timeout(self._config.snapshot_silence_s_max):
            piece = await connection.read()
        if piece is None:
            raise SnapshotDamaged("a snapshot was cut off: it is sent anew")
        return piece

    def _install(self, position: LogPosition) -> None:
        """On the loop, so between two commands; whatever goes wrong here ends at the next start."""
        source = self._source
        assert source is not None
        try:
            source.close_store()
            begin_install(self._data)
            _check_position(position, source.open_store())
            self._member.installed(position)
            finish_install(self._data)
        except Exception as error:
            self._fail(error)
            raise InvalidInput(f"the snapshot could not be put in place: {error}") from error


def _check_position(said: LogPosition, found: LogPosition) -> None:
    if found != said:
        raise SnapshotDamaged(f"a snapshot said that it is at {said}, and is at {found}")


def _pass_on(done: "Future[None]", started: "Future[None]") -> None:
    error = done.exception()
    if error is None:
        started.set_result(None)
    else:
        started.set_exception(error)


def _settle(future: "Future[_Value]", outcome: _Value | FeedsError) -> None:
    if isinstance(outcome, FeedsError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
