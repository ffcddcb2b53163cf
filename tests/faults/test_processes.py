"""Real processes, killed and stopped while clients write and read; then their history is judged.

The short form runs in CI. The long one, `make faults`, kills the leader 200 times and all nodes 50.
"""

import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import orjson
import pytest

from feeds.cli_cluster import init_cluster, node_status, start_cluster, stop_cluster
from feeds.client import EngineClient
from feeds.engine import FeedEngine, system_clock_us
from feeds.errors import NoLeader, OutcomeUnknown, Overloaded
from feeds.model import ActivityDraft, FeedId, TenantId, identify, position_of
from feeds.store.rocks import RocksStore
from feeds.testing_history import Operation, register_problems
from feeds.testing_ports import free_ports

TENANT = TenantId("t")
NODES = ("n1", "n2", "n3")
REGISTERS = 3
CLIENTS = 4
WAIT_S = 60.0
REGISTER_TIME_US = 1_600_000_000_000_000


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S:g} s for {what}"
        time.sleep(0.01)


def draft(register: int, value: str) -> ActivityDraft:
    """The register is an activity that is posted again and again with another content."""
    return ActivityDraft(
        actor="user:a",
        verb="set",
        object=f"register:{register}",
        foreign_id=f"register:{register}",
        time_us=REGISTER_TIME_US,
        custom={"value": value},
    )


@dataclass
class History:
    """What clients did, by register, on one clock."""

    operations: dict[int, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    acknowledged: int = 0
    unknown: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, register: int, operation: Operation) -> None:
        with self.lock:
            self.operations[register].append(operation)
            self.acknowledged += operation.end_s < float("inf")
            self.unknown += operation.end_s == float("inf")


class Client(threading.Thread):
    """Writes and reads registers through one node, until told to stop."""

    def __init__(self, directory: Path, number: int, scratch: Path, history: History) -> None:
        super().__init__(name=f"client-{number}")
        self.node = NODES[number % len(NODES)]
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self._number = number
        self._history = history
        self._random = Random(number)
        self._clock_ahead_us = 0
        self._path = directory / self.node / "store"
        self._scratch = scratch
        self._store = RocksStore.open_secondary(self._path, scratch)
        self._client = EngineClient.connect(directory / f"{self.node}.sock")
        self._connection = self._client.welcome
        self._engine = FeedEngine(self._store, self._client, clock=self._clock)

    def _clock(self) -> int:
        return system_clock_us() + self._clock_ahead_us

    def run(self) -> None:
        try:
            number = 0
            while not self.stopping.is_set():
                number += 1
                register = self._random.randrange(REGISTERS)
                if self._random.random() < 0.5:
                    self._write(register, f"{self._number}/{number}")
                else:
                    self._read(register)
                if self._random.random() < 0.01:  # this machine's clock jumps, back or ahead
                    self._clock_ahead_us = self._random.randrange(-3_600, 3_600) * 1_000_000
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self._client.close()
            self._store.close()

    def _write(self, register: int, value: str) -> None:
        """Repeat with the same key while the outcome is unclear: it takes effect once."""
        start_s, sent = time.monotonic(), False
        while not self.stopping.is_set():
            try:
                self._engine.post(
                    TENANT, FeedId("user", "a"), draft(register, value), key=value
                ).result(WAIT_S)
            except (NoLeader, Overloaded):
                time.sleep(0.01)
            except OutcomeUnknown:
                sent = True
            else:
                operation = Operation("write", value, start_s, time.monotonic())
                self._history.add(register, operation)
                return
        if sent:
            self._history.add(register, Operation("write", value, start_s))

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

    def _read(self, register: int) -> None:
        """Linearizable: join the log, then read the local store once it has come that far."""
        start_s = time.monotonic()
        with suppress(NoLeader, OutcomeUnknown, Overloaded):
            index = self._client.barrier().result(WAIT_S)
            self._follow_node()
            while self._engine.applied_index() < index:
                if self.stopping.is_set():
                    return
                self._store.catch_up()
            activity = identify(draft(register, ""), REGISTER_TIME_US)
            (body,) = self._engine.bodies(TENANT, [position_of(activity)])
            value = orjson.loads(body)["value"] if body else None
            if self._client.welcome is not self._connection:
                return  # the node has ended meanwhile: what was read may be of two states
            self._history.add(register, Operation("read", value, start_s, time.monotonic()))


class Cluster:
    """Three nodes and clients at work."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "c"
        self.history = History()
        self._scratch = directory
        self._clients: list[Client] = []
        init_cluster(self.directory, "test", free_ports())
        start_cluster(self.directory)
        client = EngineClient.connect(self.directory / "n1.sock")
        with RocksStore.open_secondary(self.directory / "n1" / "store", directory / "s") as store:
            FeedEngine(store, client).create_tenant(TENANT).result(WAIT_S)
        client.close()

    def begin(self) -> None:
        wait_for(lambda: len({self.applied(node) for node in NODES}) == 1, "all to have the tenant")
        for number in range(CLIENTS):
            scratch = self._scratch / f"client-{number}"
            scratch.mkdir()
            client = Client(self.directory, number, scratch, self.history)
            self._clients.append(client)
            client.start()

    def applied(self, node: str) -> int:
        status = node_status(self.directory / f"{node}.sock")
        return status.applied_index if status else -1

    def tell(self) -> str:
        """Where every node stands, and what it said last."""
        return "\n".join(
            f"{node}: {node_status(self.directory / f'{node}.sock')}\n"
            f"{(self.directory / f'{node}.log').read_text()[-1500:]}"
            for node in NODES
        )

    def leader(self) -> str:
        found: list[str] = []

        def look() -> bool:
            for node in NODES:
                status = node_status(self.directory / f"{node}.sock")
                if status is not None and status.role == "leader":
                    found.append(node)
            return bool(found)

        wait_for(look, "a leader")
        return found[-1]

    def signal(self, node: str, number: int) -> None:
        os.kill(int((self.directory / f"{node}.pid").read_text()), number)

    def work(self, operations: int) -> None:
        """Let clients get so many more answers."""
        goal = self.history.acknowledged + operations
        wait_for(lambda: self.history.acknowledged >= goal, f"{operations} more answers")

    def start(self) -> None:
        start_cluster(self.directory)

    def end(self) -> None:
        for client in self._clients:
            client.stopping.set()
        for client in self._clients:
            client.join(WAIT_S)
        stop_cluster(self.directory)

    def judge(self) -> None:
        """End it all: the history is linearizable, and the stores are equal."""
        self.work(50)
        for client in self._clients:
            client.stopping.set()
        for client in self._clients:
            client.join(WAIT_S)
            assert client.failure is None
        for register, operations in self.history.operations.items():
            problems = register_problems(operations)
            told = "\n".join(str(one) for one in operations[-200:])
            assert problems == [], f"register {register}:\n{told}"
        try:
            wait_for(lambda: len({self.applied(node) for node in NODES}) == 1, "all to be equal")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.tell()}") from None
        stop_cluster(self.directory)
        contents = []
        for node in NODES:
            with RocksStore.open(self.directory / node / "store") as store:
                contents.append([list(store.scan(family, b"", b"\xff" * 8)) for family in FAMILIES])
        assert contents[0] == contents[1] == contents[2]


FAMILIES = ("meta", "config", "activities", "feeds", "events", "dedup")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        cluster = Cluster(tmp_path)
        stack.callback(cluster.end)
        cluster.begin()
        yield cluster


def kill_leaders(cluster: Cluster, times: int) -> None:
    for _ in range(times):
        cluster.work(20)
        cluster.signal(cluster.leader(), signal.SIGKILL)
        cluster.work(10)
        cluster.start()
    cluster.judge()


def kill_all(cluster: Cluster, times: int) -> None:
    for _ in range(times):
        cluster.work(20)
        for node in NODES:
            cluster.signal(node, signal.SIGKILL)
        cluster.start()
    cluster.judge()


def test_killed_leaders_lose_nothing(cluster: Cluster) -> None:
    kill_leaders(cluster, 3)


def test_killing_all_nodes_at_once_loses_nothing(cluster: Cluster) -> None:
    kill_all(cluster, 2)


def test_leader_that_was_stopped_for_a_while_does_harm_to_nobody(cluster: Cluster) -> None:
    cluster.work(20)
    leader = cluster.leader()
    cluster.signal(leader, signal.SIGSTOP)
    cluster.work(20)  # the clients of the others
    time.sleep(2.0)  # it must come back with its term long over
    cluster.signal(leader, signal.SIGCONT)
    cluster.judge()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_killed_leaders_lose_nothing(cluster: Cluster) -> None:
    kill_leaders(cluster, 200)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killing_all_nodes_fifty_times_loses_nothing(cluster: Cluster) -> None:
    kill_all(cluster, 50)
