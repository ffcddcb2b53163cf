"""Connections of one listening socket, spread evenly over the workers that accept on it.

The kernel wakes every worker for a connection, and whoever runs first takes it, and all others that
wait: on a machine with other work, again and again the same one. So a worker takes them only until
others have fewer, and leaves the next a while to those. Whoever is stopped, busy or gone takes
none: then the others take all that wait. The while is short, for a read's own time begins later.
"""

import asyncio
import mmap
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Acceptor", "Places", "make_places"]

_log = structlog.get_logger(__name__)

WAITING_MAX: Final = 2_048
"""Connections that may wait to be accepted; the kernel's own limit may be lower."""

LEFT_S: Final = 0.005
"""Seconds that a connection is left to each worker that has fewer."""

LOOK_S: Final = 0.001
"""Seconds between two looks whether it still waits."""

TAKEN_MAX: Final = 64
"""Connections taken in a turn of the loop at most."""

RETRY_S: Final = 1.0
"""Seconds until connections are accepted again after the system could give none."""


def make_places(path: Path, workers: int) -> None:
    """A file in which each worker tells how many connections it has."""
    path.write_bytes(bytes(8 * workers))


@dataclass(frozen=True, slots=True)
class Places:
    """How many connections each worker has, and which place is this worker's."""

    counts: "memoryview[int]"
    own: int

    @classmethod
    def opened(cls, path: Path, own: int) -> "Places":
        """Those of the file, which all workers map."""
        with path.open("r+b") as file:
            return cls(memoryview(mmap.mmap(file.fileno(), 0)).cast("q"), own)

    def tell(self, connections: int) -> None:
        """This worker has so many."""
        self.counts[self.own] = connections

    def with_fewer(self) -> int:
        """How many workers have fewer connections than this one."""
        own = self.counts[self.own]
        return sum(count < own for count in self.counts)


class Acceptor:
    """Accepts connections until closed; stands for a server among those of uvicorn.

    `connections` are those of this worker that are open, as `make_protocol` keeps them.
    """

    def __init__(
        self,
        listener: socket.socket,
        places: Places,
        make_protocol: "Callable[[], HttpToolsProtocol]",
        connections: Collection[object],
        left_s: float = LEFT_S,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._places = places
        self._make_protocol = make_protocol
        self._connections = connections
        self._left_s = left_s
        self._looked_s = self._waits_since_s = 0.0
        self._opening: dict[HttpToolsProtocol, asyncio.Task[None]] = {}
        self._later: asyncio.TimerHandle | None = None
        self._closed = False
        listener.setblocking(False)
        listener.listen(WAITING_MAX)
        self._tell()
        self._loop.add_reader(listener.fileno(), self._on_waiting)

    def close(self) -> None:
        """Accept no more."""
        self._closed = True
        self._loop.remove_reader(self._listener.fileno())
        if self._later is not None:
            self._later.cancel()

    def _tell(self) -> None:
        opening = sum(protocol not in self._connections for protocol in self._opening)
        self._places.tell(len(self._connections) + opening)

    def _on_waiting(self) -> None:
        """Connections wait: take them, or leave them a while to workers that have fewer."""
        self._tell()
        now_s = self._loop.time()
        if now_s - self._looked_s > 2 * LOOK_S:
            self._waits_since_s = now_s
        self._looked_s = now_s
        for _ in range(TAKEN_MAX):
            if now_s - self._waits_since_s < self._left_s * self._places.with_fewer():
                self._look_again(LOOK_S)
                return
            if not self._take():
                self._looked_s = 0.0  # nothing waits
                return

    def _look_again(self, after_s: float) -> None:
        """Hear of nothing until then."""
        waiting = self._listener.fileno()
        self._loop.remove_reader(waiting)
        self._later = self._loop.call_later(
            after_s, self._loop.add_reader, waiting, self._on_waiting
        )

    def _take(self) -> bool:
        """Whether there was a connection."""
        try:
            connection, _ = self._listener.accept()
        except (InterruptedError, ConnectionAbortedError):
            return True  # a client has gone; others may wait
        except BlockingIOError:
            return False
        except OSError as error:
            _log.error("connections_not_accepted", error=error.strerror, retry_s=RETRY_S)
            self._look_again(RETRY_S)
            return False
        protocol = self._make_protocol()
        self._opening[protocol] = self._loop.create_task(self._open(connection, protocol))
        self._tell()
        return True

    async def _open(self, connection: socket.socket, protocol: "HttpToolsProtocol") -> None:
        connection.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, connection)
            if self._closed:
                protocol.shutdown()
        except OSError:  # the client has gone
            connection.close()
        finally:
            del self._opening[protocol]
