"""A fourth process knocks at a running node's doors: it changes nothing, and costs little memory.

Its connections are all hung up on: strangers within `TransportConfig.hello_s_max` (3 s), or at once
where others press; a half-sent request of the unix socket within `SocketConfig.frame_s_max` (3 s).
What may be: `MEMORY_BYTES_MAX` more memory in the node, through all of it and the clients' work.
"""

import datetime as dt
import pickle
import resource
import selectors
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec
import pytest

from feeds.node_config import NodeConfig
from feeds.replication.certificates import NodeFiles, make_certificates, node_name
from feeds.replication.frames import frame
from feeds.replication.messages import MESSAGE_VERSION
from feeds.testing_cluster import NODES, ProcessCluster, wait_for

MEMORY_BYTES_MAX = 64 * 1024 * 1024
HUNG_UP_S_MAX = 15.0  # well beyond the limits, and far below those of TLS (60 s) and TCP
GARBAGE = Random(7).randbytes(100_000)
HUGE = (2**31).to_bytes(4) + bytes(1_000)
HALF = (1_000).to_bytes(4) + bytes(10)
STRANGER = "n9"


class Marker:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (open, (str(self.path), "w"))


def knock(address: tuple[str, int] | Path) -> socket.socket:
    if isinstance(address, Path):
        with ExitStack() as stack:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(HUNG_UP_S_MAX)
            connection.connect(str(address))
            stack.pop_all()
        return connection
    return socket.create_connection(address, timeout=HUNG_UP_S_MAX)


def say(connection: socket.socket, data: bytes) -> socket.socket:
    with suppress(OSError):  # it may have hung up before all was said
        connection.sendall(data)
    return connection


def is_hung_up(connection: socket.socket) -> bool:
    """Read what there is; whether that was the last."""
    try:
        while data := connection.recv(65_536):
            del data
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        pass
    return True


def wait_hung_up(connections: Sequence[socket.socket], what: str) -> None:
    deadline = time.monotonic() + HUNG_UP_S_MAX
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            assert left > 0, f"{what}: {len(selector.get_map())} are still connected"
            for key, _ in selector.select(left):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if is_hung_up(connection):
                    selector.unregister(connection)
    for connection in connections:
        connection.close()


def memory_bytes(process: int, name: str = "VmHWM") -> int:
    """The most (VmHWM) or what it has (VmRSS) of memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def open_files(process: int) -> int:
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def hello(node: str, cluster_id: str = "test", version: int = MESSAGE_VERSION) -> bytes:
    return frame(msgspec.msgpack.encode([version, cluster_id, node, "", False, "consensus"]))


@dataclass
class Doors:
    """A node under attack: its addresses, and what must not change."""

    cluster: ProcessCluster
    node: str
    tls: NodeFiles | None
    foreign: NodeFiles
    scratch: Path
    idle: int
    stack: ExitStack
    memory_before: int = 0
    files_before: int = 0

    @property
    def address(self) -> tuple[str, int]:
        config = NodeConfig.load(self.cluster.directory / f"{self.node}.toml")
        return config.addresses()[self.node]

    @property
    def unix(self) -> Path:
        return self.cluster.directory / f"{self.node}.sock"

    @property
    def process(self) -> int:
        return self.cluster.process(self.node)

    @property
    def pickles(self) -> bytes:
        return pickle.dumps(Marker(self.scratch / "unpickled"))

    def stand(self) -> dict[str, int]:
        """Terms of the nodes, and who leads."""
        found = {}
        for node in NODES:
            status = self.cluster.status(node)
            assert status is not None
            found[f"{node} {status.role}"] = status.term
        return found

    def secured(self, files: NodeFiles | None, authority: Path) -> socket.socket:
        """A connection that speaks TLS, with some certificate or none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(authority)
        if files is not None:
            context.load_cert_chain(files.cert, files.key)
        with ExitStack() as stack:
            plain = stack.enter_context(knock(self.address))
            name = node_name(self.node, "test")
            connection = context.wrap_socket(plain, server_hostname=name)
            stack.pop_all()
        return connection

    def spoken(self, data: bytes) -> list[socket.socket]:
        """What is sent through connections of every kind that a stranger can make."""
        connections = [say(knock(self.address), data)]
        if self.tls is not None:
            connections.append(say(self.secured(self.tls, self.tls.ca), data))
        else:
            connections.append(say(knock(self.address), hello("n2") + data))
        return connections


def without_certificate(doors: Doors) -> list[socket.socket]:
    if doors.tls is None:
        return []
    return [say(doors.secured(None, doors.tls.ca), hello("n2"))]


def certificate_of_another_authority(doors: Doors) -> list[socket.socket]:
    if doors.tls is None:
        return []
    connections = [say(doors.secured(doors.foreign, doors.tls.ca), hello("n2"))]
    with pytest.raises(ssl.SSLError):  # who asks for the node's certificate sees that it is another
        doors.secured(doors.foreign, doors.foreign.ca)
    return connections


def greeting_of_nobody(doors: Doors) -> list[socket.socket]:
    """Right authority, wrong name: as itself, as another one, of other clusters and versions."""
    greetings = [hello(STRANGER), hello(doors.node), hello("n2", "other"), hello("n2", "test", 99)]
    if doors.tls is None:
        return [say(knock(doors.address), one) for one in greetings]
    greetings += [hello(node) for node in NODES]
    return [say(doors.secured(doors.tls, doors.tls.ca), one) for one in greetings]


def garbage(doors: Doors) -> list[socket.socket]:
    return doors.spoken(GARBAGE) + doors.spoken(frame(GARBAGE[:1_000]))


def pickles(doors: Doors) -> list[socket.socket]:
    return doors.spoken(doors.pickles) + doors.spoken(frame(doors.pickles))


def huge_prefix(doors: Doors) -> list[socket.socket]:
    return doors.spoken(HUGE)


def slow_loris(doors: Doors) -> list[socket.socket]:
    """Half a greeting, or half a handshake of TLS, and then silence."""
    half = HALF if doors.tls is None else b"\x16\x03\x01\x02\x00\x01"
    connections = [say(knock(doors.address), half) for _ in range(200)]
    if doors.tls is not None:
        connections += [say(doors.secured(doors.tls, doors.tls.ca), HALF) for _ in range(20)]
    return connections


def idle_connections(doors: Doors) -> list[socket.socket]:
    return [knock(doors.address) for _ in range(doors.idle)]


def unix_garbage(doors: Doors) -> list[socket.socket]:
    data = (GARBAGE, frame(GARBAGE[:1_000]), doors.pickles, frame(doors.pickles), HUGE, HALF)
    return [say(knock(doors.unix), one) for one in data]


def unix_crowd(doors: Doors) -> list[socket.socket]:
    """Who is silent may stay; but no more than 64."""
    for _ in range(200):
        with suppress(OSError):
            doors.stack.push(knock(doors.unix))
    wait_for(lambda: open_files(doors.process) < doors.files_before + 100, "most to be hung up on")
    doors.stack.close()
    return []


ATTACKS = (
    without_certificate,
    certificate_of_another_authority,
    greeting_of_nobody,
    garbage,
    pickles,
    huge_prefix,
    slow_loris,
    idle_connections,
    unix_garbage,
    unix_crowd,
)


@pytest.fixture(
    params=[
        pytest.param(("tls", 400), id="tls"),
        pytest.param(("tls", 2_000), id="tls-crowd", marks=pytest.mark.slow),
        pytest.param(("plain", 2_000), id="plain-crowd", marks=pytest.mark.slow),
    ]
)
def doors(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Doors]:
    """The leader's, while clients work."""
    foreign, certs = tmp_path / "foreign", tmp_path / "c" / "certs"
    mode, idle = request.param
    now, plain = dt.datetime.now(dt.UTC), mode == "plain"

    def prepare(directory: Path) -> None:
        make_certificates(foreign, "test", ["n2"], now, 10)
        if not plain:  # one more than the cluster has nodes
            shutil.rmtree(directory / "certs")
            make_certificates(certs, "test", [*NODES, STRANGER], now, 10)

    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < idle + 500:
        pytest.skip(f"{idle} connections need more than the {most} files that may be open here")
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (limit, most))
        cluster = ProcessCluster(tmp_path, plain=plain, prepare=prepare)
        stack.callback(cluster.end)
        cluster.begin()
        own = NodeFiles(certs / "ca.pem", certs / f"{STRANGER}.pem", certs / f"{STRANGER}.key")
        other = NodeFiles(foreign / "ca.pem", foreign / "n2.pem", foreign / "n2.key")
        leader = cluster.leader()
        cluster.work(100)
        connections = stack.enter_context(ExitStack())
        tls = None if plain else own
        yield Doors(cluster, leader, tls, other, tmp_path, idle, connections)


def test_stranger_changes_nothing_and_costs_little(doors: Doors) -> None:
    cluster, before = doors.cluster, doors.stand()
    doors.memory_before = memory_bytes(doors.process)
    doors.files_before = open_files(doors.process)
    for attack in ATTACKS:
        connections = attack(doors)
        cluster.work(20)
        wait_hung_up(connections, attack.__name__)
        assert before == doors.stand(), attack.__name__
        grown = memory_bytes(doors.process) - doors.memory_before
        assert grown < MEMORY_BYTES_MAX, attack.__name__
    few = doors.files_before + 20
    cluster.wait_for(lambda: open_files(doors.process) < few, "its files to be closed")
    assert not (doors.scratch / "unpickled").exists()
    assert "Traceback" not in cluster.log(doors.node)
    cluster.judge()
