"""Writes are repeated until their outcome is known, take effect once, and keep their order."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Event, Lock, Timer

import pytest

from feeds.actions import Post
from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.errors import Conflict, InvalidInput, NoLeader, OutcomeUnknown, Overloaded, StorageFull
from feeds.idempotency import LastingKey
from feeds.importer import replay
from feeds.model import ActivityDraft, FeedId, TenantId
from feeds.replication.base import Applied, ApplyCommand, Replica
from feeds.replication.memory import MemoryReplica
from feeds.retry import RetryingReplica
from feeds.store.memory import MemoryStore
from feeds.testing import Recorder, ReplicaContract
from feeds.testing_engine import NOW_US, ManualClock

WAIT_S = 30.0
DEMO = TenantId("demo")
AUTHOR = FeedId("user", "ann")

Fault = Callable[[MemoryReplica, bytes], "Future[Applied]"]


def failing(error: Exception) -> Fault:
    """Nothing is written."""

    def fault(_: MemoryReplica, __: bytes) -> "Future[Applied]":
        refused: Future[Applied] = Future()
        refused.set_exception(error)
        return refused

    return fault


def answer_lost(replica: MemoryReplica, command: bytes) -> "Future[Applied]":
    """It takes effect, and nobody is told."""
    MemoryReplica.propose(replica, command).result()
    return failing(OutcomeUnknown("the connection was lost"))(replica, command)


NO_LEADER = failing(NoLeader("no node leads"))


class FaultyReplica(MemoryReplica):
    """Meets the faults in order, one a proposal; then it works."""

    def __init__(self, apply: ApplyCommand, applied_index: int = 0) -> None:
        super().__init__(apply, applied_index)
        self.faults: list[Fault] = []
        self.faults_lock = Lock()

    def propose(self, command: bytes) -> "Future[Applied]":
        with self.faults_lock:
            fault = self.faults.pop(0) if self.faults else None
        return super().propose(command) if fault is None else fault(self, command)


class TestRetryingReplica(ReplicaContract):
    def open_replica(self, _directory: Path, apply: ApplyCommand, applied_index: int) -> Replica:
        return RetryingReplica(MemoryReplica(apply, applied_index), retry_s=5.0)


def faulty(faults: list[Fault], retry_s: float = WAIT_S) -> tuple[RetryingReplica, Recorder]:
    recorder = Recorder()
    replica = FaultyReplica(recorder)
    replica.faults = faults
    return RetryingReplica(replica, retry_s), recorder


def test_write_without_a_leader_is_repeated_until_there_is_one() -> None:
    replica, recorder = faulty([NO_LEADER] * 3)
    assert 1 == replica.propose(b"a").result(WAIT_S).index
    assert [(1, b"a")] == recorder.applied
    replica.close()


def test_writes_that_wait_for_a_leader_keep_their_order() -> None:
    replica, recorder = faulty([NO_LEADER] * 4)
    futures = [replica.propose(b"%d" % number) for number in range(100)]
    assert list(range(1, 101)) == [future.result(WAIT_S).index for future in futures]
    assert [b"%d" % number for number in range(100)] == [command for _, command in recorder.applied]
    replica.close()


def test_time_is_up_once_nobody_led_so_long() -> None:
    replica, recorder = faulty([NO_LEADER] * 10_000, retry_s=0.05)
    futures = [replica.propose(b"a"), replica.propose(b"b")]
    for future in futures:
        with pytest.raises(NoLeader):
            future.result(WAIT_S)
    assert [] == recorder.applied
    replica.close()


def test_write_that_may_have_taken_effect_never_fails_as_if_it_had_not() -> None:
    for last in (NO_LEADER, failing(StorageFull("the disk is full"))):
        replica, _ = faulty([answer_lost, *[last] * 10_000], retry_s=0.05)
        with pytest.raises(OutcomeUnknown):
            replica.propose(b"a").result(WAIT_S)
        replica.close()


def test_error_that_is_definite_is_not_repeated() -> None:
    replica, recorder = faulty([failing(StorageFull("the disk is full"))])
    with pytest.raises(StorageFull):
        replica.propose(b"a").result(WAIT_S)
    assert [] == recorder.applied
    replica.close()


def test_writes_that_wait_are_bounded() -> None:
    inner = FaultyReplica(Recorder())
    inner.faults = [NO_LEADER] * 1_000_000
    replica = RetryingReplica(inner, WAIT_S, waiting_max=10)
    waiting = []
    with pytest.raises(Overloaded, match="wait for a leader"):
        waiting += [replica.propose(b"%d" % number) for number in range(20)]
    replica.close()


def test_closing_tells_who_waits() -> None:
    replica, _ = faulty([NO_LEADER] * 1_000_000)
    future = replica.propose(b"a")
    told = Event()
    future.add_done_callback(lambda _: told.set())
    replica.close()
    assert told.wait(WAIT_S)
    assert future.exception() is not None


def engine_over(faults: list[Fault], config: FeedsConfig) -> FeedEngine:
    made: list[FaultyReplica] = []

    def factory(apply: ApplyCommand, index: int) -> FaultyReplica:
        made.append(FaultyReplica(apply, index))
        return made[0]

    engine = FeedEngine.embedded(MemoryStore(), factory, config, ManualClock())
    engine.create_tenant(DEMO).result(WAIT_S)
    made[0].faults = faults
    return engine


def test_write_without_a_key_takes_effect_once_whatever_answers_are_lost() -> None:
    config = FeedsConfig(retry_s=WAIT_S)
    draft = ActivityDraft(actor="user:ann", verb="post", object="v1", time_us=NOW_US)
    with engine_over([answer_lost, NO_LEADER, answer_lost], config) as engine:
        posted = engine.post(DEMO, AUTHOR, draft).result(WAIT_S)
        assert not posted.duplicate
        assert 1 == len(engine.events(DEMO, 0, 10))
        assert 1 == len(engine.rows(DEMO, AUTHOR, 10))
        assert engine.post(DEMO, AUTHOR, draft).result(WAIT_S).duplicate


def written(replica: MemoryReplica, command: bytes) -> "Future[Applied]":
    return MemoryReplica.propose(replica, command)


@pytest.mark.parametrize("fault", [NO_LEADER, answer_lost])
def test_log_is_imported_whole_though_writes_behind_a_failed_one_were_on_their_way(
    fault: Fault,
) -> None:
    log = [
        Post(time_us=NOW_US, feed="user:ann", actor="user:ann", verb="post", object=f"v{number}")
        for number in range(100)
    ]
    faults = [written] * 10 + [late(fault)] + [written] * 20 + [late(NO_LEADER)]
    with engine_over(faults, FeedsConfig(retry_s=WAIT_S)) as engine:
        report = replay(engine, DEMO, log)
        assert 100 == report.counts["post"]
        assert 100 == len(engine.rows(DEMO, AUTHOR, 1_000)) == len(engine.events(DEMO, 0, 1_000))


def late(fault: Fault) -> Fault:
    """The fault, told after the writes that were proposed just behind."""

    def told_late(replica: MemoryReplica, command: bytes) -> "Future[Applied]":
        told: Future[Applied] = Future()
        failed = fault(replica, command)
        timer = Timer(0.05, lambda: told.set_exception(failed.exception()))
        timer.start()
        return told

    return told_late


def test_write_behind_one_that_never_was_is_a_conflict() -> None:
    with engine_over([], FeedsConfig(retry_s=WAIT_S)) as engine:
        key = LastingKey("b", 60, after="a")
        with pytest.raises(Conflict, match="has not taken effect"):
            engine.follow(DEMO, FeedId("timeline", "bob"), AUTHOR, key=key).result(WAIT_S)


def test_without_repeats_writes_get_no_key_and_errors_are_told() -> None:
    draft = ActivityDraft(actor="user:ann", verb="post", object="v1", time_us=NOW_US)
    with engine_over([answer_lost], FeedsConfig()) as engine:
        with pytest.raises(OutcomeUnknown):
            engine.post(DEMO, AUTHOR, draft).result(WAIT_S)
        assert engine.post(DEMO, AUTHOR, draft).result(WAIT_S).duplicate


def test_key_of_a_caller_cannot_be_one_of_the_engine() -> None:
    with (
        engine_over([], FeedsConfig()) as engine,
        pytest.raises(InvalidInput, match="must not begin"),
    ):
        engine.follow(DEMO, FeedId("timeline", "bob"), AUTHOR, key="\0op:1")


def test_key_that_is_forgotten_before_the_last_repeat_is_refused() -> None:
    assert ["operation_ttl_s is below twice retry_s: raise it, or lower the other"] == FeedsConfig(
        retry_s=10, operation_ttl_s=19
    ).problems()
