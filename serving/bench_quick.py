"""A client of an engine node that costs as little as the one of etcd beside it.

Every request is bytes made beforehand but for its numbers, and of a reply only its kind is looked
at. So what is measured is the cluster, not the client; `EngineClient` is what a worker uses.
"""

import socket
from pathlib import Path
from typing import Final

from feeds.replication.frames import HEADER_BYTES, frame
from feeds.socket_protocol import Submit, encode
from serving.bench_nodes import Puts

__all__ = ["QuickClient"]

_RECEIVE_BYTES: Final = 256 * 1024
_ID_BYTES: Final = 8
_FIRST_ID: Final = 1 << 40
"""So large that every id takes eight bytes."""

_KIND: Final = slice(2, 6)
"""Where a reply's bytes begin to say what it is: behind its array's and the text's own headers."""


class QuickClient:
    """One connection to a node, with any number of puts under way."""

    def __init__(self, path: Path, value_bytes: int) -> None:
        put = Puts(value_bytes)
        id_bytes = _FIRST_ID.to_bytes(_ID_BYTES)
        self._head, _, rest = frame(encode(Submit(_FIRST_ID, put(0)))).partition(id_bytes)
        self._middle, _, self._tail = rest.partition(b"%09d" % 0)
        self._count = 0
        self._received = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))

    def send(self, count: int) -> None:
        """Begin so many puts, each under a key of its own, in one write."""
        head, middle, tail, first = self._head, self._middle, self._tail, self._count
        self._count += count
        self._socket.sendall(
            b"".join(
                b"%b%b%b%09d%b"
                % (head, (_FIRST_ID + number).to_bytes(_ID_BYTES), middle, number, tail)
                for number in range(first, first + count)
            )
        )

    def receive(self) -> int:
        """Wait for replies; how many puts they end. Raises `RuntimeError` if one failed."""
        done = 0
        while not done:
            data = self._socket.recv(_RECEIVE_BYTES)
            if not data:
                raise ConnectionError("the node closed the connection")
            self._received += data
            done = self._take()
        return done

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _take(self) -> int:
        """Go through the whole frames that were received."""
        done, offset, received = 0, 0, self._received
        while len(received) - offset >= HEADER_BYTES:
            start = offset + HEADER_BYTES
            end = start + int.from_bytes(received[offset:start])
            if len(received) < end:
                break
            kind = received[start + _KIND.start : start + _KIND.stop]
            if kind == b"fail":
                raise RuntimeError(f"the node refused a put: {received[start:end]!r}")
            done += kind == b"done"
            offset = end
        self._received = received[offset:]
        return done
