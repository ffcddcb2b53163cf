"""A client of an engine node: a `Replica` over the node's unix socket.

Any thread may propose. One thread reads the replies, completes the futures, and connects again when
the connection is lost; what was sent and not answered then is `OutcomeUnknown`.
"""

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread, current_thread
from typing import Final, TypeVar

import structlog

from feeds.errors import (
    FeedsError,
    InvalidInput,
    LimitExceeded,
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    ReplicaStopped,
    StorageError,
)
from feeds.replication.base import Applied, LogPosition, ReplicaStatus
from feeds.replication.frames import HEADER_BYTES, FrameReader, frame
from feeds.socket_protocol import (
    PROTOCOL_VERSION,
    REQUEST_BYTES_MAX,
    AppliedUpTo,
    Barrier,
    Checkpoint,
    Done,
    Failed,
    Request,
    Status,
    Submit,
    Welcome,
    decode_reply,
    encode,
    error_of,
)

__all__ = ["EngineClient", "Moved"]

_log = structlog.get_logger(__name__)

Moved = Callable[[AppliedUpTo], None]
"""Told how far the node's store is; on the client's thread."""

_READ_BYTES: Final = 256 * 1024
_Value = TypeVar("_Value")
_POLL_S: Final = 0.1
_PAUSE_S_MIN: Final = 0.02
_PAUSE_S_MAX: Final = 1.0
_OVERHEAD_BYTES: Final = 64

_AT_ONCE_MAX: Final = 4
"""Unanswered requests up to which whoever asks sends; beyond, one thread sends for all."""


@dataclass(slots=True)
class _Waiter:
    settle: Callable[[Done | FeedsError], None]
    deadline_s: float


class EngineClient:
    """Requests to one node; `close` ends them. Threads may share it.

    While the node is not there, a proposal fails with `NoLeader` at once: nothing was sent.
    """

    def __init__(self, path: Path, *, timeout_s: float = 6.0, requests_max: int = 10_000) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._requests_max = requests_max
        self._socket: socket.socket | None = None
        self._welcome: Welcome | None = None
        self._where: AppliedUpTo | None = None
        self._number = 0
        self._waiting: dict[int, _Waiter] = {}
        self._unsent: deque[bytes] = deque()
        self._sending = False
        self._changed = Condition()
        self._wake_reader, self._woken = socket.socketpair()
        self._closing = False
        self._closed = False
        self.misunderstood = ""
        """Why the node was not understood, the last time that it was not."""
        self._watchers: tuple[Moved, ...] = ()
        self._thread = Thread(target=self._run, name="engine-client", daemon=True)
        self._thread.start()

    @classmethod
    def connect(cls, path: Path, wait_s: float = 10.0) -> "EngineClient":
        """A client that is connected. Raises `StorageError` if the node does not answer in time."""
        client = cls(path)
        if not client.wait_connected(wait_s):
            client.close()
            if client.misunderstood:
                raise StorageError(f"{path}: {client.misunderstood}")
            raise StorageError(
                f"no engine answers on {path}: start one with `headwater node --config FILE`, or "
                "three with `headwater cluster start`"
            )
        return client

    def wait_connected(self, seconds: float) -> bool:
        """Wait for the connection; whether it is there."""
        with self._changed:
            return self._changed.wait_for(lambda: self._welcome is not None, seconds)

    @property
    def welcome(self) -> Welcome | None:
        """What the node said of itself; None while it is not connected."""
        return self._welcome

    @property
    def where(self) -> AppliedUpTo | None:
        """How far the node's store is, as far as it is known here."""
        return self._where

    def watch(self, watcher: Moved) -> None:
        """Call `watcher` whenever the node's store has moved; on the client's thread."""
        self._watchers = (*self._watchers, watcher)

    def propose(self, command: bytes) -> "Future[Applied]":
        """As `Replica.propose`."""
        if len(command) + _OVERHEAD_BYTES > REQUEST_BYTES_MAX:
            raise LimitExceeded(f"a command of {len(command)} bytes is too long: send less at once")
        future: Future[Applied] = Future()
        future.set_running_or_notify_cancel()

        def settle(told: Done | FeedsError) -> None:
            if isinstance(told, Done):
                future.set_result(Applied(told.index, told.result))
            else:
                future.set_exception(told)

        self._send(lambda number: Submit(number, command), settle)
        return future

    def barrier(self) -> "Future[int]":
        """As `Replica.barrier`."""
        future: Future[int] = Future()
        self._ask(Barrier, future, lambda done: done.index)
        return future

    def status(self) -> ReplicaStatus:
        """Where the node stands; `stopped` once this client is closed.

        Raises `NoLeader` or `OutcomeUnknown` where it does not answer.
        """
        if self._closing:
            return ReplicaStatus("stopped", 0, 0, 0, 0)
        future: Future[ReplicaStatus] = Future()
        self._ask(Status, future, _status_of)
        return future.result(self._timeout_s + 1)

    def checkpoint(self, path: Path) -> LogPosition:
        """Let the node keep its store as it is at `path`; up to where it has applied.

        Raises `InvalidInput` where it cannot.
        """
        future: Future[LogPosition] = Future()
        self._ask(
            lambda number: Checkpoint(number, str(path)),
            future,
            lambda done: LogPosition(done.index, done.term),
        )
        return future.result(self._timeout_s + 1)

    def compact(self, flushed_index: int) -> None:
        """The node does that by itself."""

    def close(self) -> None:
        """Wait for the answers to what was sent, and hang up; twice is harmless.

        Who still waits after `timeout_s` is told that the outcome is unknown.
        """
        with self._changed:
            self._closing = True
            if current_thread() is not self._thread:
                self._changed.wait_for(lambda: not self._waiting, self._timeout_s)
            self._closed = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
            self._changed.notify_all()
        if current_thread() is not self._thread:
            self._thread.join()

    def _ask(
        self,
        request: Callable[[int], Request],
        future: "Future[_Value]",
        value: "Callable[[Done], _Value]",
    ) -> None:
        future.set_running_or_notify_cancel()

        def settle(told: Done | FeedsError) -> None:
            try:
                if not isinstance(told, Done):
                    raise told
                future.set_result(value(told))
            except FeedsError as error:
                future.set_exception(error)

        self._send(request, settle)

    def _send(
        self, request: Callable[[int], Request], settle: Callable[[Done | FeedsError], None]
    ) -> None:
        """Queue a request; whoever finds nobody sending sends for all, or has the reader do it.

        The reader sends what many askers have left meanwhile in one piece: so one call of the
        system, one turn of the engine's loop and one group of its log serve many.
        """
        with self._changed:
            refused = self._refusal()
            if refused is None:
                self._number += 1
                number = self._number
                self._waiting[number] = _Waiter(settle, time.monotonic() + self._timeout_s)
                self._unsent.append(frame(encode(request(number))))
                if self._sending:
                    return
                self._sending = True
                at_once = len(self._waiting) <= _AT_ONCE_MAX
        if refused is not None:
            settle(refused)
        elif at_once:
            self._send_unsent()
        else:
            with contextlib.suppress(OSError):  # it has ended, and told everyone
                self._wake_reader.send(b"w")

    def _send_unsent(self) -> None:
        while True:
            with self._changed:
                if not self._unsent:
                    self._sending = False
                    return
                data = b"".join(self._unsent)
                self._unsent.clear()
                connection = self._socket
            if connection is not None:
                try:
                    connection.sendall(data)  # for as long as a request may take, and no longer
                except OSError:  # nothing may follow half a frame; the reader tells who waits
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)

    def _refusal(self) -> FeedsError | None:
        if self._closing:
            return ReplicaStopped("the connection to the engine takes no writes: it was closed")
        if self._welcome is None:
            return NoLeader(
                f"the engine on {self._path} cannot be reached; nothing was sent: retry"
            )
        if len(self._waiting) >= self._requests_max:
            return Overloaded(f"{len(self._waiting)} requests wait for the engine: retry soon")
        return None

    # The reading thread.

    def _run(self) -> None:
        pause_s = _PAUSE_S_MIN
        while not self._closed:
            try:
                connection = self._connect()
                try:
                    self._read(connection)
                finally:
                    if self._welcome is not None:
                        pause_s = _PAUSE_S_MIN
                    self._lose(connection)
            except OSError:
                pass  # it is not there: who proposes is told so
            except InvalidInput as error:
                self.misunderstood = str(error)
                _log.warning("engine_not_understood", why=str(error))
            with self._changed:
                self._changed.wait_for(lambda: self._closed, pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S_MAX)
        self._tell_all("the connection was closed")
        self._wake_reader.close()
        self._woken.close()

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(_POLL_S)
            connection.connect(str(self._path))
        except BaseException:
            connection.close()
            raise
        with self._changed:
            self._socket = connection
        return connection

    def _read(self, connection: socket.socket) -> None:
        frames = FrameReader(REQUEST_BYTES_MAX + HEADER_BYTES)
        connection.settimeout(self._timeout_s)  # of who sends: here `readable` waits
        readable = select.poll()
        readable.register(connection, select.POLLIN)
        readable.register(self._woken, select.POLLIN)
        expire_s = time.monotonic() + _POLL_S
        while True:
            for ready, _ in readable.poll(_POLL_S * 1_000):
                if ready == self._woken.fileno():
                    self._woken.recv(1)
                    self._send_unsent()
                    continue
                data = connection.recv(_READ_BYTES)
                if not data:
                    raise ConnectionError("the engine hung up")
                for content in frames.feed(data):
                    self._take(content)
            if time.monotonic() >= expire_s:
                expire_s = time.monotonic() + _POLL_S
                self._expire()
            if self._closed:
                return

    def _take(self, content: bytes) -> None:
        match decode_reply(content):
            case Done() as done:
                self._settle(done.id, done)
            case Failed() as failed:
                self._settle(failed.id, error_of(failed))
            case AppliedUpTo() as where:
                self._where = where
                for watcher in self._watchers:
                    watcher(where)
            case Welcome() as welcome:
                if welcome.version != PROTOCOL_VERSION:
                    raise InvalidInput(
                        f"the engine speaks version {welcome.version}, and this process "
                        f"{PROTOCOL_VERSION}: run one release"
                    )
                with self._changed:
                    self._welcome = welcome
                    self._changed.notify_all()

    def _settle(self, number: int, told: Done | FeedsError) -> None:
        waiter = self._waiting.pop(number, None)
        try:
            if waiter is not None:
                waiter.settle(told)
        finally:
            if self._closing:
                with self._changed:
                    self._changed.notify_all()

    def _expire(self) -> None:
        now = time.monotonic()
        with self._changed:
            late = [number for number, one in self._waiting.items() if one.deadline_s <= now]
        for number in late:
            self._settle(number, _unknown("the engine did not answer in time"))

    def _lose(self, connection: socket.socket) -> None:
        with self._changed:
            self._socket = self._welcome = None
            self._unsent.clear()
        connection.close()
        self._tell_all("the connection to the engine was lost")

    def _tell_all(self, why: str) -> None:
        with self._changed:
            waiting = list(self._waiting)
        for number in waiting:
            self._settle(number, _unknown(why))


def _unknown(why: str) -> OutcomeUnknown:
    return OutcomeUnknown(f"{why}: the write may have taken effect. Repeat it with its key")


def _status_of(done: Done) -> ReplicaStatus:
    if done.status is None:
        raise InvalidInput("the engine answered without its status")
    return done.status
