"""A replica of one node: a durable log and the thread that writes and applies it.

The thread takes every command that waits (up to a limit), appends them in one write, makes them
durable with one fdatasync, applies them in order, and only then tells their proposers. While it
syncs, the next group gathers: that is all that group commit needs.

What can go wrong, and what is then true:

| fault | the futures of the group | the replica |
|---|---|---|
| too little free space, or the disk is full | `StorageFull`, nothing written | goes on |
| a write fails otherwise, or cannot be undone | `ReplicaStopped` | stops |
| a sync fails | `ReplicaStopped`: written or not, unknown until restart | stops |
| apply raises | `ReplicaStopped`: written, applied at the next start | stops |
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread, current_thread
from traceback import format_exception
from typing import Final, Self

import structlog

from feeds.errors import LimitExceeded, ReplicaStopped, StorageFull
from feeds.replication.base import Applied, ApplyCommand, ReplicaStatus
from feeds.replication.config import LogConfig
from feeds.replication.disk_space import NO_SPACE, DiskSpace
from feeds.replication.log import SegmentLog
from feeds.replication.proposals import Proposal, ProposalQueue

__all__ = ["ReplicaConfig", "SingleReplica"]

_log = structlog.get_logger(__name__)
_TERM: Final = 1  # a single node elects nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """The limits of one replica."""

    log: LogConfig = field(default_factory=LogConfig)
    """The limits of its log."""

    group_commit_ops_max: int = 256
    """Commands that share one fdatasync at most."""

    group_commit_bytes_max: int = 4 * 1024 * 1024
    """Bytes of the commands that share one fdatasync, after the first, at most."""

    proposals_max: int = 10_000
    """Commands that may wait for the log; another one is refused as overloaded."""

    proposals_bytes_max: int = 64 * 1024 * 1024
    """Bytes of the commands that wait; once so many do, another one is refused as overloaded."""

    disk_reserve_bytes: int = 64 * 1024 * 1024
    """Free bytes on the disk below which nothing is written: the store needs room to apply."""


class SingleReplica:
    """A `Replica` without peers. Proposals may come from any thread.

    Futures are completed on the replica's thread, and so are their callbacks: a slow one delays
    every write. A future can be cancelled until its command is taken for writing; then the command
    is not written.
    """

    def __init__(
        self, log: SegmentLog, apply: ApplyCommand, applied_index: int, config: ReplicaConfig
    ) -> None:
        # Use `SingleReplica.open`.
        self._log = log
        self._apply = apply
        self._applied_index = applied_index
        self._config = config
        self._space = DiskSpace.of([log.directory], config.disk_reserve_bytes)
        self._term = max(_TERM, log.term)
        self._queue = ProposalQueue(config.proposals_max, config.proposals_bytes_max)
        self._stopped: str | None = None
        self._cause: BaseException | None = None
        self._thread = Thread(target=self._run, name="replica", daemon=True)

    @classmethod
    def open(
        cls,
        directory: Path,
        apply: ApplyCommand,
        applied_index: int,
        config: ReplicaConfig | None = None,
    ) -> Self:
        """Open the log, apply what the store has not applied yet, and accept proposals.

        Applying happens in this call and on its thread. Raises `LogDamaged`, `FormatUnsupported`,
        `StorageError`, and what `apply` raises.
        """
        config = config or ReplicaConfig()
        log = SegmentLog.open(directory, applied_index, config.log)
        replica = cls(log, apply, applied_index, config)
        try:
            replica._replay()
        except BaseException:
            log.close()
            raise
        replica._thread.start()
        return replica

    def propose(self, command: bytes) -> "Future[Applied]":
        """Queue a command; the future is done once it is durable and applied.

        Raises `Overloaded` and `LimitExceeded` at once. The future fails with `StorageFull` (not
        written, may be retried) or `ReplicaStopped` (it may or may not have been written; not if
        the replica had stopped before).
        """
        if len(command) > self._config.log.record_bytes_max:
            raise LimitExceeded(
                f"a command of {len(command)} bytes is above record_bytes_max "
                f"({self._config.log.record_bytes_max}): send less at once"
            )
        future = self._queue.put(command)
        return self._refused() if future is None else future

    def barrier(self) -> "Future[int]":
        """What was acknowledged is applied already: the applied index, at once."""
        future: Future[int] = Future()
        if self._stopped is None:
            future.set_result(self._applied_index)
        else:
            future.set_exception(self._stop_error())
        return future

    def status(self) -> ReplicaStatus:
        """Where this replica stands; its role is `leader`, or `stopped` after an error or close."""
        return ReplicaStatus(
            role="leader" if self._thread.is_alive() and self._stopped is None else "stopped",
            term=self._term,
            last_index=self._log.last_index,
            applied_index=self._applied_index,
            log_bytes=self._log.size_bytes,
            commit_index=self._applied_index,
            first_index=self._log.first_index,
        )

    def compact(self, flushed_index: int) -> None:
        """Drop whole log segments whose commands are all applied and at or below `flushed_index`.

        Any thread may call it. Raises OSError if a file cannot be removed; nothing is lost then.
        """
        dropped = self._log.compact(min(flushed_index, self._applied_index))
        if dropped:
            _log.info("log_compacted", segments=dropped, flushed_index=flushed_index)

    def close(self) -> None:
        """Finish what was queued, sync and stop; closing twice is harmless.

        From the replica's own thread (an apply, a callback) it does not wait.
        """
        self._queue.close()
        if current_thread() is not self._thread:
            self._thread.join()

    def _replay(self) -> None:
        count = 0
        for record in self._log.records(self._applied_index):
            self._apply(record.index, record.term, record.command)
            self._applied_index = record.index
            count += 1
        if count:
            _log.info("log_replayed", records=count, applied_index=self._applied_index)

    def _run(self) -> None:
        """The life of the thread: every proposal it takes is answered, whatever happens."""
        config = self._config
        group: list[Proposal] = []
        try:
            while group := self._queue.take(
                config.group_commit_ops_max, config.group_commit_bytes_max
            ):
                self._commit(group)
            self._stopped = "it was closed"
        except BaseException as error:  # noqa: BLE001  whatever apply raised, the waiters must know
            self._cause, self._stopped = error, f"{type(error).__name__}: {error}"
            _log.error(
                "replica_stopped",
                applied_index=self._applied_index,
                trace="".join(format_exception(error)),  # not exc_info: that may print locals
            )
        finally:
            self._queue.close()
            self._refuse([taken for taken in group if taken.future.running()])
            while group := self._queue.take(config.proposals_max, config.proposals_bytes_max):
                self._refuse([left for left in group if left.future.set_running_or_notify_cancel()])
            self._log.close()

    def _commit(self, group: Sequence[Proposal]) -> None:
        """Write, sync, apply and answer one group; raises whatever must stop the replica."""
        running = [entry for entry in group if entry.future.set_running_or_notify_cancel()]
        if not running:
            return
        first = self._write([proposal.command for proposal in running])
        if isinstance(first, StorageFull):
            for proposal in running:
                proposal.future.set_exception(first)
            return
        self._log.sync()
        for index, proposal in enumerate(running, first):
            result = self._apply(index, self._term, proposal.command)
            self._applied_index = index
            proposal.future.set_result(Applied(index, result))

    def _write(self, commands: Sequence[bytes]) -> int | StorageFull:
        """The index of the first command, or why nothing was written and the replica goes on."""
        lacking = self._space.lacking(sum(map(len, commands)))
        if lacking is not None:
            return self._full(lacking)
        try:
            return self._log.append(self._term, commands)
        except OSError as error:
            if error.errno not in NO_SPACE or self._log.broken is not None:
                raise
            return self._full(str(error))

    def _full(self, why: str) -> StorageFull:
        _log.warning("storage_full", directory=str(self._log.directory), why=why)
        return StorageFull(
            f"the disk of {self._log.directory} is full ({why}); nothing was written: free space "
            "there and retry"
        )

    def _refuse(self, running: Sequence[Proposal]) -> None:
        for proposal in running:
            proposal.future.set_exception(self._stop_error())

    def _refused(self) -> "Future[Applied]":
        future: Future[Applied] = Future()
        future.set_exception(self._stop_error())
        return future

    def _stop_error(self) -> ReplicaStopped:
        error = ReplicaStopped(
            f"the replica takes no writes: {self._stopped or 'it is closing'}. Reads go on; "
            "restart to write again. A write under way may be there then: repeat it with its key"
        )
        error.__cause__ = self._cause
        return error
