"""A node's socket and its client: the contract of a replica, and what each bears of the other."""

import asyncio
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from feeds.client import EngineClient
from feeds.errors import (
    FeedsError,
    InvalidInput,
    LimitExceeded,
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    StorageError,
    StorageFull,
)
from feeds.replication.base import Applied, ApplyCommand, LogPosition, Replica, ReplicaStatus
from feeds.replication.frames import FrameReader, frame
from feeds.replication.memory import MemoryReplica
from feeds.socket_protocol import (
    PROTOCOL_VERSION,
    REQUEST_BYTES_MAX,
    AppliedUpTo,
    Submit,
    Welcome,
    decode_reply,
    encode,
)
from feeds.socket_server import SocketConfig, SocketServer
from feeds.testing import Recorder, ReplicaContract

WAIT_S = 30.0


class LoopReplica:
    """A memory replica on an event loop of its own, as a node has one.

    It answers nothing while `held` is set.
    """

    def __init__(self, apply: ApplyCommand, applied_index: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.replica = MemoryReplica(apply, applied_index)
        self.held: list[Callable[[], None]] | None = None
        self._watchers: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def submit_on_loop(self, command: bytes, done: Callable[[Applied | FeedsError], None]) -> None:
        try:
            told: Applied | FeedsError = self.replica.propose(command).result()
        except FeedsError as error:
            told = error
        if self.held is not None:
            self.held.append(lambda: done(told))
            return
        done(told)
        for watcher in self._watchers:
            watcher()

    def watch(self, watcher: Callable[[], None]) -> None:
        self._watchers.append(watcher)

    def status(self) -> ReplicaStatus:
        return self.replica.status()

    def run(self, coroutine: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WAIT_S)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT_S)
        self.loop.close()


class Node:
    """A server on a memory replica; `stop` and `start` are a restart."""

    def __init__(
        self,
        path: Path,
        apply: ApplyCommand | None = None,
        applied_index: int = 0,
        config: SocketConfig | None = None,
    ) -> None:
        self.path = path
        self.replica = LoopReplica(apply or Recorder(), applied_index)
        self._config = config
        self.start()

    def start(self) -> None:
        self.server = SocketServer(
            self.replica,
            Welcome(PROTOCOL_VERSION, "n1", "test", "/nowhere"),
            self._checkpoint,
            lambda: 0,
            self._config,
        )
        self.replica.run(self.server.start(self.path))

    def stop(self) -> None:
        self.replica.run(self.server.stop())

    def close(self) -> None:
        self.stop()
        self.replica.close()

    def _checkpoint(self, path: Path) -> LogPosition:
        if path.exists():
            raise StorageError(f"{path} exists: choose another one")
        path.mkdir()
        return LogPosition(self.replica.status().applied_index, 1)


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hw") as short:  # a socket's path is short
        yield Path(short) / "n1.sock"


@pytest.fixture
def node(path: Path) -> Iterator[Node]:
    with closing(Node(path)) as node:
        yield node


@pytest.fixture
def client(node: Node) -> Iterator[EngineClient]:
    with closing(EngineClient.connect(node.path)) as client:
        yield client


class TestEngineClient(ReplicaContract):
    @pytest.fixture(autouse=True)
    def _nodes(self) -> Iterator[None]:
        with ExitStack() as self.stack:
            yield

    def open_replica(self, directory: Path, apply: ApplyCommand, applied_index: int) -> Replica:
        short = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="hw"))
        path = Path(short) / directory.name
        self.stack.enter_context(closing(Node(path, apply, applied_index)))
        return self.stack.enter_context(closing(EngineClient.connect(path)))


def answers(path: Path, *sent: bytes) -> list[object]:
    """What a peer that sends these bytes, and no more, is told until it is hung up on."""
    with closing(socket.socket(socket.AF_UNIX)) as peer:
        peer.settimeout(WAIT_S)
        peer.connect(str(path))
        for data in sent:
            peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        frames, told = FrameReader(REQUEST_BYTES_MAX), []
        while data := _received(peer):
            told += [decode_reply(content) for content in frames.feed(data)]
    return told


def _received(peer: socket.socket) -> bytes:
    try:
        return peer.recv(65_536)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        (2**31).to_bytes(4) + b"x" * 100,
        frame(b"\x80\x04\x95K\x00."),
        frame(encode(Submit(1, b"x"))[:-1]),
        b"\0\0",
        frame(b"\x91" * 100_000),
    ],
    ids=["http", "2 GiB", "pickle", "half a message", "half a frame", "deep"],
)
def test_peer_that_sends_garbage_is_hung_up_on_and_changes_nothing(
    garbage: bytes, node: Node, client: EngineClient
) -> None:
    kinds = [type(told) for told in answers(node.path, garbage)]
    assert kinds in ([Welcome, AppliedUpTo], [])
    assert 1 == client.propose(b"after").result(WAIT_S).index


def test_only_its_owner_may_use_the_socket(node: Node) -> None:
    assert 0o600 == stat.S_IMODE(node.path.stat().st_mode)


def test_socket_that_nobody_listens_on_is_replaced_and_another_is_not(node: Node) -> None:
    server = SocketServer(node.replica, Welcome(1, "n2", "test", ""), node._checkpoint, lambda: 0)
    with pytest.raises(StorageError, match="another process listens"):
        node.replica.run(server.start(node.path))
    node.stop()
    with closing(socket.socket(socket.AF_UNIX)) as stale:
        stale.bind(str(node.path))
    node.start()
    with closing(EngineClient.connect(node.path)) as client:
        assert "leader" == client.status().role


def test_client_connects_again_and_goes_on(node: Node, client: EngineClient) -> None:
    assert 1 == client.propose(b"a").result(WAIT_S).index
    node.stop()
    _wait_for(lambda: client.welcome is None)
    with pytest.raises(NoLeader, match="nothing was sent"):
        client.propose(b"b").result(WAIT_S)
    node.start()
    assert client.wait_connected(WAIT_S)
    assert 2 == client.propose(b"c").result(WAIT_S).index


def test_write_whose_answer_is_lost_is_unknown(node: Node, client: EngineClient) -> None:
    node.replica.held = []
    future = client.propose(b"a")
    _wait_for(lambda: bool(node.replica.held))
    node.stop()
    with pytest.raises(OutcomeUnknown, match="may have taken effect"):
        future.result(WAIT_S)


def test_write_that_is_not_answered_in_time_is_unknown(node: Node) -> None:
    node.replica.held = []
    with closing(EngineClient(node.path, timeout_s=0.1)) as client:
        assert client.wait_connected(WAIT_S)
        with pytest.raises(OutcomeUnknown, match="did not answer in time"):
            client.propose(b"a").result(WAIT_S)


def test_node_that_reads_nothing_for_a_while_is_sent_every_request_whole(
    node: Node, client: EngineClient
) -> None:
    stall = threading.Event()
    node.replica.loop.call_soon_threadsafe(stall.wait, 0.5)  # longer than the client looks away
    futures = [client.propose(b"%d" % number + bytes(10_000)) for number in range(100)]
    assert [*range(1, 101)] == [future.result(WAIT_S).index for future in futures]


def test_node_that_reads_nothing_any_more_is_left_and_every_outcome_is_unknown(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as deaf:
        deaf.bind(str(path))
        deaf.listen()
        with closing(EngineClient(path, timeout_s=0.2)) as client:
            peer, _ = deaf.accept()
            with closing(peer):
                peer.sendall(frame(encode(Welcome(PROTOCOL_VERSION, "n1", "test", ""))))
                assert client.wait_connected(WAIT_S)
                futures = [client.propose(bytes(100_000)) for _ in range(20)]
                kinds = {type(future.exception(WAIT_S)) for future in futures}
    assert OutcomeUnknown in kinds
    assert kinds <= {OutcomeUnknown, NoLeader}, "once it is left, nothing is sent"


def test_requests_of_one_connection_are_bounded(path: Path) -> None:
    with (
        closing(Node(path, config=SocketConfig(requests_max=3))) as node,
        closing(EngineClient.connect(path)) as client,
    ):
        node.replica.held = []
        waiting = [client.propose(b"%d" % number) for number in range(3)]
        with pytest.raises(Overloaded, match="unanswered"):
            client.propose(b"4").result(WAIT_S)
        for answer in node.replica.held:
            node.replica.loop.call_soon_threadsafe(answer)
        assert [1, 2, 3] == [future.result(WAIT_S).index for future in waiting]


def test_connections_are_bounded(path: Path) -> None:
    with (
        closing(Node(path, config=SocketConfig(connections_max=1))),
        closing(EngineClient.connect(path)) as client,
    ):
        assert [] == answers(path)
        assert 1 == client.propose(b"a").result(WAIT_S).index


def test_command_that_is_too_long_is_refused_before_it_is_sent(client: EngineClient) -> None:
    with pytest.raises(LimitExceeded, match="too long"):
        client.propose(bytes(REQUEST_BYTES_MAX))
    assert 1 == client.propose(b"a").result(WAIT_S).index


def test_errors_come_as_what_they_are(path: Path) -> None:
    def full(_: int, __: int, ___: bytes) -> bytes:
        raise AssertionError

    with closing(Node(path, full)) as node, closing(EngineClient.connect(path)) as client:
        for error in (
            StorageFull("the disk is full"),
            NoLeader("nobody leads"),
            LimitExceeded("too long"),
        ):

            def refuse(_: bytes, error: FeedsError = error) -> "Future[Applied]":
                refused: Future[Applied] = Future()
                refused.set_exception(error)
                return refused

            node.replica.replica.propose = refuse  # type: ignore[method-assign]
            with pytest.raises(type(error), match=str(error)):
                client.propose(b"a").result(WAIT_S)


def test_client_is_told_how_far_the_store_is(client: EngineClient) -> None:
    told: list[AppliedUpTo] = []
    client.watch(told.append)
    futures = [client.propose(b"%d" % number) for number in range(100)]
    last = futures[-1].result(WAIT_S).index
    _wait_for(lambda: bool(told) and told[-1].index == last)
    indexes = [one.index for one in told]
    assert sorted(indexes) == indexes
    assert client.where == told[-1]


def test_checkpoint_says_up_to_where_it_is_and_a_refusal_is_an_error(
    client: EngineClient, tmp_path: Path
) -> None:
    client.propose(b"a").result(WAIT_S)
    assert LogPosition(1, 1) == client.checkpoint(tmp_path / "copy")
    with pytest.raises(InvalidInput, match="exists: choose another one"):
        client.checkpoint(tmp_path / "copy")


def test_node_of_another_release_is_not_spoken_to(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feeds.socket_server.PROTOCOL_VERSION", PROTOCOL_VERSION + 1)
    with closing(Node(path)), closing(EngineClient(path)) as client:
        assert not client.wait_connected(0.3)
        with pytest.raises(NoLeader):
            client.propose(b"a").result(WAIT_S)


def _wait_for(condition: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(3_000):
        if condition():
            return
        done.wait(0.01)
    raise AssertionError("waited for 30 s")


def test_a_node_of_another_release_is_told_as_one(path: Path) -> None:
    with closing(socket.create_server(str(path), family=socket.AF_UNIX)) as listener:
        answering = threading.Thread(target=_answer_as, args=(listener, PROTOCOL_VERSION + 1))
        answering.start()
        with pytest.raises(StorageError, match=r"speaks version \d+, and this process"):
            EngineClient.connect(path, 0.5)
        answering.join(WAIT_S)


def _answer_as(listener: socket.socket, version: int) -> None:
    connection, _ = listener.accept()
    with closing(connection):
        connection.sendall(frame(encode(Welcome(version, "n1", "test", "/nowhere"))))
        connection.recv(1)  # until it hangs up
