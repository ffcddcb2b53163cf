"""Ports for nodes in tests and benchmarks."""

import os
import socket
from typing import Final

__all__ = ["free_ports"]

_FIRST: Final = 10_000
_LAST: Final = 32_000
"""Below the ports that Linux gives to outgoing connections (32768 on): while a node is down, a peer
that dials it could be given the node's own port, connect to itself, and keep the node from it."""


def free_ports(count: int = 3) -> int:
    """The first of so many ports in a row that nothing listens on. Raises OSError."""
    span = _LAST - _FIRST
    for step in range(0, span, 11):
        first = _FIRST + (os.getpid() * 17 + step) % span
        listeners = []
        try:
            for port in range(first, first + count):
                listeners.append(socket.create_server(("127.0.0.1", port)))  # noqa: PERF401
        except OSError:
            continue
        finally:
            for listener in listeners:
                listener.close()
        return first
    raise OSError(f"no {count} ports in a row are free")
