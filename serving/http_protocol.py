"""HTTP as uvicorn speaks it, bounded: no client holds a connection by being slow, large or broken.

uvicorn has no limit for a request's head, neither in bytes nor in time, and answers what it cannot
parse at once and in plain text, even while the request before is being answered. Here every refusal
is the API's own, and comes in the order of the requests.
"""

import socket
import struct
from asyncio import AbstractEventLoop, BaseTransport, TimerHandle, Transport
from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import Any, Final, cast

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from serving.errors import ApiError, BadRequest, ClientTooSlow, HeadTooLarge, error_response
from serving.settings import Settings

__all__ = ["BEGAN_NS", "BROKEN", "LINGER_S", "BoundedHttpProtocol", "uvicorn_config"]

BROKEN: Final = "headwater.broken"
"""Key of a request's scope under which the `ApiError` stands that ended its body."""

BEGAN_NS: Final = "headwater.began_ns"
"""Key of a request's scope under which stands when its head was read, by `perf_counter_ns`."""

LINGER_S: Final = 2.0
"""Seconds that a refused client may go on sending: cut off at once, it might not get the answer."""

_UNREADABLE: Final = "this is no HTTP/1.1 request that can be read; the connection ends"
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, for 0 s: closing resets."""

_UPGRADE: Final = "the request asks for another protocol, and has a body"
_SEND_HTTP: Final = "Send requests one after another, each with its true Content-Length."


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. A head has `head_bytes_max` and `client_timeout_s`, and so has each reply.

    How long a body may be and take is `serving.body_limit`'s part.
    """

    def __init__(self, settings: Settings, **given: Any) -> None:  # Any: uvicorn's own arguments
        super().__init__(**given)
        self._settings = settings
        self._reading_head = True
        self._heads = 0
        self._head_bytes = 0
        self._ended = False
        self._answering: RequestResponseCycle | None = None
        limit_s = settings.client_timeout_s
        self._head_deadline = _Deadline(self.loop, limit_s, self._on_slow_head)
        self._write_deadline = _Deadline(self.loop, limit_s, self._on_slow_reader)

    def connection_made(self, transport: BaseTransport) -> None:
        """Begin to wait for the first head."""
        super().connection_made(cast("Transport", transport))
        self._head_deadline.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._head_deadline.end()
        self._write_deadline.end()
        if self._answering is not None:
            self._answering.disconnected = True  # uvicorn tells the newest request alone
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; refuse what cannot be parsed."""
        if self._ended:
            return
        self._unset_keepalive_if_required()
        in_head, heads = self._reading_head, self._heads
        if in_head or self.cycle.response_complete:
            self._head_deadline.begin()
        try:
            self.parser.feed_data(data)
            if in_head and self._reading_head and heads == self._heads:
                self._count_head(len(data))
        except httptools.HttpParserUpgrade:
            self._break_body(BadRequest(_UPGRADE, more_info="Send it without Upgrade."))
            self._end()
        except HeadTooLarge as error:
            self._refuse(error)
        except httptools.HttpParserError as error:
            cause = error.__context__
            unreadable = BadRequest(_UNREADABLE, more_info=_SEND_HTTP)
            self._refuse(cause if isinstance(cause, HeadTooLarge) else unreadable)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the head."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A part of the head."""
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there: its request begins."""
        self._reading_head = False
        self._heads += 1
        self._head_deadline.end()
        cast("dict[str, Any]", self.scope)[BEGAN_NS] = perf_counter_ns()  # Any: a scope's values
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there; the next head may come."""
        self._reading_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not take its reply: it is given a while."""
        super().pause_writing()
        self._write_deadline.begin()

    def resume_writing(self) -> None:
        """The client took it."""
        self._write_deadline.end()
        super().resume_writing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # Any: uvicorn's
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _on_slow_head(self) -> None:
        self._refuse(ClientTooSlow("head", self._settings.client_timeout_s))

    def _on_slow_reader(self) -> None:
        """Reset the connection: else the kernel would go on offering the reply."""
        connection: socket.socket | None = self.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > self._settings.head_bytes_max:
            raise HeadTooLarge(self._settings.head_bytes_max)

    def _refuse(self, error: ApiError) -> None:
        """Answer what cannot be read, after the requests before it, and end the connection."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is None or cycle.response_complete:
            self._ended = True
            self._head_deadline.end()
            self.transport.write(_reply_bytes(error))
            self.transport.write_eof()
            self.loop.call_later(LINGER_S, self.transport.close)
            return
        if cycle.more_body:
            self._break_body(error)
        self._end()

    def _break_body(self, error: ApiError) -> None:
        """Whoever reads the body of the request gets the error; who does not need it goes on."""
        cast("dict[str, Any]", self.cycle.scope)[BROKEN] = error  # Any: a scope's values
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def _end(self) -> None:
        """Read no more; the connection ends with the answer to the last request."""
        self._ended = True
        self._head_deadline.end()
        self.cycle.keep_alive = False


class _Deadline:
    """Calls `late` where what began has not ended after `limit_s`."""

    def __init__(self, loop: AbstractEventLoop, limit_s: float, late: Callable[[], None]) -> None:
        self._loop = loop
        self._limit_s = limit_s
        self._late = late
        self._timer: TimerHandle | None = None

    def begin(self) -> None:
        """Begin, unless it has begun."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit_s, self._late)

    def end(self) -> None:
        """It ended, if it had begun."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def uvicorn_config(app: Any, settings: Settings) -> Config:  # Any: uvicorn's type of an app
    """How uvicorn serves the app, as a process and in tests."""
    return Config(
        app,
        loop="uvloop",
        http=cast("Any", partial(BoundedHttpProtocol, settings)),  # called as the class would be
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=settings.connections_max,
        timeout_graceful_shutdown=settings.shutdown_s,
    )


def _reply_bytes(error: ApiError) -> bytes:
    headers = {**(error.headers or {}), "Connection": "close"}
    reply = error_response(error.answer, str(error.detail), error.more_info, headers)
    fields = [name + b": " + value + b"\r\n" for name, value in reply.raw_headers]
    return b"".join([STATUS_LINE[reply.status_code], *fields, b"\r\n", bytes(reply.body)])
