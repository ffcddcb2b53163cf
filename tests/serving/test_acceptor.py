"""Workers of one socket have as many connections each, and nothing waits for one that is gone."""

import asyncio
import errno
import os
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

import serving.acceptor
from serving.acceptor import Acceptor, Places, make_places


class Talk(asyncio.Protocol):
    """A connection that answers what it is asked with the number of its worker."""

    def __init__(self, worker: "Worker") -> None:
        self.worker = worker

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.worker.connections.add(self)

    def data_received(self, data: bytes) -> None:
        del data
        self.transport.write(bytes([self.worker.number]))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.worker.connections.discard(self)
        self.worker.ended.put_nowait(self)

    def shutdown(self) -> None:
        self.transport.close()


class Worker:
    """One of several on one socket; all are on one event loop here."""

    def __init__(self, listener: socket.socket, path: Path, number: int) -> None:
        self.number = number
        self.connections: set[Talk] = set()
        self.ended = asyncio.Queue[Talk]()
        self.listener = listener.dup()
        self.places = Places.opened(path, number)

    def start(self, left_s: float) -> None:
        made: Any = partial(Talk, self)  # Any: what the acceptor needs of uvicorn's protocol
        self.acceptor = Acceptor(self.listener, self.places, made, self.connections, left_s)


@asynccontextmanager
async def workers(count: int, left_s: float = 60) -> AsyncIterator[list[Worker]]:
    """So many that accept; those who have more wait so long that they take nothing."""
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        make_places(Path(directory) / "places", count)
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        made = [Worker(listener, Path(directory) / "places", number) for number in range(count)]
        for worker in made:
            stack.enter_context(worker.listener)
            worker.start(left_s)
            stack.callback(worker.acceptor.close)
        yield made


async def connect(to: Worker) -> tuple[int, asyncio.StreamWriter]:
    """Who answers a new connection, and its end."""
    reader, writer = await asyncio.open_connection(*to.listener.getsockname())
    writer.write(b"?")
    (number,) = await reader.readexactly(1)
    return number, writer


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(limited())


def test_connections_opened_one_after_the_other_are_spread() -> None:
    async def open_them() -> None:
        async with workers(3) as made:
            opened = [await connect(made[0]) for _ in range(12)]
            assert Counter({0: 4, 1: 4, 2: 4}) == Counter(number for number, _ in opened)
            for _, writer in opened:
                writer.close()

    run(open_them)


def test_connections_opened_at_once_are_spread() -> None:
    async def open_them() -> None:
        async with workers(3) as made:
            opened = await asyncio.gather(*(connect(made[0]) for _ in range(12)))
            assert Counter({0: 4, 1: 4, 2: 4}) == Counter(number for number, _ in opened)
            for _, writer in opened:
                writer.close()

    run(open_them)


def test_a_worker_whose_connections_ended_has_the_next_ones() -> None:
    async def open_and_end() -> None:
        async with workers(2) as made:
            opened = [await connect(made[0]) for _ in range(4)]
            for number, writer in opened:
                if number == 0:
                    writer.close()
                    await made[0].ended.get()
            opened += [await connect(made[0]) for _ in range(3)]
            assert [2, 3] == sorted(len(worker.connections) for worker in made)
            for _, writer in opened:
                writer.close()

    run(open_and_end)


def test_a_worker_that_is_gone_keeps_no_connection_waiting() -> None:
    async def open_them() -> None:
        async with workers(2, left_s=0.005) as made:
            made[0].acceptor.close()
            opened = [await connect(made[0]) for _ in range(4)]
            assert [1, 1, 1, 1] == [number for number, _ in opened]
            assert [0, 4] == list(made[0].places.counts)
            for _, writer in opened:
                writer.close()

    run(open_them)


def test_all_that_wait_are_taken_at_once_where_nobody_has_fewer() -> None:
    async def open_them() -> None:
        async with workers(1) as (worker,):
            address = worker.listener.getsockname()
            opened = [socket.create_connection(address) for _ in range(10)]
            worker.acceptor._on_waiting()
            assert [10] == list(worker.places.counts)
            for client in opened:
                client.close()
                await worker.ended.get()

    run(open_them)


def test_a_connection_taken_just_before_the_end_is_told_of_it() -> None:
    async def take_and_close() -> None:
        async with workers(1) as (worker,):
            with socket.create_connection(worker.listener.getsockname()) as client:
                worker.acceptor._take()
                worker.acceptor.close()
                client.setblocking(False)
                assert b"" == await asyncio.get_running_loop().sock_recv(client, 1)

    run(take_and_close)


class Exhausted(socket.socket):
    """A socket that has no file for the first connection."""

    refused = 0

    def accept(self) -> tuple[socket.socket, Any]:
        if not self.refused:
            self.refused += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


def test_connections_are_accepted_again_once_the_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.acceptor, "RETRY_S", 0.01)
    make_places(tmp_path / "places", 1)

    async def open_one() -> None:
        with Exhausted() as listener:
            listener.bind(("127.0.0.1", 0))
            worker = Worker(listener, tmp_path / "places", 0)
            worker.listener.close()
            worker.listener = listener
            worker.start(60)
            number, writer = await connect(worker)
            assert (number, listener.refused) == (0, 1)
            writer.close()
            worker.acceptor.close()

    run(open_one)
