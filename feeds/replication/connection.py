"""One connection that speaks in frames, on an event loop.

At first frames are asked for one by one (`read`); once it is known who is there, they are handed on
as they come (`listen`), all that came at once together: between the socket and who listens there is
no task that has to be woken.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from feeds.errors import InvalidInput
from feeds.replication.frames import FrameReader, frame

__all__ = ["Connection"]


class Connection(asyncio.Protocol):
    """A protocol for an event loop's `create_connection` and the like.

    A frame above `frame_bytes_max` ends it, with `InvalidInput` for who reads or listens; so does
    one that is not whole `frame_s_max` seconds after it has begun. Frames that nobody has read yet
    are bounded too: beyond `frame_bytes_max` bytes no more are received. `made` is called once
    there is a transport.
    """

    transport: asyncio.Transport

    def __init__(
        self,
        frame_bytes_max: int,
        frame_s_max: float | None = None,
        made: Callable[["Connection"], None] = lambda _: None,
    ) -> None:
        self._frames = FrameReader(frame_bytes_max)
        self._frame_s_max = frame_s_max
        self._made = made
        self._half: asyncio.TimerHandle | None = None
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._take: Callable[[list[bytes]], None] | None = None
        self._error: Exception | None = None
        self._changed: set[asyncio.Future[None]] = set()
        self._held_back = self._full = False
        self.lost = False
        """Whether it has ended."""

    @property
    def frame_bytes_max(self) -> int:
        """The longest frame that is taken; it may be changed."""
        return self._frames.bytes_max

    @frame_bytes_max.setter
    def frame_bytes_max(self, bytes_max: int) -> None:
        self._frames.bytes_max = bytes_max

    def info(self, name: str) -> Any:  # Any: each name has its own type
        """What the transport knows of the connection: `asyncio.BaseTransport.get_extra_info`."""
        return self.transport.get_extra_info(name)

    async def read(self) -> bytes | None:
        """The next frame; None at the end. Raises `InvalidInput`, OSError."""
        while not self._unread:
            if self._error is not None:
                raise self._error
            if self.lost:
                return None
            await self._change()
        content = self._unread.popleft()
        self._unread_bytes -= len(content)
        if self._held_back and self._unread_bytes <= self.frame_bytes_max and not self.lost:
            self._held_back = False
            self.transport.resume_reading()
        return content

    async def listen(self, take: Callable[[list[bytes]], None]) -> None:
        """Hand on frames as they come, until the end. Raises `InvalidInput`, OSError.

        `take` may raise `InvalidInput`, which ends the connection.
        """
        self._take = take
        if self._unread:
            found = list(self._unread)
            self._unread.clear()
            self._hand_on(found)
        if self._held_back and not self.lost:
            self._held_back = False
            self.transport.resume_reading()
        while not self.lost:
            await self._change()
        if self._error is not None:
            raise self._error

    def send(self, content: bytes) -> None:
        """Send a frame, whether or not the other end is behind; none where this is ending.

        Whoever waits for the end hears of it a turn of the loop later, and may send until then.
        """
        if not self._ending:
            self.transport.write(frame(content))

    async def write(self, content: bytes) -> None:
        """Send a frame, and wait while the other end is behind. Raises OSError."""
        self.send(content)
        while self._full and not self.lost:
            await self._change()
        if self._ending:
            raise ConnectionResetError("the connection is lost") from self._error

    @property
    def _ending(self) -> bool:
        """Whether what is sent now would not leave; a transport of uvloop raises then."""
        return self.lost or self.transport.is_closing()

    async def close(self) -> None:
        """Hang up, and wait until what was sent has left."""
        self.transport.close()
        while not self.lost:
            await self._change()

    def abort(self) -> None:
        """Hang up at once."""
        self.transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As `asyncio.BaseProtocol.connection_made`."""
        self.transport = cast("asyncio.Transport", transport)
        self._made(self)

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol.data_received`."""
        try:
            contents = self._frames.feed(data)
        except InvalidInput as error:
            self._fail(error)
            return
        if self._frame_s_max is not None and (self._half is not None or self._frames.waiting):
            self._watch_half(self._frame_s_max, begun=bool(contents) or self._half is None)
        if not contents:
            return
        if self._take is not None:
            self._hand_on(contents)
            return
        self._unread += contents
        self._unread_bytes += sum(map(len, contents))
        if self._unread_bytes > self.frame_bytes_max and not self._held_back:
            self._held_back = True
            self.transport.pause_reading()
        self._wake()

    def pause_writing(self) -> None:
        """As `asyncio.BaseProtocol.pause_writing`."""
        self._full = True

    def resume_writing(self) -> None:
        """As `asyncio.BaseProtocol.resume_writing`."""
        self._full = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.BaseProtocol.connection_lost`."""
        self.lost = True
        if self._error is None:
            self._error = exc
        if self._half is not None:
            self._half.cancel()
        self._wake()

    def _watch_half(self, seconds: float, *, begun: bool) -> None:
        """Give a frame that is not whole so long since it has begun."""
        if self._half is not None and (begun or not self._frames.waiting):
            self._half.cancel()
            self._half = None
        if self._half is None and self._frames.waiting:
            error = InvalidInput(f"half a frame, and then {seconds:g} s of silence")
            loop = asyncio.get_running_loop()
            self._half = loop.call_later(seconds, self._fail, error)

    def _hand_on(self, contents: list[bytes]) -> None:
        assert self._take is not None
        try:
            self._take(contents)
        except InvalidInput as error:
            self._fail(error)

    def _fail(self, error: InvalidInput) -> None:
        if self._error is None:
            self._error = error
        self.transport.abort()
        self._wake()

    async def _change(self) -> None:
        """Wait until something has happened."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed.add(future)
        try:
            await future
        finally:
            self._changed.discard(future)

    def _wake(self) -> None:
        for future in self._changed:
            if not future.done():
                future.set_result(None)
