"""Connections between the nodes of a cluster: mutual TLS, one in each direction of a pair.

A node dials every peer, and sends on the connections that it dialed; on those that it accepted it
listens. The dialer says who it is (`Hello`), the other checks it against the certificate, the
cluster and the members, and answers. Nothing else is read before that, and that little of it.
Strangers have little time and few places: see `accepting`.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal, NamedTuple, TypeVar
from weakref import WeakSet

import msgspec
import structlog

from feeds.errors import ClusterMismatch, InvalidInput
from feeds.replication.accepting import Acceptor, notice_silence
from feeds.replication.certificates import NodeFiles, node_name
from feeds.replication.connection import Connection
from feeds.replication.messages import MESSAGE_VERSION, Message, decode_message, encode_message

__all__ = ["Address", "Listener", "Transport", "TransportConfig", "check_addresses"]

_log = structlog.get_logger(__name__)

HELLO_BYTES_MAX: Final = 4_096
"""Bytes of what a stranger says first."""

_CLOSING_TURNS: Final = 5
"""Turns of the loop in which aborted connections are taken down."""

_PARTING_S_MAX: Final = 1.0
"""Seconds in which the other end must take what was said last."""


class Address(NamedTuple):
    """Where a node listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportConfig:
    """Who is in the cluster, where, and the limits of connections."""

    cluster_id: str
    """Names the cluster: nodes of another one are refused."""

    node: str
    """Names this node among `nodes`."""

    nodes: Mapping[str, Address]
    """Every node of the cluster, this one too."""

    tls: NodeFiles | None
    """Certificates; None speaks plain, which is refused where an address is not on loopback."""

    incarnation: str = ""
    """Of this node's directory: another one means that it begins with nothing."""

    joining: bool = False
    """Whether this node begins with nothing."""

    message_bytes_max: int = 8 * 1024 * 1024
    """Bytes of one message at most."""

    unsent_bytes_max: int = 32 * 1024 * 1024
    """Bytes that may wait for a peer that does not read; what comes then is dropped, and is sent
    again by consensus."""

    connections_max: int = 64
    """Connections that peers may have at once, and as many that strangers may."""

    hello_s_max: float = 3.0
    """Seconds in which a stranger must say who it is, and a peer that is dialed must answer."""

    silence_s_max: float = 5.0
    """Seconds in which a peer's machine must acknowledge what it was sent, or a probe; then the
    connection is given up, and dialed anew. Without that TCP waits for a quarter of an hour."""

    redial_s: tuple[float, float] = (0.05, 1.0)
    """Seconds before a peer is dialed again: at first, and at most."""


class _Hello(msgspec.Struct, frozen=True, array_like=True):
    version: int
    cluster_id: str
    node: str
    incarnation: str
    joining: bool
    kind: Literal["consensus", "snapshot"]


class _Welcome(msgspec.Struct, frozen=True, array_like=True):
    refused: str | None
    incarnation: str = ""
    joining: bool = False


_Greeting = TypeVar("_Greeting", _Hello, _Welcome)


class Listener(NamedTuple):
    """Whom the transport tells; all of it on the event loop."""

    received: Callable[[str, list[Message]], None]
    connected: Callable[[str, bool], None]
    """(peer, whether it begins with nothing)"""
    disconnected: Callable[[str], None]
    snapshot: Callable[[str, Connection], Awaitable[None]]
    """(peer, its connection): a snapshot comes; the connection is closed when that is done."""


def check_addresses(nodes: Mapping[str, Address], tls: NodeFiles | None) -> None:
    """Raise `InvalidInput` where nodes would speak plain beyond this machine."""
    if tls is not None:
        return
    for node, address in nodes.items():
        try:
            loopback = ipaddress.ip_address(address.host).is_loopback
        except ValueError:
            loopback = address.host == "localhost"
        if not loopback:
            raise InvalidInput(
                f"node {node} is at {address.host}, which is not this machine, and there are no "
                "certificates: make them with `headwater certs`, and name them under [tls]"
            )


class Transport:
    """A node's connections. One event loop; `start` and `stop` on it."""

    def __init__(self, config: TransportConfig, listener: Listener, random: Random) -> None:
        check_addresses(config.nodes, config.tls)
        self._config = config
        self._listener = listener
        self._random = random
        self._acceptor = Acceptor(config.connections_max, self._accept, self._turn_away)
        self._out: dict[str, Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: WeakSet[Connection] = WeakSet()
        self._known = 0
        self._incarnations: dict[str, str] = {}
        self._mismatches: dict[str, str] = {}
        self._in: dict[Connection, tuple[str, str]] = {}  # (node, incarnation)
        self._server_tls, self._client_tls = _contexts(config.tls)
        self.refused = 0
        """Connections that were turned away so far."""

    async def start(self) -> None:
        """Listen, and dial every peer. Raises OSError where the address cannot be used."""
        own = self._config.nodes[self._config.node]
        await self._acceptor.start(own.host, own.port)
        for peer in self._config.nodes:
            if peer != self._config.node:
                self._spawn(self._keep_dialing(peer))

    async def stop(self) -> None:
        """Hang up everywhere."""
        await self._acceptor.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._connections):
            connection.abort()
        for _ in range(_CLOSING_TURNS):
            await asyncio.sleep(0)

    def send(self, peer: str, message: Message) -> None:
        """Send a message, if the peer is connected and takes what it is sent."""
        connection = self._out.get(peer)
        if connection is None:
            return
        if connection.transport.get_write_buffer_size() > self._config.unsent_bytes_max:
            return
        connection.send(encode_message(message))

    async def dial_snapshot(self, peer: str) -> Connection:
        """A connection to send a snapshot on. Raises OSError, `ClusterMismatch`."""
        connection, _ = await self._dial(peer, "snapshot")
        return connection

    async def _keep_dialing(self, peer: str) -> None:
        first_s, most_s = self._config.redial_s
        pause_s = first_s
        while True:
            try:
                connection, welcome = await self._dial(peer, "consensus")
            except (ssl.SSLError, ClusterMismatch) as error:
                self._tell_mismatch(peer, error)
            except (OSError, TimeoutError, InvalidInput) as error:
                _log.debug("peer_unreachable", peer=peer, why=str(error))
            else:
                pause_s = first_s
                self._mismatches.pop(peer, None)
                self._out[peer] = connection
                self._hang_up_on_twins(peer, welcome.incarnation)
                known = self._incarnations.get(peer, welcome.incarnation)
                self._incarnations[peer] = welcome.incarnation
                self._listener.connected(peer, welcome.joining or known != welcome.incarnation)
                try:
                    await connection.read()  # it never says more: this ends with the connection
                except (OSError, ssl.SSLError, InvalidInput) as error:
                    _log.debug("peer_lost", peer=peer, why=str(error))
                finally:
                    del self._out[peer]
                    connection.transport.close()
                    self._listener.disconnected(peer)
            await asyncio.sleep(pause_s * self._random.uniform(0.8, 1.2))
            pause_s = min(2 * pause_s, most_s)

    def _hang_up_on_twins(self, peer: str, incarnation: str) -> None:
        """Whoever said before that it is this peer, and is not: it is told when it dials again."""
        for connection, said in self._in.items():
            if said[0] == peer and said[1] != incarnation:
                connection.abort()

    def _tell_mismatch(self, peer: str, error: ssl.SSLError | ClusterMismatch) -> None:
        """Say why a peer and this node do not fit: once, until it is another reason."""
        why = str(error)
        if isinstance(error, ssl.SSLError):
            address = self._config.nodes[peer]
            why = (
                f"no TLS with {peer} at {address.host}:{address.port}: {error}. One of the two has "
                "a certificate of another cluster or node, or it has expired: give each the ca.pem "
                "of this cluster, and its own certificate and key (`headwater certs`)"
            )
        if self._mismatches.get(peer) != why:
            self._mismatches[peer] = why
            _log.error("peer_mismatch", peer=peer, why=why)

    async def _dial(
        self, peer: str, kind: Literal["consensus", "snapshot"]
    ) -> tuple[Connection, _Welcome]:
        config, address = self._config, self._config.nodes[peer]
        async with asyncio.timeout(config.hello_s_max):
            connection = self._new_connection()
            await asyncio.get_running_loop().create_connection(
                lambda: connection,
                address.host,
                address.port,
                ssl=self._client_tls,
                server_hostname=node_name(peer, config.cluster_id) if self._client_tls else None,
            )
            try:
                _refuse_itself(connection)
                # What receives a snapshot may be busy for long, and that stream has its own limit.
                notice_silence(connection, config.silence_s_max, unread=kind == "consensus")
                hello = _Hello(
                    MESSAGE_VERSION,
                    config.cluster_id,
                    config.node,
                    config.incarnation,
                    config.joining,
                    kind,
                )
                await connection.write(msgspec.msgpack.encode(hello))
                welcome = _welcomed(peer, await connection.read())
            except BaseException:
                connection.transport.close()
                raise
        return connection, welcome

    def _new_connection(self) -> Connection:
        connection = Connection(HELLO_BYTES_MAX)
        self._connections.add(connection)
        return connection

    async def _accept(self, accepted: socket.socket) -> None:
        """The life of a connection that another one dialed."""
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self._config.hello_s_max):
                connection = await self._open(accepted)
                hello = await self._greet(connection)
            if hello is not None:
                await self._serve(hello, connection)
        except (OSError, ssl.SSLError, InvalidInput, TimeoutError) as error:
            self._turn_away(str(error) or type(error).__name__)
        except asyncio.CancelledError:
            if connection is not None:
                connection.abort()
            raise
        if connection is not None:
            await _part(connection)

    async def _open(self, accepted: socket.socket) -> Connection:
        """Speak TLS, if there are certificates. Raises OSError, ssl.SSLError."""
        connection = self._new_connection()
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: connection, accepted, ssl=self._server_tls
        )
        notice_silence(connection, self._config.silence_s_max, unread=False)
        return connection

    async def _greet(self, connection: Connection) -> _Hello | None:
        """Who dialed; None where it hung up, or is no peer."""
        first = await connection.read()
        if first is None:
            return None
        hello = _decode(first, _Hello)
        refused = next(self._problems(hello, connection), None)
        config = self._config
        welcome = _Welcome(refused, config.incarnation, config.joining)
        await connection.write(msgspec.msgpack.encode(welcome))
        if refused is not None:
            self._turn_away(refused)
            return None
        return hello

    async def _serve(self, hello: _Hello, connection: Connection) -> None:
        self._acceptor.known()
        if self._known >= self._config.connections_max:
            self._turn_away(f"the peers have {self._known} connections")
            return
        self._known += 1
        connection.frame_bytes_max = self._config.message_bytes_max
        try:
            if hello.kind == "snapshot":
                await self._listener.snapshot(hello.node, connection)
                return
            self._in[connection] = (hello.node, hello.incarnation)
            try:
                await self._listen(hello.node, connection)
            finally:
                del self._in[connection]
        except (OSError, ssl.SSLError) as error:
            _log.debug("peer_lost", peer=hello.node, why=str(error))
        finally:
            self._known -= 1

    async def _listen(self, peer: str, connection: Connection) -> None:
        """Hand on what a peer says, all that arrived at once."""
        received = self._listener.received
        await connection.listen(
            lambda contents: received(peer, [decode_message(content) for content in contents])
        )

    def _problems(self, hello: _Hello, connection: Connection) -> Iterator[str]:
        """Why a stranger is no peer, and what to do about it; nothing if it is one."""
        config, node = self._config, hello.node
        if hello.version != MESSAGE_VERSION:
            yield (
                f"it speaks version {hello.version}, and this node {MESSAGE_VERSION}: run one "
                "release on all nodes"
            )
        if hello.cluster_id != config.cluster_id:
            yield (
                f"it belongs to cluster {hello.cluster_id!r}, and this node to another: correct "
                "cluster_id, or the addresses under [nodes]"
            )
        if node == config.node:
            yield (
                f"it says that it is {node}, which is this node: two nodes have one id. Stop one "
                "of them, and correct its node and data_dir"
            )
        if node not in config.nodes:
            yield f"{node!r} is no node of this cluster: [nodes] must be the same in every config"
        if self._server_tls is not None:
            certificate = connection.info("peercert") or {}
            names = [
                value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"
            ]
            if node_name(node, config.cluster_id) not in names:
                yield (
                    f"its certificate names {names}, and it says that it is {node!r}: give it its "
                    "own certificate and key, or correct node"
                )
        if node in self._out and self._incarnations[node] != hello.incarnation:
            address = config.nodes[node]
            yield (
                f"it says that it is {node}, and another one with that id answers at "
                f"{address.host}:{address.port}: two nodes have one id. Stop one of them"
            )

    def _turn_away(self, why: str) -> None:
        self.refused += 1
        if self.refused < 10 or self.refused % 100 == 0:  # noqa: PLR2004 - whoever knocks on and on
            _log.warning("connection_refused", why=why[:300], refused=self.refused)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:  # Any: what it never yields
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _refuse_itself(connection: Connection) -> None:
    """Dialing a port that nobody listens on can connect it to itself, which would keep it taken."""
    if connection.info("sockname") == connection.info("peername"):
        raise ConnectionError("the connection is with itself: nobody listens there")


async def _part(connection: Connection) -> None:
    """Hang up; what was said last still leaves, if the other end takes it at once."""
    try:
        async with asyncio.timeout(_PARTING_S_MAX):
            await connection.close()
    except TimeoutError:
        connection.abort()


def _welcomed(peer: str, answer: bytes | None) -> _Welcome:
    if answer is None:
        raise ConnectionError(f"{peer} hung up")
    welcome = _decode(answer, _Welcome)
    if welcome.refused is not None:
        raise ClusterMismatch(f"{peer} refuses this node: {welcome.refused}")
    return welcome


def _decode(data: bytes, kind: type[_Greeting]) -> _Greeting:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"not a greeting between nodes: {error}") from error


def _contexts(tls: NodeFiles | None) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """(for accepting, for dialing): TLS 1.3, and certificates of the cluster's authority alone."""
    if tls is None:
        return None, None
    contexts = []
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(tls.ca)
            context.load_cert_chain(tls.cert, tls.key)
        except (OSError, ssl.SSLError) as error:
            raise ClusterMismatch(
                f"the certificates {tls.ca}, {tls.cert} and {tls.key} cannot be used: {error}. "
                "Make them with `headwater certs`"
            ) from error
        contexts.append(context)
    return contexts[0], contexts[1]
