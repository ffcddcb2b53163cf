"""A connection: frames come out as they went in, read or listened to; what is too much ends it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Final

import pytest
import uvloop

from feeds.errors import InvalidInput
from feeds.replication.connection import Connection
from feeds.replication.frames import frame

LIMIT: Final = 1_000
DEADLINE_S: Final = 10.0


@asynccontextmanager
async def connected(
    frame_s_max: float | None = None, made: Callable[[Connection], None] = lambda _: None
) -> AsyncIterator[tuple[Connection, socket.socket]]:
    """(a connection, the other end of it)."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    connection = Connection(LIMIT, frame_s_max, made)
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.get_running_loop().create_connection(lambda: connection, sock=near)
        with far:
            yield connection, far
        connection.abort()
        await connection.close()


async def say(far: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(far, data)


def test_frames_are_read_one_by_one_and_then_listened_to() -> None:
    async def run() -> None:
        async with connected() as (connection, far):
            await say(far, frame(b"a") + frame(b"b") + frame(b"c") + frame(b"d")[:3])
            assert b"a" == await connection.read()
            heard: list[bytes] = []
            listening = asyncio.create_task(connection.listen(heard.extend))
            await say(far, frame(b"d")[3:] + frame(b"e"))
            far.shutdown(socket.SHUT_WR)
            await listening
            assert [b"b", b"c", b"d", b"e"] == heard
            assert await connection.read() is None

    asyncio.run(run())


@pytest.mark.parametrize("listens", [False, True])
def test_frame_that_is_too_long_ends_it_with_a_reason(listens: bool) -> None:
    async def run() -> None:
        async with connected() as (connection, far):
            await say(far, (LIMIT + 1).to_bytes(4))
            with pytest.raises(InvalidInput, match="1001 bytes is announced, and 1000 may be sent"):
                await (connection.listen(lambda _: None) if listens else connection.read())
            assert connection.transport.is_closing()

    asyncio.run(run())


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("end", ["aborts", "closes", "is hung up on"])
def test_frame_for_a_connection_that_is_ending_is_lost_and_breaks_nothing(
    end: str, runner: Callable[[Coroutine[None, None, None]], None]
) -> None:
    async def run() -> None:
        async with connected() as (connection, far):
            turns_after_the_end = 3
            if end == "aborts":
                connection.abort()
            elif end == "closes":
                connection.transport.close()
            else:
                far.close()
            while turns_after_the_end:
                connection.send(b"too late")
                turns_after_the_end -= connection.lost
                await asyncio.sleep(0)
            with pytest.raises(ConnectionResetError):
                await connection.write(b"too late")

    runner(run())


def test_listener_that_refuses_what_it_hears_ends_it() -> None:
    def refuse(_: list[bytes]) -> None:
        raise InvalidInput("no message")

    async def run() -> None:
        async with connected() as (connection, far):
            await say(far, frame(b"?"))
            with pytest.raises(InvalidInput, match="no message"):
                await connection.listen(refuse)
            assert connection.lost

    asyncio.run(run())


def test_frame_that_has_begun_must_be_whole_in_time_however_it_trickles_in() -> None:
    async def run() -> None:
        async with connected(frame_s_max=0.2) as (connection, far):
            await say(far, frame(b"whole"))
            assert b"whole" == await connection.read()
            listening = asyncio.create_task(connection.listen(lambda _: None))
            begun_s = asyncio.get_running_loop().time()
            await say(far, frame(bytes(LIMIT))[:5])
            while not (await asyncio.wait([listening], timeout=0.02))[0]:
                await say(far, b"x")
            with pytest.raises(InvalidInput, match=r"half a frame, and then 0\.2 s of silence"):
                await listening
            assert asyncio.get_running_loop().time() - begun_s >= 0.2

    asyncio.run(run())


def test_silence_between_frames_ends_nothing() -> None:
    async def run() -> None:
        async with connected(frame_s_max=0.05) as (connection, far):
            await say(far, frame(b"a")[:2])
            await say(far, frame(b"a")[2:] + frame(b"b"))
            assert (b"a", b"b") == (await connection.read(), await connection.read())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await connection.read()
            assert not connection.lost

    asyncio.run(run())


def test_what_nobody_reads_is_bounded_and_comes_once_it_is_read() -> None:
    async def run() -> None:
        async with connected() as (connection, far):
            sent = [b"%d" % number * 100 for number in range(10)] * 5_000
            saying = asyncio.create_task(say(far, b"".join(map(frame, sent))))
            while connection.transport.is_reading():
                await asyncio.wait([saying], timeout=0.01)
            assert not saying.done()
            assert sent == [await connection.read() for _ in sent]
            await saying

    asyncio.run(run())


def test_who_writes_waits_while_the_other_end_is_behind_and_hears_of_its_loss() -> None:
    async def run() -> None:
        async with connected() as (connection, far):
            connection.transport.set_write_buffer_limits(high=0)

            async def write_on() -> None:
                while True:
                    await connection.write(bytes(LIMIT))

            writing = asyncio.create_task(write_on())
            while not connection.transport.get_write_buffer_size():
                await asyncio.wait([writing], timeout=0.01)
            assert not writing.done()
            far.close()
            with pytest.raises(OSError, match=r"lost|pipe|reset"):
                await writing

    asyncio.run(run())


def test_who_made_it_is_told_when_it_can_be_used() -> None:
    made: list[Connection] = []

    async def run() -> None:
        async with connected(made=made.append) as (connection, _):
            assert [connection] == made
            assert connection.info("socket") is not None

    asyncio.run(run())
