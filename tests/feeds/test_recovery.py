"""The engine on RocksDB and its log: what was acknowledged is there after any kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from feeds.bench import page, replay, workload
from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.errors import DataDirectoryLocked, InvalidInput, StorageError, StorageFull
from feeds.events import Engagement, Posted
from feeds.importer import replay as replay_actions
from feeds.model import ActivityDraft, FeedId, TenantId
from feeds.replication.memory import MemoryReplica
from feeds.store.base import COLUMN_FAMILIES
from feeds.store.memory import MemoryStore
from feeds.testing_engine import NOW_US, ManualClock, memory_engine

DEMO = TenantId("demo")
AUTHOR, TIMELINE = FeedId("user", "ann"), FeedId("timeline", "bob")
ROOT = Path(__file__).parents[2]


def draft(number: int) -> ActivityDraft:
    return ActivityDraft(
        actor="user:ann", verb="ship", object=f"v{number}", time_us=NOW_US + number
    )


def test_engine_opens_where_it_was_closed(tmp_path: Path) -> None:
    with FeedEngine.open(tmp_path, clock=ManualClock()) as engine:
        engine.create_tenant(DEMO).result()
        engine.follow(DEMO, TIMELINE, AUTHOR).result()
        posted = engine.post(DEMO, AUTHOR, draft(0), key="k").result()
        status = engine.status()
        with pytest.raises(DataDirectoryLocked):
            FeedEngine.open(tmp_path)
    engine.close()
    with FeedEngine.open(tmp_path, clock=ManualClock()) as engine:
        assert 3 == status.last_index == engine.status().applied_index
        assert 1 == len(engine.read(DEMO, TIMELINE).rows)
        assert posted.index == engine.post(DEMO, AUTHOR, draft(0), key="k").result().index


def test_real_engine_ends_in_the_state_of_the_one_in_memory(tmp_path: Path) -> None:
    log = list(workload(2_000))
    memory = memory_engine(clock=ManualClock())
    replay_actions(memory, DEMO, log)
    with FeedEngine.open(tmp_path, clock=ManualClock()) as engine:
        engine.create_tenant(DEMO).result()
        replay_actions(engine, DEMO, log)
        for family in COLUMN_FAMILIES:
            stop = b"\xff" * 99
            expected = list(memory._view.scan(family, b"", stop))
            assert expected == list(engine._view.scan(family, b"", stop))


def test_flushed_log_is_dropped_and_nothing_is_lost(tmp_path: Path) -> None:
    config = FeedsConfig(flush_every_bytes=5_000, segment_bytes_max=2_000)
    with FeedEngine.open(tmp_path, config, ManualClock()) as engine:
        engine.create_tenant(DEMO).result()
        for number in range(60):
            engine.post(DEMO, AUTHOR, draft(number)).result()
        assert 61 == engine.status().last_index
        assert engine.status().log_bytes < 9_000
    with FeedEngine.open(tmp_path, config, ManualClock()) as engine:
        assert 60 == len(engine.rows(DEMO, AUTHOR, 1_000))
        engine.post(DEMO, AUTHOR, draft(60)).result()
        assert 61 == len(engine.events(DEMO, 0, 1_000))


class Unflushed(MemoryStore):
    def flush(self) -> None:
        raise StorageError("the store could not flush: no space left")


def test_flush_that_fails_at_the_end_does_not_hide_what_ended_the_work() -> None:
    released: list[bool] = []
    engine = FeedEngine.embedded(Unflushed(), MemoryReplica, release=lambda: released.append(True))
    with pytest.raises(StorageFull, match="the disk is full"), engine:
        raise StorageFull("the disk is full")
    assert [True] == released


def test_engine_that_cannot_be_made_lets_go_of_its_directory(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        FeedEngine.open(tmp_path, FeedsConfig(page_size_max=0))
    FeedEngine.open(tmp_path).close()


_CHILD = """
import sys
from pathlib import Path
from feeds import actions
from feeds.bench import workload
from feeds.engine import FeedEngine
from feeds.importer import _Pipeline

class Telling(_Pipeline):
    def _count(self, answer):
        super()._count(answer)
        print(answer.index, flush=True)

engine = FeedEngine.open(Path(sys.argv[1]))
engine.create_tenant("demo").result()
pipeline = Telling(engine, "demo")
for number, action in enumerate(workload(4_000), 1):
    pipeline.add(number, action)
pipeline.finish()
print("end", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("acknowledged", [1, 100, 260])
def test_killed_replay_loses_nothing_acknowledged_and_goes_on(
    acknowledged: int, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as child:
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(acknowledged)]
        child.send_signal(signal.SIGKILL)
        told += child.stdout.readlines()
    last = max(int(line) for line in told if line.strip().isdigit())
    log = list(workload(4_000))
    with FeedEngine.open(tmp_path) as engine:
        assert engine.status().applied_index >= last
        assert last <= engine.events(DEMO, 0, 10_000)[-1][0]
        replay_actions(engine, DEMO, log)
        logged = [event for _, _, event in engine.events(DEMO, 0, 10_000)]
    kinds = [event for event in logged if isinstance(event, Engagement)]
    assert 4_000 == len(kinds)
    assert len({e.activity_id for e in logged if isinstance(e, Posted)}) == sum(
        isinstance(event, Posted) for event in logged
    )


def test_benches_measure(tmp_path: Path) -> None:
    replayed = replay(tmp_path / "replay", events=300)
    assert 300 < replayed.commands + 300 < 2 * replayed.actions
    read = page(tmp_path / "page", rows=10, activities=20, reads=5)
    assert (10, 5) == (read.rows, read.reads)
    assert 0 < read.p50_us <= read.p99_us
