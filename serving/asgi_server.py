"""uvicorn, and word of it once it listens; as one of several workers it takes its share."""

import gc
import socket
from asyncio import Server
from collections.abc import Callable
from typing import cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.acceptor import Acceptor, Places

__all__ = ["ToldServer"]


class ToldServer(uvicorn.Server):
    """A server that calls `on_started` once it listens.

    With `places` it is one of several processes that accept on the same socket.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_started: Callable[[], None],
        places: Places | None = None,
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._places = places

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn, then tell."""
        if self._places is None:
            await super().startup(sockets)
        else:
            await super().startup([])
            for listener in sockets or []:
                acceptor = Acceptor(
                    listener, self._places, self._make_protocol, self.server_state.connections
                )
                self.servers.append(cast("Server", acceptor))  # what uvicorn does is close it
        if self.started:
            # What was loaded so far stays: a collection in a request need not look at it.
            gc.collect()
            gc.freeze()
            self._on_started()

    def _make_protocol(self) -> HttpToolsProtocol:
        """A connection's protocol, as uvicorn makes it for a socket of its own."""
        protocol_class = cast("type[HttpToolsProtocol]", self.config.http_protocol_class)
        return protocol_class(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
