"""Accepting connections from whoever dials, at a bounded cost; and noticing those that went dead.

Until it is known a dialer is a stranger. Strangers have few places, counted from the first packet
on, before any TLS: where they press, the one that came first must go, so that a peer, which says
at once who it is, gets through.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from feeds.replication.connection import Connection

__all__ = ["Acceptor", "notice_silence"]

_BACKLOG: Final = 128
_PAUSE_S: Final = 0.2


class Acceptor:
    """Listens, and gives each connection a task. One event loop; `start` and `stop` on it.

    `serve` hangs up in the end, and calls `known` once it knows who is there.
    `turned_away` hears why someone was not served.
    """

    def __init__(
        self,
        strangers_max: int,
        serve: Callable[[socket.socket], Coroutine[Any, Any, None]],  # Any: what it never yields
        turned_away: Callable[[str], None],
    ) -> None:
        self._strangers_max = strangers_max
        self._serve = serve
        self._turned_away = turned_away
        self._doors: list[socket.socket] = []
        self._strangers: dict[asyncio.Task[None], None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> None:
        """Listen wherever the name leads. Raises OSError where it cannot be."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, place in dict.fromkeys((family, place) for family, *_, place in found):
                door = socket.create_server(place, family=family, backlog=_BACKLOG)
                self._doors.append(door)
                door.setblocking(False)
        except OSError:
            await self.stop()
            raise
        for door in self._doors:
            self._spawn(self._keep_accepting(door))

    async def stop(self) -> None:
        """Listen no more, and end every task."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for door in self._doors:
            door.close()
        self._doors.clear()

    def known(self) -> None:
        """The running task's other end is a stranger no more."""
        task = asyncio.current_task()
        if task is not None:
            self._strangers.pop(task, None)

    async def _keep_accepting(self, door: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(door)
            except OSError as error:  # it was gone already, or too many files are open
                self._turned_away(str(error))
                await asyncio.sleep(_PAUSE_S)
                continue
            if len(self._strangers) >= self._strangers_max:
                first = next(iter(self._strangers))
                del self._strangers[first]
                first.cancel()
                self._turned_away(f"there are {self._strangers_max} strangers: the first must go")
            task = self._spawn(self._serve(accepted))
            self._strangers[task] = None
            # It may end before it began, and then nobody else has closed it.
            task.add_done_callback(partial(_close, accepted))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":  # Any: as above
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._strangers.pop(task, None)


def _close(unused: socket.socket, _task: "asyncio.Task[None]") -> None:
    unused.close()


def notice_silence(noticed: Connection, seconds: float, *, unread: bool) -> None:
    """Let the system give a connection up where the other machine says nothing for so long.

    With `unread` also where it takes nothing of what it is sent. Without this TCP goes on for a
    quarter of an hour, with ever longer pauses, also once the network is whole again.
    """
    connection = noticed.info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # elsewhere than on Linux the system's own times hold
        probe_s = max(1, round(seconds / 5))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 2 * probe_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, probe_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    if unread and hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))
