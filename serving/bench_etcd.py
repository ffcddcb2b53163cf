"""etcd as the reference of replicated commits: three nodes on loopback, and a quick client.

The client speaks just enough gRPC over HTTP/2 to put keys: every request is bytes made beforehand
but for its key, and of a reply only its end is looked at; in the end the keys are counted. So what
is measured is etcd, not a Python gRPC library. Wire formats: RFC 9113 (HTTP/2), RFC 7541 (HPACK),
and etcd's rpc.proto.
"""

import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import psutil

__all__ = ["EtcdClient", "EtcdCluster"]

START_S_MAX: Final = 30.0
"""Seconds that three nodes may take to elect a leader."""

WINDOW_BYTES: Final = 2**31 - 1
"""How much a server may send before it is told to go on: all that it ever will."""

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_FRAME_HEADER_BYTES: Final = 9
_FRAME_BYTES_MAX: Final = 16_384
_WINDOW_SETTING: Final = 4
_WINDOW_BYTES_FIRST: Final = 65_535
_KEYS: Final = re.compile(rb"^etcd_debugging_mvcc_keys_total (\S+)$", re.MULTILINE)
_RECEIVE_BYTES: Final = 256 * 1024


class EtcdCluster:
    """Three etcd processes with their data in a directory."""

    def __init__(self, directory: Path) -> None:
        ports = _free_ports(6)
        self._clients, peers = ports[:3], ports[3:]
        names = [f"n{number}" for number in range(3)]
        members = ",".join(
            f"{name}=http://127.0.0.1:{port}" for name, port in zip(names, peers, strict=True)
        )
        self._processes = [
            subprocess.Popen(  # noqa: S603 - etcd, with arguments of ours
                [
                    str(shutil.which("etcd")),
                    *("--name", name, "--data-dir", str(directory / name)),
                    *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
                    *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
                    *("--listen-client-urls", f"http://127.0.0.1:{client}"),
                    *("--advertise-client-urls", f"http://127.0.0.1:{client}"),
                    *("--initial-cluster", members, "--initial-cluster-state", "new"),
                    *("--log-level", "error"),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for name, peer, client in zip(names, peers, self._clients, strict=True)
        ]

    @staticmethod
    def installed() -> bool:
        """Whether there is an etcd to measure (Debian: etcd-server)."""
        return shutil.which("etcd") is not None

    def leader(self) -> int:
        """The client port of the node that leads; raises `TimeoutError` if none does in time."""
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline:
            for port in self._clients:
                if b"\netcd_server_is_leader 1\n" in _metrics(port):
                    return port
            time.sleep(0.05)
        raise TimeoutError(f"etcd elected no leader within {START_S_MAX:g} s")

    def keys(self, port: int) -> int:
        """How many keys the node with this client port holds: whether every put took effect."""
        found = _KEYS.search(_metrics(port))
        return int(float(found[1])) if found else 0

    def kill(self, port: int) -> None:
        """Kill the node with this client port, at once."""
        self._processes[self._clients.index(port)].kill()

    def cpu_s(self) -> float:
        """Processor seconds that the three have used."""
        times = [psutil.Process(process.pid).cpu_times() for process in self._processes]
        return float(sum(one.user + one.system for one in times))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()


@dataclass(slots=True)
class _Body:
    """What is left to send of a request that was longer than a frame or a window."""

    stream: int
    rest: bytes
    window: int


class EtcdClient:
    """One connection to an etcd, with any number of puts under way."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._headers = _put_headers(f"127.0.0.1:{port}")
        self._stream = -1
        self._received = b""
        self._window = self._stream_window = _WINDOW_BYTES_FIRST
        self._blocked: dict[int, _Body] = {}
        settings = struct.pack(">HI", _WINDOW_SETTING, WINDOW_BYTES)
        self._socket.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW, 0, 0, struct.pack(">I", WINDOW_BYTES - _WINDOW_BYTES_FIRST))
        )

    def send(self, puts: Sequence[tuple[bytes, bytes]]) -> None:
        """Begin to put these pairs, in one write.

        What the server's windows do not admit leaves while `receive` waits.
        """
        frames = []
        for key, value in puts:
            self._stream += 2
            message = b"\n" + _varint(len(key)) + key + b"\x12" + _varint(len(value)) + value
            body = b"\0" + struct.pack(">I", len(message)) + message
            frames.append(_frame(_HEADERS, _END_HEADERS, self._stream, self._headers))
            if self._blocked or len(body) > min(
                self._window, self._stream_window, _FRAME_BYTES_MAX
            ):
                self._blocked[self._stream] = _Body(self._stream, body, self._stream_window)
            else:
                frames.append(_frame(_DATA, _END_STREAM, self._stream, body))
                self._window -= len(body)
        self._socket.sendall(b"".join(frames))
        self._send_blocked()

    def receive(self) -> int:
        """Wait for replies; how many puts they end. Raises `RuntimeError` if one failed."""
        ended = 0
        while not ended:
            data = self._socket.recv(_RECEIVE_BYTES)
            if not data:
                raise ConnectionError("etcd closed the connection")
            self._received += data
            ended = self._take()
            self._send_blocked()
        return ended

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _take(self) -> int:
        """Go through the whole frames that were received."""
        ended, offset, received = 0, 0, self._received
        while len(received) - offset >= _FRAME_HEADER_BYTES:
            length = int.from_bytes(received[offset : offset + 3])
            kind, flags = received[offset + 3], received[offset + 4]
            end = offset + _FRAME_HEADER_BYTES + length
            if len(received) < end:
                break
            stream = int.from_bytes(received[offset + 5 : offset + _FRAME_HEADER_BYTES])
            payload = received[offset + _FRAME_HEADER_BYTES : end]
            ended += self._take_frame(kind, flags, stream, payload)
            offset = end
        self._received = received[offset:]
        return ended

    def _take_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> int:
        if kind == _WINDOW:
            self._widen(stream, int.from_bytes(payload[:4]) & 0x7FFFFFFF)
        elif kind == _SETTINGS and not flags & _ACK:
            self._take_settings(payload)
            self._socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind in (_RESET, _GOAWAY):
            raise RuntimeError("etcd refused a put")
        return int(kind == _HEADERS and bool(flags & _END_STREAM))

    def _widen(self, stream: int, count: int) -> None:
        if stream == 0:
            self._window += count
        elif stream in self._blocked:
            self._blocked[stream].window += count

    def _take_settings(self, payload: bytes) -> None:
        for setting, value in struct.iter_unpack(">HI", payload):
            if setting == _WINDOW_SETTING:
                for body in self._blocked.values():
                    body.window += value - self._stream_window
                self._stream_window = value

    def _send_blocked(self) -> None:
        """Send as much as the windows admit of what waits, the first first."""
        frames = []
        for body in list(self._blocked.values()):
            while size := max(0, min(len(body.rest), _FRAME_BYTES_MAX, self._window, body.window)):
                part, body.rest = body.rest[:size], body.rest[size:]
                self._window -= size
                body.window -= size
                frames.append(_frame(_DATA, 0 if body.rest else _END_STREAM, body.stream, part))
            if not body.rest:
                del self._blocked[body.stream]
            if self._window <= 0:
                break
        if frames:
            self._socket.sendall(b"".join(frames))


def _put_headers(authority: str) -> bytes:
    """The header block of a put: literals without indexing, so that it is the same every time."""
    pairs = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/etcdserverpb.KV/Put"),
        (b":authority", authority.encode()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    return b"".join(
        b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in pairs
    )


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _metrics(port: int) -> bytes:
    """What the etcd at this port tells of itself; empty while it does not listen."""
    text = b""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        while data := connection.recv(_RECEIVE_BYTES):
            text += data
    return text


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
