"""Wall clocks that jump: those of nodes change nothing, those of their clients what they stamp.

How long a key is remembered is told by neither, but by a clock of the cluster's own.

A node whose clock is set is made by a library that is loaded before all others (`wall_clock.c`,
compiled with gcc; skipped where there is none). Beside the stamps in the log of what it did, a node
reads no wall clock but for the dates of certificates, which are good from a day before they were
made.
"""

import datetime as dt
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from feeds.client import EngineClient
from feeds.config import FeedsConfig
from feeds.engine import FeedEngine, system_clock_us
from feeds.errors import InvalidTime
from feeds.model import ActivityDraft, FeedId
from feeds.store.rocks import RocksStore
from feeds.testing_cluster import NODES, TENANT, ProcessCluster

WAIT_S = 30.0
DAY_S = 86_400
HOUR_S = 3_600
SOURCE = Path(__file__).with_name("wall_clock.c")
FEED = FeedId("user", "clock")


class WallClocks:
    """One for each node; they stand right at first."""

    def __init__(self, directory: Path, nodes: tuple[str, ...]) -> None:
        compiler = shutil.which("gcc")
        if compiler is None:
            pytest.skip("a wall clock that jumps needs gcc")
        library = directory / "wall_clock.so"
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        self._files = {node: directory / f"{node}.clock" for node in nodes}
        for node in nodes:
            self._files[node].write_bytes(bytes(8))
        self.environment = {
            node: {"LD_PRELOAD": str(library), "HEADWATER_TEST_CLOCK": str(file)}
            for node, file in self._files.items()
        }

    def put(self, node: str, ahead_s: int) -> None:
        with self._files[node].open("r+b") as file:
            file.write(struct.pack("=q", ahead_s))


@pytest.fixture
def clocks(tmp_path: Path) -> WallClocks:
    return WallClocks(tmp_path, NODES)


@pytest.fixture
def cluster(clocks: WallClocks, tmp_path: Path) -> Iterator[ProcessCluster]:
    with ExitStack() as stack:
        cluster = ProcessCluster(tmp_path, environment=clocks.environment)
        stack.callback(cluster.end)
        yield cluster


def standing(cluster: ProcessCluster) -> tuple[str, int]:
    leader = cluster.leader()
    status = cluster.status(leader)
    assert status is not None
    return leader, status.term


def days_in_log(cluster: ProcessCluster, node: str) -> set[str]:
    """The dates of what a node has said."""
    lines = cluster.log(node).splitlines()
    return {line.split("'")[1][:10] for line in lines if line.startswith("timestamp='")}


def date(ahead_s: int) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=ahead_s)).date().isoformat()


def restart(cluster: ProcessCluster, node: str) -> None:
    cluster.kill(node)
    cluster.start()
    cluster.wait_for(cluster.agrees, "all to follow one")


def test_node_whose_wall_clock_jumps_leads_on(cluster: ProcessCluster, clocks: WallClocks) -> None:
    cluster.begin()
    cluster.work(20)
    before = standing(cluster)
    leader = before[0]
    one, other = (node for node in NODES if node != leader)
    clocks.put(leader, DAY_S)
    cluster.work(100)
    clocks.put(one, -DAY_S)
    cluster.work(100)
    clocks.put(leader, -DAY_S)
    clocks.put(one, DAY_S)
    cluster.work(100)
    assert before == standing(cluster)
    restart(cluster, one)  # its certificate and the others' are judged a day ahead
    restart(cluster, other)  # and by the leader a day ago
    cluster.work(20, [one, other])
    assert date(DAY_S) in days_in_log(cluster, one)  # its clock has jumped indeed
    assert date(-DAY_S) in days_in_log(cluster, leader)
    assert before == standing(cluster)
    cluster.judge()


def test_client_whose_wall_clock_jumps_stamps_by_it(
    cluster: ProcessCluster, tmp_path: Path
) -> None:
    """What lies too far ahead of *its* clock is refused; the log's order is nobody's clock."""
    before = standing(cluster)
    ahead_s = 0
    with ExitStack() as stack:
        client = EngineClient.connect(cluster.directory / "n1.sock")
        stack.callback(client.close)
        store = RocksStore.open_secondary(cluster.directory / "n1" / "store", tmp_path / "clock")
        stack.callback(store.close)
        engine = FeedEngine(store, client, clock=lambda: system_clock_us() + ahead_s * 1_000_000)

        def post(word: str, key: str | None = None) -> tuple[int, bool]:
            draft = ActivityDraft(actor="user:a", verb="say", object=f"word:{word}")
            posted = engine.post(TENANT, FEED, draft, key).result(WAIT_S)
            deadline = time.monotonic() + WAIT_S
            while engine.applied_index() < posted.index:
                assert time.monotonic() < deadline
                store.catch_up()
            return posted.index, posted.duplicate

        store.catch_up()
        now, _ = post("now", "k")
        ahead_s = -DAY_S
        yesterday, _ = post("yesterday")
        assert (now, True) == post("now", "k")
        ahead_s = DAY_S - HOUR_S
        tomorrow, _ = post("tomorrow")
        assert (now, True) == post("now", "k")
        assert now < yesterday < tomorrow
        page = [row.index for row in engine.read(TENANT, FEED).rows]
        assert [tomorrow, now, yesterday] == page
        ahead_s = DAY_S + HOUR_S  # a key is remembered for a day of the cluster's clock
        assert (now, True) == post("now", "k")
        ahead_s = 0
        ahead_us = system_clock_us() + (FeedsConfig().future_time_max_s + HOUR_S) * 1_000_000
        early = ActivityDraft(actor="user:a", verb="say", object="word:x", time_us=ahead_us)
        with pytest.raises(InvalidTime):
            engine.post(TENANT, FEED, early)
        ahead_s = 2 * HOUR_S
        assert engine.post(TENANT, FEED, early).result(WAIT_S).index > tomorrow
    assert before == standing(cluster)


def test_clock_of_one_client_does_not_make_anothers_repeat_take_effect_twice(
    cluster: ProcessCluster, tmp_path: Path
) -> None:
    """The repeat of a write has its name; another content tells whether it took effect."""
    config = FeedsConfig(retry_s=5)
    ahead_us = (config.operation_ttl_s + 60) * 1_000_000
    with ExitStack() as stack:
        client = EngineClient.connect(cluster.directory / "n1.sock")
        stack.callback(client.close)
        store = RocksStore.open_secondary(cluster.directory / "n1" / "store", tmp_path / "clock")
        stack.callback(store.close)
        store.catch_up()
        right = FeedEngine(store, client, config, name_operation=lambda: "the same write")
        ahead = FeedEngine(store, client, config, clock=lambda: system_clock_us() + ahead_us)

        def post(engine: FeedEngine, word: str) -> int:
            draft = ActivityDraft(actor="user:a", verb="say", object=f"word:{word}")
            return engine.post(TENANT, FEED, draft).result(WAIT_S).index

        first = post(right, "once")
        post(ahead, "between")
        assert first == post(right, "again")
