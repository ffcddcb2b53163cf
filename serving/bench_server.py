"""What benchmarks over HTTP share: a server that is a process of its own, and its clients.

The server runs on one core, the client on the others where there are others; they speak over
loopback, connections are kept alive.
"""

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

__all__ = ["CONNECTIONS", "START_S_MAX", "Client", "Server", "client_cores", "cpu_ns_of", "on_core"]

START_S_MAX: Final = 90.0
"""Seconds that a server may take to answer; MLflow's takes ten to thirty."""

CONNECTIONS: Final = 4
"""Connections at once where requests a second are counted."""

_RECEIVE_BYTES: Final = 256 * 1024


class Client:
    """One kept-alive connection that sends the same request again and again.

    The request is bytes made beforehand, and of a reply only status and length are looked at.
    """

    def __init__(self, address: str, request: bytes) -> None:
        parts = urlsplit(address)
        self._request = request
        self._received = b""
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=START_S_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes | None = None) -> None:
        """Begin a request: another than the connection's own where one is given."""
        self.socket.sendall(request or self._request)

    def receive(self) -> bytes | None:
        """Read what came: the reply's body once it is whole, None before.

        Raises `ConnectionError` where the server hung up or answered anything but a success.
        """
        data = self.socket.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return None
        if not head.startswith(b"HTTP/1.1 2"):
            raise ConnectionError(f"the server answered {self._received[:300]!r}")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return None
        self._received = body[length:]
        return body[:length]

    def ask(self, request: bytes | None = None) -> bytes:
        """Send a request, and wait for its reply."""
        self.send(request)
        while (body := self.receive()) is None:
            pass
        return body

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


class Server:
    """A process that answers HTTP on one core, and the request that is sent to it."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        cores: set[int] | None = None,
    ) -> None:
        """Start it on `cores`, the last core alone if they are not given."""
        self.address = ""
        self.request = b""
        self._log = log
        with log.open("wb") as out, on_core(cores or _server_cores()):
            self.process = subprocess.Popen(  # noqa: S603 - our own command, or a peer's
                arguments,
                stdout=out,
                stderr=out,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                start_new_session=True,
            )

    def wait(self, address: str | Path, request: bytes) -> None:
        """Return once the request is answered; raises `RuntimeError` where it never is.

        `address` may be a file, in which the server says where it listens.
        """
        until = time.monotonic() + START_S_MAX
        while time.monotonic() < until and self.process.poll() is None:
            known = address if isinstance(address, str) else _told_in(address)
            if known:
                with suppress(OSError), closing(Client(known, request)) as client:
                    client.ask()
                    self.address, self.request = known, request
                    return
            time.sleep(0.1)
        raise RuntimeError(f"{self.process.args!r:.80} did not answer: {self._tail()}")

    def client(self) -> Client:
        """A new connection."""
        return Client(self.address, self.request)

    def cpu_ns(self) -> int:
        """CPU time of the process so far."""
        return cpu_ns_of(self.process.pid)

    def per_s(self, seconds: float, connections: int = CONNECTIONS) -> float:
        """Requests a second over so many connections, each with one under way."""
        clients: dict[socket.socket, Client] = {}
        answered, started = 0, time.perf_counter()
        for _ in range(connections):
            client = self.client()
            client.send()  # at once, as clients do: the next goes to a worker that is not busy
            clients[client.socket] = client
        while time.perf_counter() < started + seconds or answered < 2 * connections:
            ready, _, _ = select.select(list(clients), [], [], START_S_MAX)
            for each in ready:
                if clients[each].receive() is not None:
                    answered += 1
                    clients[each].send()
        elapsed = time.perf_counter() - started
        for client in clients.values():
            client.close()
        return answered / elapsed

    def end(self) -> None:
        """End the process, and those that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(15)

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-1_500:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _told_in(address_file: Path) -> str:
    """The address in the file, empty until it is written whole."""
    told = address_file.read_text() if address_file.exists() else ""
    return told.strip() if told.endswith("\n") else ""


def _server_cores() -> set[int]:
    return {max(os.sched_getaffinity(0))}


def cpu_ns_of(pid: int) -> int:
    """CPU time of a process so far, nanoseconds (Linux numbers a process's clock by its id)."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def client_cores() -> set[int]:
    """All cores but the servers'; that one too where there is no other."""
    cores = os.sched_getaffinity(0)
    return cores - {max(cores)} or cores


@contextmanager
def on_core(cores: set[int]) -> Iterator[None]:
    """Run on these cores; a process that is started meanwhile stays on them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
