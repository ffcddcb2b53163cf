"""Bodies are counted as they come, and refused before they are held."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import BodyTooLarge

__all__ = ["BodyLimitMiddleware"]


class BodyLimitMiddleware:
    """Ends a request with `BodyTooLarge` at the byte after `body_bytes_max`.

    A body that announces its length is refused before its first byte is read; one that does not is
    counted chunk by chunk. The error is raised where the body is read, so nothing was changed.
    """

    def __init__(self, app: ASGIApp, body_bytes_max: int) -> None:
        self._app = app
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = _announced_bytes(scope)
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            if announced > self._body_bytes_max:
                raise BodyTooLarge(self._body_bytes_max)
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._body_bytes_max:
                raise BodyTooLarge(self._body_bytes_max)
            return message

        await self._app(scope, receive_counted, send)


def _announced_bytes(scope: Scope) -> int:
    """The content length, or 0 where the client gives none that can be read."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
