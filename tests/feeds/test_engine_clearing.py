"""An ended follow's rows go, whatever meets the engine meanwhile."""

from collections.abc import Callable
from concurrent.futures import Future

import pytest

from feeds import outbox
from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.errors import Overloaded, StorageFull
from feeds.model import FeedId, TenantId
from feeds.replication.base import Applied, ApplyCommand
from feeds.replication.memory import MemoryReplica
from feeds.state import StateMachine
from feeds.store.memory import MemoryStore
from feeds.testing_engine import ManualClock, draft, memory_engine

DEMO = TenantId("demo")
AUTHOR = FeedId("user", "ann")
TIMELINE = FeedId("timeline", "bob")


class FullReplica(MemoryReplica):
    """Has room for so many commands, as a disk that fills up."""

    room = 1_000

    def propose(self, command: bytes) -> "Future[Applied]":
        self.room -= 1
        if self.room >= 0:
            return super().propose(command)
        refused: Future[Applied] = Future()
        refused.set_exception(StorageFull("the disk is full: free space and retry"))
        return refused


class CrowdedReplica(MemoryReplica):
    """Refuses some proposals, as a replica does in which too many wait."""

    crowded = 0

    def propose(self, command: bytes) -> "Future[Applied]":
        if self.crowded:
            self.crowded -= 1
            raise Overloaded("too many writes wait: retry after a moment")
        return super().propose(command)


def _machine(engine: FeedEngine) -> StateMachine:
    assert isinstance(engine._changes, StateMachine)
    return engine._changes


def followed(factory: Callable[[ApplyCommand, int], MemoryReplica]) -> FeedEngine:
    """Three rows of a followed feed, which an unfollow clears one at a time."""
    engine = FeedEngine.embedded(
        MemoryStore(), factory, FeedsConfig(unfollow_rows_max=1), clock=ManualClock()
    )
    engine.create_tenant(DEMO).result()
    engine.follow(DEMO, TIMELINE, AUTHOR).result()
    for number in range(3):
        engine.post(DEMO, AUTHOR, draft(object=f"v{number}")).result()
    return engine


def test_clearing_that_met_a_full_disk_goes_on_once_there_is_room() -> None:
    replicas: list[FullReplica] = []

    def factory(apply: ApplyCommand, index: int) -> FullReplica:
        replicas.append(FullReplica(apply, index))
        return replicas[0]

    engine = followed(factory)
    replicas[0].room = 1
    engine.unfollow(DEMO, TIMELINE, AUTHOR).result()
    with pytest.raises(StorageFull):
        engine.post(DEMO, AUTHOR, draft()).result()
    assert 2 == len(engine.rows(DEMO, TIMELINE, 10))
    replicas[0].room = 1_000
    engine.create_tenant(DEMO).result()
    assert [] == engine.rows(DEMO, TIMELINE, 10)


def test_clearing_that_met_a_crowd_goes_on_with_the_next_write() -> None:
    replicas: list[CrowdedReplica] = []

    def factory(apply: ApplyCommand, index: int) -> CrowdedReplica:
        replicas.append(CrowdedReplica(apply, index))
        return replicas[0]

    engine = followed(factory)
    original = replicas[0].propose

    def crowd_behind(command: bytes) -> "Future[Applied]":
        future = original(command)
        replicas[0].crowded = 1  # as often as the engine tries before the next write
        replicas[0].propose = original  # type: ignore[method-assign]
        return future

    replicas[0].propose = crowd_behind  # type: ignore[method-assign]
    engine.unfollow(DEMO, TIMELINE, AUTHOR).result()
    assert 2 == len(engine.rows(DEMO, TIMELINE, 10))
    engine.create_tenant(DEMO).result()
    assert [] == engine.rows(DEMO, TIMELINE, 10)


def test_clearing_of_more_follows_than_are_worked_on_at_once_comes_to_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox, "IN_FLIGHT_MAX", 2)
    store, clock = MemoryStore(), ManualClock()
    engine = memory_engine(FeedsConfig(unfollow_rows_max=1), clock, store=store)
    readers = [FeedId("timeline", f"r{number}") for number in range(7)]
    for reader in readers:
        engine.follow(DEMO, reader, AUTHOR).result()
    for number in range(3):
        engine.post(DEMO, AUTHOR, draft(object=f"v{number}")).result()
    _machine(engine).lead(leads=False)
    for reader in readers:
        engine.unfollow(DEMO, reader, AUTHOR).result()
    again = FeedEngine.embedded(store, MemoryReplica, clock=clock)
    again.create_tenant(DEMO).result()
    assert [[]] * 7 == [again.rows(DEMO, reader, 10) for reader in readers]


def test_clearing_that_was_cut_off_goes_on_when_the_engine_is_opened() -> None:
    store = MemoryStore()
    clock = ManualClock()
    engine = memory_engine(FeedsConfig(unfollow_rows_max=1), clock, store=store)
    engine.follow(DEMO, TIMELINE, AUTHOR).result()
    for number in range(3):
        engine.post(DEMO, AUTHOR, draft(object=f"v{number}")).result()
    _machine(engine).lead(leads=False)
    assert engine.unfollow(DEMO, TIMELINE, AUTHOR).result().unfinished
    assert 2 == len(engine.rows(DEMO, TIMELINE, 10))
    again = FeedEngine.embedded(store, MemoryReplica, clock=clock)
    assert [] == again.rows(DEMO, TIMELINE, 10)
