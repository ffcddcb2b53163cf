"""Requests at a steady rate from a process of its own: `bench_tenants` starts it.

    python -m serving.bench_noise ADDRESS PATH KEY

It reads lines of standard input: a rate, in requests a second (0: none); at the end of its input it
prints JSON, how many were answered, refused (429) and failed.
"""

import asyncio
import json
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Self
from urllib.parse import urlsplit

__all__ = ["Connection", "Noise"]

CONNECTIONS: Final = 32
"""Connections that the requests are spread over; one that waits for its reply sends none."""

TICK_S: Final = 0.01
"""Seconds between two handfuls of requests."""


class Connection:
    """One connection that asks for one path, again and again; it costs little."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._request = request

    @classmethod
    async def open(cls, address: str, path: str, key: str) -> Self:
        """Connect to a service."""
        url = urlsplit(address)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        head = f"GET {path} HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {key}\r\n\r\n"
        return cls(reader, writer, head.encode())

    async def get(self) -> int:
        """Ask, and read the whole reply; its status."""
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        _, _, rest = head.partition(b"content-length:")
        await self._reader.readexactly(int(rest.partition(b"\r\n")[0]))
        return int(head[9:12])

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


class Noise:
    """The process that asks, from the side of whoever started it."""

    def __init__(self, address: str, path: str, key: str) -> None:
        self.answered = self.refused = self.failed = 0
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "serving.bench_noise", address, path, key],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, per_s: int) -> None:
        """Ask so many times a second from now on."""
        if self._process.stdin is not None:
            self._process.stdin.write(f"{per_s}\n")
            self._process.stdin.flush()

    def end(self) -> None:
        """Ask no more until told to."""
        self.begin(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        told = self._process.communicate()[0]
        with suppress(json.JSONDecodeError):
            counts = json.loads(told)
            self.answered, self.refused = counts.get("200", 0), counts.get("429", 0)
            self.failed = sum(counts.values()) - self.answered - self.refused


async def _ask(connections: Iterable[Connection], told: Counter[str]) -> None:
    idle = deque(connections)  # in turn: one that is idle for long is closed by the service
    asking: set[asyncio.Task[None]] = set()
    lines = await _input()
    rate, due = 0, 0.0
    line: asyncio.Task[bytes] = asyncio.create_task(lines.readline())

    async def ask(connection: Connection) -> None:
        try:
            told[str(await connection.get())] += 1
        except (OSError, asyncio.IncompleteReadError):
            told["failed"] += 1
        else:
            idle.append(connection)

    while True:
        if line.done():
            if not line.result():
                break
            rate, due = int(line.result()), 0.0
            line = asyncio.create_task(lines.readline())
        due = min(due + rate * TICK_S, rate * 1.0)
        while due >= 1 and idle:
            due -= 1
            task = asyncio.create_task(ask(idle.popleft()))
            asking.add(task)
            task.add_done_callback(asking.discard)
        await asyncio.sleep(TICK_S)
    await asyncio.gather(*asking)


async def _input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def _run(address: str, path: str, key: str) -> None:
    told: Counter[str] = Counter()
    connections = [await Connection.open(address, path, key) for _ in range(CONNECTIONS)]
    await _ask(connections, told)
    for connection in connections:
        connection.close()
    print(json.dumps(told))  # noqa: T201 - what it prints is its answer


if __name__ == "__main__":
    asyncio.run(_run(*sys.argv[1:4]))
