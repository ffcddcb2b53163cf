"""The engine node's unix socket: it takes requests, and tells how far its store is.

It runs on the replica's event loop. What arrives in one turn is proposed in one turn, and what is
answered in one turn leaves in one write.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import structlog

from feeds.errors import FeedsError, InvalidInput, Overloaded, StorageError
from feeds.replication.base import Applied, LogPosition, ReplicaStatus
from feeds.replication.frames import FrameReader, frame
from feeds.replication.waiting import Done as Told
from feeds.socket_protocol import (
    PROTOCOL_VERSION,
    REQUEST_BYTES_MAX,
    AppliedUpTo,
    Barrier,
    Checkpoint,
    Done,
    Reply,
    Request,
    Status,
    Submit,
    Welcome,
    decode_request,
    encode,
    failed,
    outcome,
)

__all__ = ["ServedReplica", "SocketConfig", "SocketServer", "silence_s"]

_log = structlog.get_logger(__name__)
_READ_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketConfig:
    """The limits of the socket."""

    connections_max: int = 64
    """Processes that may be connected at once."""

    requests_max: int = 10_000
    """Requests of one connection that may be unanswered; another one is refused as overloaded."""

    unread_bytes_max: int = 64 * 1024 * 1024
    """Bytes of replies that may wait for a process that does not read; then it is hung up on."""

    frame_s_max: float = 3.0
    """Seconds in which a request that has begun must be here as a whole; then it is hung up on."""

    heartbeat_s: float = 0.1
    """Seconds after which everyone is told how far the store is, moved or not."""


class ServedReplica(Protocol):
    """What the server asks of a replica."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it and the server run on."""
        ...

    def submit_on_loop(self, command: bytes, done: Told) -> None:
        """Propose a command; `done` is called on the loop, once."""
        ...

    def watch(self, watcher: Callable[[ReplicaStatus], None]) -> None:
        """Call `watcher` on the loop when something was applied or the role changed."""
        ...

    def status(self) -> ReplicaStatus:
        """Where it stands."""
        ...


@dataclass(slots=True, eq=False)
class _Connection:
    writer: asyncio.StreamWriter
    open: int = 0
    replies: list[bytes] = field(default_factory=list)


class SocketServer:
    """Requests of this machine's processes. Everything runs on the replica's loop."""

    def __init__(
        self,
        replica: ServedReplica,
        welcome: Welcome,
        checkpoint: Callable[[Path], LogPosition],
        generation: Callable[[], int],
        config: SocketConfig | None = None,
    ) -> None:
        self._replica = replica
        self._welcome = Welcome(PROTOCOL_VERSION, welcome.node, welcome.cluster_id, welcome.store)
        self._checkpoint = checkpoint
        self._generation = generation
        self._config = config or SocketConfig()
        self._server: asyncio.Server | None = None
        self._path: Path | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flush_due = False
        self._beating: asyncio.Task[None] | None = None

    async def start(self, path: Path) -> None:
        """Listen at a path. A socket that nobody listens on any more is replaced.

        Raises `StorageError` where another process listens there, or the path cannot be used.
        """
        if _is_answered(path):
            raise StorageError(
                f"another process listens on {path}: stop it, or choose another socket"
            )
        try:
            _make_way(path)
            before = os.umask(0o177)
            try:
                self._server = await asyncio.start_unix_server(self._accept, str(path))
            finally:
                os.umask(before)
        except OSError as error:
            raise StorageError(
                f"the socket {path} cannot be used: {error}. Choose another one, with a path of "
                "at most 100 characters in a directory that can be written"
            ) from error
        self._path = path
        self._replica.watch(self._moved)
        self._beating = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        """Hang up on everyone."""
        if self._beating is not None:
            self._beating.cancel()
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        connection = _Connection(writer)
        if len(self._connections) >= self._config.connections_max:
            _log.warning("socket_full", connections=len(self._connections))
            writer.close()
            return
        self._connections.add(connection)
        try:
            await self._serve(reader, connection)
        except (OSError, InvalidInput, TimeoutError) as error:
            _log.warning(
                "socket_connection_failed",
                why=str(error)[:300] or "half a request, and then silence",
            )
        except asyncio.CancelledError:
            pass
        finally:
            self._connections.discard(connection)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        self._reply(connection, self._welcome)
        self._reply(connection, self._where(self._replica.status()))
        frames = FrameReader(REQUEST_BYTES_MAX)
        deadline_s: float | None = None
        while data := await _read(reader, deadline_s):
            contents = frames.feed(data)
            for content in contents:
                self._take(connection, decode_request(content))
            if not frames.waiting:
                deadline_s = None
            elif contents or deadline_s is None:
                deadline_s = self._replica.loop.time() + self._config.frame_s_max

    def _take(self, connection: _Connection, request: Request) -> None:
        if connection.open >= self._config.requests_max:
            what = f"{connection.open} requests of this connection are unanswered: retry later"
            self._reply(connection, failed(request.id, Overloaded(what)))
            return
        match request:
            case Submit(number, command):
                self._submit(connection, number, command)
            case Barrier(number):
                self._submit(connection, number, b"")
            case Status(number):
                self._reply(connection, Done(number, status=self._replica.status()))
            case Checkpoint(number, path):
                self._reply(connection, self._take_checkpoint(number, Path(path)))

    def _submit(self, connection: _Connection, number: int, command: bytes) -> None:
        connection.open += 1

        def done(told: Applied | FeedsError) -> None:
            connection.open -= 1
            self._reply(connection, outcome(number, told))

        self._replica.submit_on_loop(command, done)

    def _take_checkpoint(self, number: int, path: Path) -> Reply:
        try:
            position = self._checkpoint(path)
        except FeedsError as error:
            return failed(number, InvalidInput(str(error)))
        return Done(number, position.index, position.term)

    def _where(self, status: ReplicaStatus) -> AppliedUpTo:
        return AppliedUpTo(
            status.applied_index,
            status.commit_index,
            self._generation(),
            status.term,
            silence_s(status),
        )

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._config.heartbeat_s)
            self._moved(self._replica.status())

    def _moved(self, status: ReplicaStatus) -> None:
        """Tell everyone how far the store is: at most once a turn."""
        if self._connections:
            said = frame(encode(self._where(status)))
            for connection in self._connections:
                connection.replies.append(said)
            self._flush_soon()

    def _reply(self, connection: _Connection, reply: Reply) -> None:
        connection.replies.append(frame(encode(reply)))
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._replica.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        for connection in self._connections:
            if connection.replies:
                data = b"".join(connection.replies)
                connection.replies.clear()
                transport = connection.writer.transport
                if transport.get_write_buffer_size() > self._config.unread_bytes_max:
                    _log.warning("socket_hung_up", why="it does not read its replies")
                    transport.abort()
                elif not transport.is_closing():
                    connection.writer.write(data)


async def _read(reader: asyncio.StreamReader, deadline_s: float | None) -> bytes:
    """What comes next; empty at the end. Raises `TimeoutError` after a time of the loop's clock."""
    if deadline_s is None:
        return await reader.read(_READ_BYTES)
    async with asyncio.timeout_at(deadline_s):
        return await reader.read(_READ_BYTES)


def silence_s(status: ReplicaStatus) -> float | None:
    """Seconds since a follower heard its leader, or a leader so many that they are a majority.

    None where it is not known whether `commit_index` is still the cluster's.
    """
    silences = {peer.node: peer.silent_s for peer in status.peers}
    if status.role == "leader":
        needed = (len(silences) + 1) // 2
        heard = sorted(silent_s for silent_s in silences.values() if silent_s is not None)
        if len(heard) < needed:
            return None
        return heard[needed - 1] if needed else 0.0
    return silences.get(status.leader or "") if status.role == "follower" else None


def _make_way(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)


def _is_answered(path: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
