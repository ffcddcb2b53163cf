"""The store's side of a node: what applies the log, and what that leaves to be done.

A `StateMachine` belongs to the process that has the log. Where that is the API's own process,
`LocalReplica` puts it behind the `Replica` that the engine writes through.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import structlog

from feeds.applier import Applier, Listener
from feeds.change_journal import Gap
from feeds.clock_mover import ClockMover
from feeds.commands import ClearRows, FanOut, WipeTenant, encode_command
from feeds.config import FeedsConfig
from feeds.erasing import Eraser
from feeds.errors import ReplicaStopped, StorageError
from feeds.flushing import Flusher, InlineFlusher
from feeds.keys import APPLIED, read_number
from feeds.outbox import Outbox
from feeds.replication.base import Applied, ApplyCommand, LogPosition, Replica, ReplicaStatus
from feeds.store.base import Store, View

__all__ = ["LocalReplica", "ReplicaFactory", "StateMachine", "applied_position"]

_log = structlog.get_logger(__name__)

ReplicaFactory = Callable[[ApplyCommand, int], Replica]
"""(apply, applied index) -> a replica that has applied everything in its log."""


def applied_position(view: View) -> LogPosition:
    """The last command that a store holds the effects of; (0, 0) of an empty store."""
    applied = view.get("meta", APPLIED)
    if applied is None:
        return LogPosition(0, 0)
    return LogPosition(read_number(applied), read_number(applied[8:]))


class StateMachine:
    """A store and what is done to it: applying, clearing, flushing; on the replica's thread alone.

    `work` must be called after commands were applied, but not from within `apply`: it proposes
    what they left to be done, if this node leads, and drops the log that a flush made needless.
    """

    def __init__(
        self,
        store: Store,
        config: FeedsConfig,
        make_flusher: Callable[[Store], Flusher] = InlineFlusher,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` tells seconds, and cannot be set: it moves the cluster's clock."""
        self._config = config
        self._clock = clock
        self._store = store
        self._make_flusher = make_flusher
        self._flusher = make_flusher(store)
        self._eraser = Eraser()
        self._listeners: tuple[Listener, ...] = ()
        self._applier = self._make_applier()
        self._replica: Replica | None = None
        self._outbox: Outbox | None = None
        self._mover: ClockMover | None = None

    @property
    def store(self) -> Store:
        """The store, until a snapshot takes its place."""
        return self._store

    @property
    def leads(self) -> bool:
        """Whether what commands left to be done is proposed here."""
        return self._outbox is not None

    def applied(self) -> LogPosition:
        """The last command that the store holds the effects of."""
        return applied_position(self._store)

    def apply(self, index: int, term: int, command: bytes) -> bytes:
        """The encoded answer of a command; raises as `Applier.apply`."""
        return self._applier.apply(index, term, command)

    def hold(self, index: int, term: int, command: bytes) -> bytes:
        """As `apply`; what it does is in the store after `commit`."""
        return self._applier.hold(index, term, command)

    def commit(self) -> None:
        """Write what was held; raises as `Applier.commit`."""
        self._applier.commit()

    def subscribe(self, listener: Listener, gap: Gap = lambda: None) -> None:
        """Call `listener` after every command that leaves events, in log order, from now on.

        It is called within `apply`; what it raises is logged and goes no further. Nothing is missed
        here, so `gap` is never called.
        """
        del gap
        self._listeners = (*self._listeners, listener)
        self._applier.subscribe(listener)

    def bind(self, replica: Replica) -> None:
        """Propose to `replica` from now on."""
        self._replica = replica

    def lead(self, *, leads: bool) -> None:
        """Begin or cease to do what commands left to be done; the same again changes nothing."""
        if not leads:
            self._stop_outbox()
        elif self._outbox is None:
            self._mover = ClockMover(self._store, self._clock)
            self._outbox = Outbox(self._propose, self._store, self._config)
            self._applier.take_left()
            self._outbox.resume()

    def before_write(self) -> bytes | None:
        """What the log must hold before that which is written now; most often nothing.

        To be asked where this node leads; two threads must not ask at once.
        """
        move = None if self._mover is None else self._mover.due()
        return None if move is None else encode_command(move)

    def work(self) -> None:
        """Go on with what commands left to be done, and drop the log before the last flush."""
        left = self._applier.take_left()
        if self._outbox is not None:
            self._outbox.add(left)
        for tenant in self._applier.take_wiped():
            self._eraser.erase(self._store, tenant)
        self._compact()

    def replace(self, store: Store) -> None:
        """Go on with the store of a snapshot; the one before was closed with `close_store`."""
        self._store = store
        self._flusher = self._make_flusher(store)
        self._stop_outbox()
        self._applier = self._make_applier()

    def close_store(self) -> None:
        """Close the store as it is, to be replaced."""
        self._stop_outbox()
        self._eraser.close()
        self._flusher.close()
        self._store.close()

    def close(self) -> None:
        """Flush and close the store. Where the disk refuses the flush, that is logged.

        Nothing is lost then: the log has what the store lacks.
        """
        self._eraser.close()
        self._flusher.close()
        try:
            self._store.flush()
        except StorageError as error:  # what ended the work must be heard, not this
            _log.warning("closed_unflushed", error=str(error))
        finally:
            self._store.close()

    def _make_applier(self) -> Applier:
        every_bytes = self._config.flush_every_bytes
        applier = Applier(self._store, self.applied().index, every_bytes, self._flusher)
        for listener in self._listeners:
            applier.subscribe(listener)
        return applier

    def _stop_outbox(self) -> None:
        if self._outbox is not None:
            self._outbox.stop()
        self._outbox = self._mover = None

    def _propose(self, command: ClearRows | FanOut | WipeTenant) -> "Future[Applied]":
        if self._replica is None:
            raise ReplicaStopped("the state machine is bound to no replica")
        return self._replica.propose(encode_command(command))

    def _compact(self) -> None:
        flushed = self._flusher.take_flushed()
        if not flushed or self._replica is None:
            return
        try:
            self._replica.compact(flushed)
        except OSError as error:
            _log.warning("compaction_failed", flushed_index=flushed, error=str(error))


class LocalReplica:
    """The replica of this very process together with its state machine, which leads.

    What a write left to be done is proposed before the write's future is done.
    """

    def __init__(self, machine: StateMachine, replica_factory: ReplicaFactory) -> None:
        self._machine = machine
        self._order = threading.RLock()
        self._replica = replica_factory(machine.apply, machine.applied().index)
        machine.bind(self)
        try:
            machine.lead(leads=True)
        except BaseException:
            self._replica.close()
            raise

    def propose(self, command: bytes) -> "Future[Applied]":
        """As `Replica.propose`."""
        with self._order:  # nothing comes between the clock and the write
            first = self._machine.before_write()
            if first is not None:
                self._replica.propose(first)
            future = self._replica.propose(command)
        future.add_done_callback(self._work_after)
        return future

    def barrier(self) -> "Future[int]":
        """As `Replica.barrier`."""
        return self._replica.barrier()

    def status(self) -> ReplicaStatus:
        """As `Replica.status`."""
        return self._replica.status()

    def compact(self, flushed_index: int) -> None:
        """As `Replica.compact`."""
        self._replica.compact(flushed_index)

    def close(self) -> None:
        """As `Replica.close`; the store stays open."""
        self._replica.close()

    def _work_after(self, done: "Future[Applied]") -> None:
        if done.exception() is None:
            self._machine.work()
