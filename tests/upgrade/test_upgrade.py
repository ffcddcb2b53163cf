"""A data directory of each past release opens, with everything in it, and works on.

`spine-0.1.0` holds what one tenant of that release wrote: 30 posts, one of them removed, a follow
that ended with its history kept, ten likes, idempotency keys and an API key.
"""

import os
import tarfile
import time
from pathlib import Path

import orjson
import pytest

from feeds.backup import backup_directory, restore, verify_data
from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.errors import LogDamaged
from feeds.identity import Identity
from feeds.model import ActivityDraft, FeedId, TenantId, UserId
from feeds.node import EngineNode
from feeds.node_config import NodeConfig
from feeds.replication.base import Entry, LogPosition
from feeds.replication.journal import Journal
from feeds.replication.segment import SegmentReader
from feeds.testing_ports import free_ports

TENANT = TenantId("acme")
USER, TIMELINE = FeedId("user", "alice"), FeedId("timeline", "bob")
T0_US = 1_700_000_000_000_000


@pytest.fixture
def spine(tmp_path: Path) -> Path:
    with tarfile.open(Path(__file__).parent / "spine-0.1.0.tar.gz") as archive:
        archive.extractall(tmp_path)
    return tmp_path / "spine-0.1.0"


def draft(number: int) -> ActivityDraft:
    return ActivityDraft(
        actor="user:alice",
        verb="post",
        object=f"note:{number}",
        time_us=T0_US + number * 1_000_000,
        foreign_id=f"note:{number}",
        custom={"title": f"Note {number}"},
    )


def check(engine: FeedEngine) -> None:
    bodies = engine.bodies(TENANT, engine.rows(TENANT, USER, 100))
    expected = [f"note:{number}" for number in reversed(range(30)) if number != 3]
    assert [orjson.loads(body)["object"] for body in bodies if body] == expected
    assert len(engine.rows(TENANT, TIMELINE, 100)) == 29
    assert engine.follows(TENANT, TIMELINE) == {}
    assert engine.user_record(TENANT, UserId("bob")) != engine.user_record(TENANT, UserId("x"))
    key = engine.key("0123456789ab")
    assert key is not None
    assert key.tenant == TENANT
    assert len(engine.events(TENANT, 0, 1_000)) == 30 + 1 + 10 + 2


def test_directory_of_the_spine_opens_and_works_on(spine: Path) -> None:
    clock = lambda: T0_US + 2 * 10**9  # noqa: E731 - a clock that stands
    with FeedEngine.open(spine, clock=clock) as engine:
        assert engine.applied_index() == 36
        check(engine)
        again = engine.post(TENANT, USER, draft(7), key="key 7").result()
        assert again.duplicate, "keys of the former release are remembered"
        assert engine.active_ranking_config(TENANT) == (0, None)
        new = engine.post(TENANT, USER, draft(30)).result()
        assert new.index == 38
        assert len(engine.rows(TENANT, USER, 100)) == 30
        assert engine.save_ranking_config(TENANT, b"{}").result().version == 1
        engine.activate_ranking_config(TENANT, 1, 0).result()
    with FeedEngine.open(spine, clock=clock) as engine:
        assert engine.active_ranking_config(TENANT) == (1, b"{}")


def test_log_of_the_spine_is_a_log_of_a_cluster(spine: Path) -> None:
    journal = Journal.open(spine / "log", LogPosition(36, 1))
    assert (journal.base, journal.last) == (LogPosition(0, 0), LogPosition(36, 1))
    assert len(journal.entries(1, 100, 10**6)) == 36
    journal.close()


def versions(log: Path) -> list[int | None]:
    headers = [SegmentReader(path).header for path in sorted(log.glob("*.log"))]
    return [header and header.version for header in headers]


def test_log_of_the_spine_goes_on_in_a_segment_of_the_new_format(spine: Path) -> None:
    assert versions(spine / "log") == [1]
    journal = Journal.open(spine / "log", LogPosition(36, 1))
    journal.append([Entry(1, b"new")])
    journal.sync()
    journal.close()
    assert versions(spine / "log") == [1, 2]
    journal = Journal.open(spine / "log", LogPosition(37, 1))
    assert len(journal.entries(1, 100, 10**6)) == 36
    assert journal.entries(37, 100, 10**6) == [Entry(1, b"new")]
    journal.close()


def test_record_of_the_spine_before_a_sound_one_is_refused_as_it_was(spine: Path) -> None:
    """That format does not tell what was durable, so it may be damage."""
    (path,) = (spine / "log").glob("*.log")
    *_, (index, offset), _ = offsets(path)
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(LogDamaged, match=f"offset {offset}: .* a sound record at .*truncate -s"):
        Journal.open(spine / "log", LogPosition(index - 1, 1))


def test_torn_tail_of_the_spine_is_cut_as_it_was(spine: Path) -> None:
    (path,) = (spine / "log").glob("*.log")
    *_, (index, offset) = offsets(path)
    os.truncate(path, path.stat().st_size - 1)
    journal = Journal.open(spine / "log", LogPosition(index - 1, 1))
    assert (journal.last.index, path.stat().st_size) == (index - 1, offset)
    journal.close()


def offsets(path: Path) -> list[tuple[int, int]]:
    """(index, where it begins) of each record."""
    reader = SegmentReader(path)
    places, begin = [], reader.offset
    for record in reader:
        places.append((record.index, begin))
        begin = reader.offset
    return places


def test_directory_of_the_spine_becomes_a_node(spine: Path) -> None:
    Identity.create("c", "n1").save(spine)
    config = NodeConfig(
        cluster_id="c",
        node="n1",
        nodes={"n1": "127.0.0.1:1"},
        data_dir=spine,
        socket=spine / "n1.sock",
        plain=True,
    )
    port = free_ports(1)
    config = config.model_copy(update={"nodes": {"n1": f"127.0.0.1:{port}"}})
    with EngineNode.running(config) as node:
        deadline = time.monotonic() + 20.0
        while not node.replica.leads:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert node.replica.barrier().result(20.0) > 36
    with FeedEngine.open(spine) as engine:
        check(engine)


def test_directory_of_the_spine_is_verified_and_backed_up(spine: Path, tmp_path: Path) -> None:
    assert dict(verify_data(spine, FeedsConfig()))["activities"] == 29
    backup_directory(spine, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "again")
    with FeedEngine.open(tmp_path / "again") as engine:
        check(engine)
