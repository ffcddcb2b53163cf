"""A flush beside the log: writes go on meanwhile, and one that fails ends them."""

from threading import Event

import pytest

from feeds.commands import CreateTenant, encode_command
from feeds.config import FeedsConfig
from feeds.errors import StorageError
from feeds.flushing import BackgroundFlusher, InlineFlusher
from feeds.replication.memory import MemoryReplica
from feeds.state import LocalReplica, StateMachine
from feeds.store.memory import MemoryStore

WAIT_S = 30.0
COMMAND = encode_command(CreateTenant(tenant="demo", now_us=1))


class SlowStore(MemoryStore):
    """Flushes once it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_flush = Event()
        self.broken = False
        self.flushes = 0

    def flush(self) -> None:
        assert self.may_flush.wait(WAIT_S)
        self.flushes += 1
        if self.broken:
            raise StorageError("the store could not flush: the disk is broken")


class Compacted(MemoryReplica):
    """Knows what it was told to compact."""

    compacted: tuple[int, ...] = ()

    def compact(self, flushed_index: int) -> None:
        self.compacted = (*self.compacted, flushed_index)


def machine_of(store: SlowStore) -> tuple[StateMachine, Compacted]:
    made: list[Compacted] = []

    def factory(apply, index):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        made.append(Compacted(apply, index))
        return made[0]

    config = FeedsConfig(flush_every_bytes=2 * len(COMMAND))
    machine = StateMachine(store, config, BackgroundFlusher)
    LocalReplica(machine, factory)
    return machine, made[0]


def put(machine: StateMachine, index: int) -> None:
    machine.apply(index, 1, COMMAND)
    machine.work()


def test_writes_go_on_while_the_store_is_flushed_and_the_log_is_kept_until_then() -> None:
    store = SlowStore()
    machine, replica = machine_of(store)
    for index in range(1, 8):
        put(machine, index)
    assert 7 == machine.applied().index
    assert () == replica.compacted
    store.may_flush.set()
    machine._flusher._running.result(WAIT_S)  # type: ignore[attr-defined]
    put(machine, 8)
    assert (2,) == replica.compacted
    machine.close()
    assert 3 == store.flushes


def test_flush_that_failed_stops_the_log() -> None:
    store = SlowStore()
    machine, replica = machine_of(store)
    store.broken = True
    store.may_flush.set()
    put(machine, 1)
    put(machine, 2)
    assert isinstance(machine._flusher._running.exception(WAIT_S), StorageError)  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="the disk is broken"):
        machine.apply(3, 1, COMMAND)
    assert 2 == machine.applied().index
    assert () == replica.compacted
    machine.close()


def test_store_that_is_replaced_is_closed_behind_its_flush() -> None:
    store, taken = SlowStore(), MemoryStore()
    machine, _ = machine_of(store)
    put(machine, 1)
    put(machine, 2)
    store.may_flush.set()
    machine.close_store()
    assert 1 == store.flushes
    machine.replace(taken)
    put(machine, 1)
    assert 1 == machine.applied().index
    machine.close()


def test_inline_flush_is_told_at_once() -> None:
    store = SlowStore()
    store.may_flush.set()
    flusher = InlineFlusher(store)
    assert flusher.request(7)
    assert (7, 0) == (flusher.take_flushed(), flusher.take_flushed())
