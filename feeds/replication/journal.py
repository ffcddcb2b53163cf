"""The durable log and hard state of one node of a cluster, as consensus sees them.

The newest entries are kept in memory, up to `tail_bytes_max`; older ones are read from the files.
"""

import errno
from collections.abc import Sequence
from itertools import accumulate, groupby
from operator import itemgetter
from pathlib import Path
from typing import Final, Self

from feeds.errors import LogDamaged
from feeds.replication.base import Entry, LogPosition
from feeds.replication.config import LogConfig
from feeds.replication.disk_space import NO_SPACE, DiskSpace
from feeds.replication.hard_state import (
    HardState,
    load_hard_state,
    save_hard_state,
    take_place,
)
from feeds.replication.log import SegmentLog
from feeds.replication.segment import PendingSync

__all__ = ["Journal"]

TAIL_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of the newest commands that are kept in memory."""

_ORIGIN: Final = LogPosition(0, 0)
_TERM: Final = itemgetter(0)


class Journal:
    """Entries with gapless indexes behind `base`, and the vote. One thread.

    `base` is the entry before the first that can be handed out: the first record that is kept, or,
    where there is none, what the store has applied. Methods raise OSError where the disk fails; the
    log is then as before, or refuses every further write.
    """

    def __init__(
        self,
        log: SegmentLog,
        base: LogPosition,
        state: HardState,
        tail_max: int,
        space: DiskSpace | None,
    ) -> None:
        # Use `Journal.open`.
        self._log = log
        self._space = space
        self._floor = base
        self._state = state
        self._tail_max = tail_max
        self._tail: list[Entry] = []
        self._tail_bytes = 0

    @classmethod
    def open(
        cls,
        directory: Path,
        applied: LogPosition,
        config: LogConfig | None = None,
        tail_bytes_max: int = TAIL_BYTES_MAX,
        space: DiskSpace | None = None,
    ) -> Self:
        """Open the log behind a store that has applied up to `applied`.

        Nothing is written for which `space` lacks room; None asks nobody but the disk itself.
        Raises `LogDamaged`, `FormatUnsupported` or `StorageError`.
        """
        log = SegmentLog.open(directory, applied.index, config)
        try:
            state = load_hard_state(directory) or HardState()
            _check_fit(log, applied)
            take_place(directory)
            term = max(state.term, log.term, applied.term)
            if term != state.term:
                state = HardState(term)
            return cls(log, applied, state, tail_bytes_max, space)
        except BaseException:
            log.close()
            raise

    @property
    def base(self) -> LogPosition:
        """The entry before the first that can be handed out."""
        first = self._log.first_index
        if first == 1:
            return _ORIGIN
        return self._floor if first == self._floor.index + 1 else self._position(first)

    @property
    def last(self) -> LogPosition:
        """The newest entry; `base` where there is none."""
        index = self._log.last_index
        return self.base if index < self._log.first_index else LogPosition(index, self._log.term)

    @property
    def last_index(self) -> int:
        """The index of `last`."""
        return self._log.last_index

    @property
    def durable_index(self) -> int:
        """Index up to which every entry survives a loss of power."""
        return self._log.durable_index

    @property
    def term(self) -> int:
        """The newest term that this node has seen."""
        return self._state.term

    @property
    def voted_for(self) -> str | None:
        """The node that this one voted for in its term."""
        return self._state.voted_for

    @property
    def size_bytes(self) -> int:
        """Bytes of the log's files."""
        return self._log.size_bytes

    @property
    def directory(self) -> Path:
        """Where the log lies."""
        return self._log.directory

    @property
    def broken(self) -> str | None:
        """Why nothing can be written any more; None while all is well."""
        return self._log.broken

    @property
    def full(self) -> str | None:
        """Why no command can be written at present; None where there is room."""
        return None if self._space is None else self._space.lacking(0)

    def append(self, entries: Sequence[Entry]) -> None:
        """Write entries behind the last; they are not durable before `sync`.

        The empty entries of leaders and of barriers may use what is left free for the store.
        """
        self._check_space(sum(len(command) for _, command in entries))
        start = self._log.last_index
        try:
            for term, group in groupby(entries, key=_TERM):
                self._log.append(term, [command for _, command in group])
        except OSError as error:
            if self._space is not None and error.errno in NO_SPACE:
                self._space.refused(str(error))
            raise
        finally:
            written = self._log.last_index - start
            if written:
                self._remember(entries[:written])

    def sync(self) -> None:
        """Make every entry durable; costs nothing where every one is."""
        self._log.sync()

    def begin_sync(self) -> PendingSync | None:
        """A sync of every entry until now, to be run on any thread; None where all are durable."""
        return self._log.begin_sync()

    def end_sync(self, pending: PendingSync) -> None:
        """A sync has run: `durable_index` follows. Raises OSError if it failed."""
        self._log.end_sync(pending)

    def term_at(self, index: int) -> int | None:
        """The term of an entry from `base` on; None where there is none."""
        found = self._log.term_at(index)
        if found is None and index == self.base.index:
            return self.base.term
        return found

    def entries(self, first: int, count_max: int, bytes_max: int) -> list[Entry]:
        """Entries from index `first` on: at least one, if there is one.

        At most `count_max`, and at most `bytes_max` bytes of commands and their records after the
        first. Raises `LogDamaged` if one that is on disk is not sound.
        """
        start = first - (self._log.last_index - len(self._tail) + 1)
        if start < 0:
            return self._log.read(first, count_max, bytes_max)
        found = self._tail[start : start + count_max]
        if len(found) <= 1:
            return found
        sizes = accumulate(len(command) for _, command in found)
        within = sum(1 for size in sizes if size <= bytes_max)
        return found[: max(1, within)]

    def truncate_from(self, index: int) -> None:
        """Remove the entries from `index` on, durably."""
        if index <= self.base.index:
            raise ValueError(f"entry {index} is not behind the log's base {self.base.index}")
        removed = self._log.last_index - index + 1
        self._log.truncate_from(index)
        kept = max(0, len(self._tail) - removed)
        self._tail_bytes -= sum(len(command) for _, command in self._tail[kept:])
        del self._tail[kept:]

    def save_vote(self, term: int, voted_for: str | None) -> None:
        """Take up a term and a vote; durable when it returns."""
        state = HardState(term, voted_for)
        if state != self._state:
            save_hard_state(self._log.directory, state)
            self._state = state

    def compact(self, index: int) -> int:
        """Drop every segment that has nothing behind `index`; how many went."""
        return self._log.compact(index)

    def reset(self, position: LogPosition) -> None:
        """Forget every entry: the store holds everything up to `position`.

        Cut short, it leaves a log that does not fit the store: who swaps the store remembers that
        it was at it, and begins again.
        """
        self._log.begin_behind(position.index)
        self._floor = position
        self._tail.clear()
        self._tail_bytes = 0

    def close(self) -> None:
        """Close the files; closing twice is harmless. Nothing is synced."""
        self._log.close()

    def _check_space(self, bytes_wanted: int) -> None:
        if self._space is None or not bytes_wanted:
            return
        lacking = self._space.lacking(bytes_wanted)
        if lacking is not None:
            raise OSError(errno.ENOSPC, lacking)

    def _position(self, index: int) -> LogPosition:
        term = self._log.term_at(index)
        return LogPosition(index, term) if term is not None else self._floor

    def _remember(self, entries: Sequence[Entry]) -> None:
        self._tail.extend(entries)
        self._tail_bytes += sum(len(command) for _, command in entries)
        if (
            self._tail_bytes > self._tail_max
        ):  # rarely, and then half of it: deleting moves the rest
            goes, kept_bytes = 0, self._tail_bytes
            while kept_bytes > self._tail_max // 2:
                kept_bytes -= len(self._tail[goes].command)
                goes += 1
            del self._tail[:goes]
            self._tail_bytes = kept_bytes


def _check_fit(log: SegmentLog, applied: LogPosition) -> None:
    """Raise `LogDamaged` where log and store are of different histories."""
    found = log.term_at(applied.index)
    if found is not None and found != applied.term:
        raise LogDamaged(
            f"the log in {log.directory} has record {applied.index} in term {found}, and the store "
            f"applied it in term {applied.term}: they are not of one node. Restore both from one "
            "backup, or replace the node by an empty one that joins"
        )
