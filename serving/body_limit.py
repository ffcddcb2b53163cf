"""Bodies are counted and timed as they come, and refused before they are held."""

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import ApiError, BodyTooLarge, ClientTooSlow
from serving.http_protocol import BROKEN, LINGER_S

__all__ = ["BodyLimitMiddleware"]


class BodyLimitMiddleware:
    """Ends a request with an error at the byte after `body_bytes_max`, or after `timeout_s`.

    A body that announces its length is refused before its first byte is read; one that does not is
    counted chunk by chunk. The error is raised where the body is read, so nothing was changed.
    """

    def __init__(self, app: ASGIApp, body_bytes_max: int, timeout_s: float) -> None:
        self._app = app
        self._body_bytes_max = body_bytes_max
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive, self._body_bytes_max, self._timeout_s)

        async def send_then_linger(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not (last and body.refused):
                await send(message)
                return
            await send({**message, "more_body": True})
            await body.discard()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, body.receive, send_then_linger)


class _Body:
    """The body of one request, on its way."""

    def __init__(self, scope: Scope, receive: Receive, bytes_max: int, timeout_s: float) -> None:
        self._scope = scope
        self._receive = receive
        self._bytes_max = bytes_max
        self._timeout_s = timeout_s
        self._received = 0
        self._until_s: float | None = None
        self.refused = False
        """Whether it was too large: then there is more of it to come."""

    async def receive(self) -> Message:
        """The next part; raises what ends the request."""
        try:
            return await self._next()
        except BodyTooLarge:
            self.refused = True
            raise

    async def discard(self) -> None:
        """Take what the client still sends, and hold none of it, for `LINGER_S` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while (await self._receive()).get("more_body", False):
                    pass

    async def _next(self) -> Message:
        if self._until_s is None:
            self._until_s = asyncio.get_running_loop().time() + self._timeout_s
            self._count(_announced_bytes(self._scope))
        try:
            async with asyncio.timeout_at(self._until_s):
                message = await self._receive()
        except TimeoutError:
            raise ClientTooSlow("body", self._timeout_s) from None
        self._received += len(message.get("body", b""))
        self._count(self._received)
        broken: ApiError | None = self._scope.get(BROKEN)
        if broken is not None:
            raise broken
        return message

    def _count(self, count: int) -> None:
        if count > self._bytes_max:
            raise BodyTooLarge(self._bytes_max)


def _announced_bytes(scope: Scope) -> int:
    """The content length, or 0 where the client gives none; the HTTP parser takes digits alone."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)
    return 0
