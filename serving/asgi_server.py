"""uvicorn, and word of it once it listens."""

import gc
import socket
from collections.abc import Callable

import uvicorn

__all__ = ["ToldServer"]


class ToldServer(uvicorn.Server):
    """A server that calls `on_started` once it listens."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn, then tell."""
        await super().startup(sockets)
        if self.started:
            # What was loaded so far stays: a collection in a request need not look at it.
            gc.collect()
            gc.freeze()
            self._on_started()
