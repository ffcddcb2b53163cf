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
from typing import Protocol

import structlog

from feeds.errors import FeedsError, InvalidInput, Overloaded, StorageError
from feeds.replication.base import Applied, LogPosition, ReplicaStatus
from feeds.replication.connection import Connection
from feeds.replication.frames import frame
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

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call `watcher` on the loop when something was applied or the role changed."""
        ...

    def status(self) -> ReplicaStatus:
        """Where it stands."""
        ...


@dataclass(slots=True, eq=False)
class _Client:
    connection: Connection
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
        self._clients: set[_Client] = set()
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
                self._server = await self._replica.loop.create_unix_server(
                    self._new_connection, str(path)
                )
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

    def _new_connection(self) -> Connection:
        return Connection(REQUEST_BYTES_MAX, self._config.frame_s_max, self._accept)

    def _accept(self, connection: Connection) -> None:
        task = self._replica.loop.create_task(self._serve(_Client(connection)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: _Client) -> None:
        if len(self._clients) >= self._config.connections_max:
            _log.warning("socket_full", connections=len(self._clients))
            client.connection.transport.close()
            return
        self._clients.add(client)
        try:
            self._reply(client, self._welcome)
            self._reply(client, self._where())
            await client.connection.listen(lambda contents: self._received(client, contents))
        except (OSError, InvalidInput) as error:
            _log.warning("socket_connection_failed", why=str(error)[:300])
        except asyncio.CancelledError:
            pass
        finally:
            self._clients.discard(client)
            client.connection.transport.close()

    def _received(self, client: _Client, contents: list[bytes]) -> None:
        for content in contents:
            self._take(client, decode_request(content))

    def _take(self, client: _Client, request: Request) -> None:
        if client.open >= self._config.requests_max:
            what = f"{client.open} requests of this connection are unanswered: retry later"
            self._reply(client, failed(request.id, Overloaded(what)))
            return
        match request:
            case Submit(number, command):
                self._submit(client, number, command)
            case Barrier(number):
                self._submit(client, number, b"")
            case Status(number):
                self._reply(client, Done(number, status=self._replica.status()))
            case Checkpoint(number, path):
                self._reply(client, self._take_checkpoint(number, Path(path)))

    def _submit(self, client: _Client, number: int, command: bytes) -> None:
        client.open += 1

        def done(told: Applied | FeedsError) -> None:
            client.open -= 1
            self._reply(client, outcome(number, told))

        self._replica.submit_on_loop(command, done)

    def _take_checkpoint(self, number: int, path: Path) -> Reply:
        try:
            position = self._checkpoint(path)
        except FeedsError as error:
            return failed(number, InvalidInput(str(error)))
        return Done(number, position.index, position.term)

    def _where(self) -> AppliedUpTo:
        status = self._replica.status()
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
            self._moved()

    def _moved(self) -> None:
        """Tell everyone how far the store is: at most once a turn."""
        if self._clients:
            said = frame(encode(self._where()))
            for client in self._clients:
                client.replies.append(said)
            self._flush()  # what was answered in this turn leaves with it

    def _reply(self, client: _Client, reply: Reply) -> None:
        client.replies.append(frame(encode(reply)))
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._replica.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        for client in self._clients:
            if client.replies:
                data = b"".join(client.replies)
                client.replies.clear()
                transport = client.connection.transport
                if transport.get_write_buffer_size() > self._config.unread_bytes_max:
                    _log.warning("socket_hung_up", why="it does not read its replies")
                    transport.abort()
                elif not transport.is_closing():
                    transport.write(data)


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
