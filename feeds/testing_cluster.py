"""A cluster of real processes and its clients, whose history is judged: for tests of faults.

Whoever breaks something (kills, cuts, fills a disk) does it to `ProcessCluster` while clients
write and read, and then lets it be judged: registers are linearizable, feeds show a reader its own
writes and never go back, and the nodes' stores are equal.
"""

import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

import orjson

from feeds.cli_cluster import init_cluster, node_status, start_cluster, stop_cluster
from feeds.client import EngineClient
from feeds.config import FeedsConfig
from feeds.engine import FeedEngine, system_clock_us
from feeds.errors import NoLeader, OutcomeUnknown, Overloaded, ReplicaStopped, StorageError
from feeds.model import ActivityDraft, FeedId, TenantId, identify, position_of
from feeds.replication.base import ReplicaStatus
from feeds.store.base import COLUMN_FAMILIES
from feeds.store.rocks import RocksStore
from feeds.testing_history import FeedRead, Operation, feed_problems, register_problems
from feeds.testing_ports import free_ports

__all__ = [
    "NODES",
    "TENANT",
    "History",
    "ProcessCluster",
    "leader_of",
    "three_nodes",
    "wait_for",
]

TENANT: Final = TenantId("t")
NODES: Final = ("n1", "n2", "n3")
REGISTERS: Final = 3
CLIENTS: Final = 4
WAIT_S: Final = 60.0
_REGISTER_TIME_US: Final = 1_600_000_000_000_000
_REGISTERS: Final = FeedId("user", "a")
_WALL: Final = FeedId("user", "wall")
_WALL_SHARE: Final = 0.04
_PAGE: Final = 100
_REFUSALS: Final = (NoLeader, OutcomeUnknown, Overloaded, StorageError)
_UNKNOWN: Final = (OutcomeUnknown, ReplicaStopped)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; fails after a minute, and says what was waited for."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S:g} s for {what}"
        time.sleep(0.01)


@contextmanager
def three_nodes() -> Iterator[Path]:
    """The directory of three nodes that run while the block lasts, without clients."""
    with TemporaryDirectory(prefix="hw") as directory:  # a socket's path is short
        path = Path(directory)
        init_cluster(path, "test", free_ports())
        try:
            start_cluster(path)
            yield path
        finally:
            stop_cluster(path)


def leader_of(directory: Path) -> str:
    """Wait for a node that says that it leads."""
    found: list[str] = []

    def led() -> bool:
        statuses = {node: node_status(directory / f"{node}.sock") for node in NODES}
        found[:] = [node for node, one in statuses.items() if one and one.role == "leader"]
        return bool(found)

    wait_for(led, "a leader")
    return found[0]


def _register(register: int, value: str) -> ActivityDraft:
    """The register is an activity that is posted again and again with another content."""
    return ActivityDraft(
        actor="user:a",
        verb="set",
        object=f"register:{register}",
        foreign_id=f"register:{register}",
        time_us=_REGISTER_TIME_US,
        custom={"value": value},
    )


@dataclass
class History:
    """What clients did on one clock: registers by number, and reads of a feed by client."""

    operations: dict[int, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    feed_reads: dict[int, list[FeedRead]] = field(default_factory=lambda: defaultdict(list))
    answered: Counter[str] = field(default_factory=Counter)
    """Operations of registers that were answered, by node."""
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(node, name of the error): how often."""
    acknowledged: int = 0
    unknown: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, node: str, register: int, operation: Operation) -> None:
        """Note an operation."""
        known = operation.end_s < float("inf")
        with self.lock:
            self.operations[register].append(operation)
            self.acknowledged += known
            self.unknown += not known
            self.answered[node] += known

    def refuse(self, node: str, error: Exception) -> None:
        """Note that an operation was refused, or left without an answer."""
        with self.lock:
            self.refused[node, type(error).__name__] += 1


class Client(threading.Thread):
    """Writes and reads through one node, until told to stop."""

    def __init__(
        self, directory: Path, node: str, number: int, scratch: Path, history: History
    ) -> None:
        super().__init__(name=f"client-{number}")
        self.node = node
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self._number = number
        self._history = history
        self._random = Random(number)  # noqa: S311 - a schedule that can be repeated
        self._clock_ahead_us = 0
        self._sent = False
        self._own: set[str] = set()
        self._seen_index = 0
        self._path = directory / node / "store"
        self._scratch = scratch
        self._store = RocksStore.open_secondary(self._path, scratch)
        self._client = EngineClient.connect(directory / f"{node}.sock")
        self._connection = self._client.welcome
        self._engine = FeedEngine(self._store, self._client, clock=self._clock)

    def _clock(self) -> int:
        return system_clock_us() + self._clock_ahead_us

    def run(self) -> None:
        """Until `stopping`; `failure` is what should not have been."""
        try:
            number = 0
            while not self.stopping.is_set():
                number += 1
                self._act(f"{self._number}/{number}")
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self._client.close()
            self._store.close()

    def _act(self, name: str) -> None:
        register, chance = self._random.randrange(REGISTERS), self._random.random()
        if chance < _WALL_SHARE:
            self._write_wall(name)
            self._read_wall()
        elif chance < (1 + _WALL_SHARE) / 2:
            self._write(register, name)
        else:
            self._read(register)
        if self._random.random() < 0.01:  # noqa: PLR2004 - this client's clock jumps
            self._clock_ahead_us = self._random.randrange(-3_600, 3_600) * 1_000_000

    def _post(self, feed: FeedId, draft: ActivityDraft, key: str) -> int | None:
        """Repeat with the same key while the outcome is unclear: it takes effect once.

        The index; None if it was told to stop before it knew (then `_sent` says whether it may be).
        """
        self._sent = False
        while not self.stopping.is_set():
            try:
                return self._engine.post(TENANT, feed, draft, key=key).result(WAIT_S).index
            except _REFUSALS as error:
                self._history.refuse(self.node, error)
                self._sent = self._sent or isinstance(error, _UNKNOWN)
                time.sleep(0.01)
        return None

    def _write(self, register: int, value: str) -> None:
        start_s = time.monotonic()
        index = self._post(_REGISTERS, _register(register, value), value)
        end_s = time.monotonic() if index is not None else float("inf")
        if index is not None or self._sent:
            self._history.add(self.node, register, Operation("write", value, start_s, end_s))

    def _write_wall(self, value: str) -> None:
        time_us = _REGISTER_TIME_US + int(value.partition("/")[2])
        draft = ActivityDraft(
            actor="user:a", verb="say", object="word:w", foreign_id=value, time_us=time_us
        )
        index = self._post(_WALL, draft, f"wall {value}")
        if index is not None:
            self._own.add(value)
            self._seen_index = max(self._seen_index, index)

    def _follow_node(self) -> None:
        """A node that started again has another store: the old secondary may show parts of it."""
        connection = self._client.welcome
        if connection is not self._connection and connection is not None:
            self._connection = connection
            self._store.close()
            for path in self._scratch.iterdir():
                path.unlink()
            self._store = RocksStore.open_secondary(self._path, self._scratch)
            self._engine = FeedEngine(self._store, self._client, clock=self._clock)

    def _catch_up(self, index: int) -> bool:
        """Wait until the local store is so far; False if it is told to stop before."""
        while self._engine.applied_index() < index:
            if self.stopping.is_set():
                return False
            self._store.catch_up()
        return True

    def _read(self, register: int) -> None:
        """Linearizable: join the log, then read the local store once it has come that far."""
        start_s = time.monotonic()
        try:
            index = self._client.barrier().result(WAIT_S)
        except _REFUSALS as error:
            self._history.refuse(self.node, error)
            return
        self._follow_node()
        if not self._catch_up(index):
            return
        activity = identify(_register(register, ""), _REGISTER_TIME_US)
        (body,) = self._engine.bodies(TENANT, [position_of(activity)])
        value = orjson.loads(body)["value"] if body else None
        if self._is_current():
            operation = Operation("read", value, start_s, time.monotonic())
            self._history.add(self.node, register, operation)

    def _read_wall(self) -> None:
        """A session's read: at least what this client wrote and has seen, without the leader."""
        self._follow_node()
        if not self._is_current() or not self._catch_up(self._seen_index):
            return
        own, seen, cursor = frozenset(self._own), set[str](), None
        index = self._engine.applied_index()
        while True:
            page = self._engine.read(TENANT, _WALL, _PAGE, cursor)
            seen.update(orjson.loads(body)["foreign_id"] for body in page.bodies)
            cursor = page.next
            if cursor is None:
                break
        if self._is_current():
            self._seen_index = max(self._seen_index, index)
            self._history.feed_reads[self._number].append(FeedRead(own, frozenset(seen)))

    def _is_current(self) -> bool:
        """Whether the node is still the one that was read: else two states may be mixed."""
        return self._client.welcome is self._connection


class ProcessCluster:
    """Three nodes in `directory`/c, and clients at work.

    `wrap` is put before the command of a node (`ip netns exec NAME`), `environment` is added to its
    environment, and `addresses` takes the place of ports on loopback.
    """

    def __init__(
        self,
        directory: Path,
        *,
        wrap: Mapping[str, Sequence[str]] | None = None,
        environment: Mapping[str, Mapping[str, str]] | None = None,
        addresses: Mapping[str, str] | None = None,
        plain: bool = False,
        prepare: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self.directory = directory / "c"
        self.history = History()
        self._scratch = directory
        self._clients: list[Client] = []
        self._wrap = wrap or {}
        self._environment = environment or {}
        port = free_ports()
        init_cluster(self.directory, "test", port, plain=plain)
        for path in self.directory.glob("n*.toml"):
            text = path.read_text()
            for place, node in enumerate(NODES):
                here = f"127.0.0.1:{port + place}"
                text = text.replace(here, (addresses or {}).get(node, here))
            path.write_text(text)
        prepare(self.directory)
        try:
            self.start()
            self._create_tenant()
        except BaseException:
            stop_cluster(self.directory)
            raise

    def _create_tenant(self) -> None:
        client = EngineClient.connect(self.directory / "n1.sock")
        with RocksStore.open_secondary(
            self.directory / "n1" / "store", self._scratch / "s"
        ) as store:
            engine = FeedEngine(store, client, FeedsConfig(retry_s=WAIT_S))
            engine.create_tenant(TENANT).result(WAIT_S)
            engine.close()

    def begin(self, clients: int = CLIENTS) -> None:
        """Let clients work, each at another node."""
        wait_for(self.is_even, "all to have the tenant")
        for number in range(clients):
            scratch = self._scratch / f"client-{number}"
            scratch.mkdir()
            node = NODES[number % len(NODES)]
            client = Client(self.directory, node, number, scratch, self.history)
            self._clients.append(client)
            client.start()

    def start(self) -> None:
        """Start the nodes that do not run, and wait until one leads."""
        for node in NODES:
            if (node in self._wrap or node in self._environment) and not self.is_running(node):
                self._spawn(node)
        start_cluster(self.directory)

    def status(self, node: str) -> ReplicaStatus | None:
        """Where a node stands; None if it does not answer."""
        return node_status(self.directory / f"{node}.sock")

    def applied(self, node: str) -> int:
        """Index of the last command that a node has applied; -1 if it does not answer."""
        status = self.status(node)
        return status.applied_index if status else -1

    def is_even(self) -> bool:
        """Whether all nodes answer, and have applied the same."""
        found = {self.applied(node) for node in NODES}
        return len(found) == 1 and -1 not in found

    def agrees(self) -> bool:
        """Whether all nodes answer, one leads, and the others follow it."""
        found = [status for node in NODES if (status := self.status(node))]
        roles = sorted(status.role for status in found)
        leaders = {status.leader for status in found}
        return roles == ["follower", "follower", "leader"] and len(leaders) == 1

    def log(self, node: str) -> str:
        """What a node has said."""
        return (self.directory / f"{node}.log").read_text(errors="replace")

    def tell(self) -> str:
        """Where every node stands, and what it said last."""
        return "\n".join(f"{node}: {self.status(node)}\n{self.log(node)[-1500:]}" for node in NODES)

    def leader(self, among: Iterable[str] = NODES) -> str:
        """Wait for a leader among some nodes: one that says so, of the newest term."""
        found: dict[int, str] = {}

        def look() -> bool:
            for node in among:
                status = self.status(node)
                if status is not None and status.role == "leader":
                    found[status.term] = node
            return bool(found)

        among = tuple(among)
        self.wait_for(look, f"a leader among {among}")
        return found[max(found)]

    def process(self, node: str) -> int:
        """The process of a node."""
        return int((self.directory / f"{node}.pid").read_text())

    def is_running(self, node: str) -> bool:
        """Whether a node's process is there."""
        try:
            process = self.process(node)
            with suppress(ChildProcessError):
                os.waitpid(process, os.WNOHANG)
            os.kill(process, 0)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return True

    def send_signal(self, node: str, number: int) -> None:
        """Send a signal to a node's process."""
        os.kill(self.process(node), number)

    def kill(self, *nodes: str) -> None:
        """Kill the processes of some nodes at once, and wait until they are gone."""
        for node in nodes:
            self.send_signal(node, signal.SIGKILL)
        for node in nodes:
            wait_for(partial(self._is_gone, node), f"{node} to be gone")

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """As `wait_for`; a failure tells where the nodes stand too."""
        try:
            wait_for(condition, what)
        except AssertionError as error:
            told = f"{error}; refused: {dict(self.history.refused)}"
            raise AssertionError(f"{told}\n{self.tell()}") from None

    def work(self, operations: int, at: Iterable[str] = NODES) -> None:
        """Let clients of some nodes get so many more answers."""
        nodes = tuple(at)

        def answered() -> int:
            return sum(self.history.answered[node] for node in nodes)

        goal = answered() + operations
        self.wait_for(lambda: answered() >= goal, f"{operations} more answers at {nodes}")

    def end(self) -> None:
        """Stop clients and nodes."""
        self._stop_clients()
        stop_cluster(self.directory)

    def judge(self) -> None:
        """End it all: the history is right, and the stores are equal."""
        self.work(50)
        self._stop_clients()
        for client in self._clients:
            assert client.failure is None
        for register, operations in self.history.operations.items():
            problems = register_problems(operations)
            told = "\n".join(str(one) for one in operations[-200:])
            assert not problems, f"register {register}: {problems}\n{told}"
        for number, reads in self.history.feed_reads.items():
            problems = feed_problems(reads)
            assert not problems, f"client {number}: {problems}"
        self.wait_for(self.is_even, "all to be equal")
        stop_cluster(self.directory)
        contents = []
        for node in NODES:
            with RocksStore.open(self.directory / node / "store") as store:
                contents.append(
                    [list(store.scan(family, b"", b"\xff" * 8)) for family in COLUMN_FAMILIES]
                )
        assert contents[0] == contents[1] == contents[2]

    def _is_gone(self, node: str) -> bool:
        return not self.is_running(node)

    def _stop_clients(self) -> None:
        for client in self._clients:
            client.stopping.set()
        for client in self._clients:
            client.join(WAIT_S)

    def _spawn(self, node: str) -> None:
        wrap = self._wrap.get(node, ())
        config = str(self.directory / f"{node}.toml")
        command = [*wrap, sys.executable, "-m", "serving", "node", "--config", config]
        log = str(self.directory / f"{node}.log")
        process = os.posix_spawn(
            shutil.which(command[0]) or command[0],
            command,
            {**os.environ, **self._environment.get(node, {})},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        (self.directory / f"{node}.pid").write_text(f"{process}\n")
