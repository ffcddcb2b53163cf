"""The segment log: records that are on disk before anyone is told that they are.

A directory of segments (`feeds.replication.segment`), each named by the index of its first record.
What opening does with a record that is incomplete or fails its checksum:

* It is in the last segment, it never was applied, and no sound record behind it, however far, was
  written when it was durable: the rest of writes that were never acknowledged. A disk may keep a
  later page of those and lose an earlier one, so sound records may come after it. All are cut.
* Otherwise, damage of what was durable. The log refuses, naming file and offset, and changes
  nothing.

Nothing is written behind a cut, nor behind what an earlier process wrote: the next record begins a
new segment. So bytes that a file system digs up from before a cut are of another salt, and a
segment that has a successor was durable to its end.

What cannot be told: damage of the last records that were durable, if the store has not applied them
and nothing that was written after them is left. It looks like a torn tail, and is cut.
"""

import os
import re
import secrets
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Final, Self

import structlog

from feeds.durable import make_directory, sync_directory
from feeds.errors import LimitExceeded, LogDamaged, ReplicaStopped, StorageError
from feeds.replication.base import Entry
from feeds.replication.config import LogConfig
from feeds.replication.segment import (
    HEADER_BYTES,
    PendingSync,
    Record,
    SegmentHeader,
    SegmentReader,
    cut_file,
    decode_entries,
    encode_record,
    find_witness,
    segment_path,
    write_all,
)

__all__ = ["SegmentLog"]

_log = structlog.get_logger(__name__)
_NAME: Final = re.compile(r"\d{20}\.log")
_TERM_MAX: Final = 2**64
_ADVICE_1: Final = (
    "Only if power was lost while it was written, and nothing was acknowledged since: cut it with "
    "`truncate -s {offset}` on a copy"
)
"""Where segments of format 1 leave undecided whether it was durable."""


@dataclass(slots=True)
class _Segment:
    path: Path
    header: SegmentHeader
    last_index: int
    bytes: int
    offsets: "array[int]" = field(default_factory=lambda: array("I"))
    """Where each record begins: four bytes a record, so that any can be read by its index."""


class SegmentLog:
    """An append-only log of commands with gapless indexes. One writer; compaction from any thread.

    What was appended is durable after `sync`; or after `begin_sync`, its `run` on whatever thread
    may wait for the disk, and `end_sync`. Appending goes on meanwhile.

    An error while writing takes the write back, so that the log is as before; where that fails, or
    a sync fails, the log is `broken`, and refuses every further write: what the disk has is then
    known only after a restart.
    """

    def __init__(self, directory: Path, config: LogConfig, salts: Callable[[], int]) -> None:
        # Use `SegmentLog.open`.
        self.directory = directory
        """Where the segments lie."""
        self._config = config
        self._salts = salts
        self._segments: list[_Segment] = []
        self._lock = Lock()
        self._file: int | None = None
        self._synced_bytes = 0
        self._ended = False  # the last segment takes no further record
        self._terms: list[tuple[int, int]] = []  # (index, term) where a record's term is new
        self._closed = False
        self._epoch = 0
        self.last_index = 0
        """Index of the last record; the index before the first where there is none."""
        self.durable_index = 0
        """Index up to which every record survives a loss of power."""
        self.term = 0
        """Term of the last record, 0 where there is none."""
        self.broken: str | None = None
        """Why nothing can be written any more; None while all is well."""

    @classmethod
    def open(
        cls,
        directory: Path,
        applied_index: int = 0,
        config: LogConfig | None = None,
        salts: Callable[[], int] = lambda: secrets.randbits(64),
    ) -> Self:
        """Read and check every record, cut a torn tail, and make the rest durable.

        `applied_index` is what the store has applied: those records must not be missing behind it.
        `salts` gives 64 random bits for each new segment. An empty directory begins behind
        `applied_index`. Raises `LogDamaged`, `FormatUnsupported`, or `StorageError` (the disk).
        Cost: about 0.6 us a record and the time to read the files.
        """
        log = cls(directory, config or LogConfig(), salts)
        try:
            make_directory(directory)
            log._load(applied_index)
            log._check_reach(applied_index)
            log._settle()
        except OSError as error:
            log.close()
            raise StorageError(
                f"the log in {directory} cannot be opened: {error}. Check the disk and the "
                "permissions, then start again"
            ) from error
        return log

    @property
    def first_index(self) -> int:
        """Index of the first record that is kept; last_index + 1 where there is none."""
        with self._lock:
            return self._segments[0].header.first_index if self._segments else self.last_index + 1

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        with self._lock:
            return sum(segment.bytes for segment in self._segments)

    def append(self, term: int, commands: Sequence[bytes]) -> int:
        """Write commands behind the last record, in one piece; the index of the first.

        They are not durable before `sync`. Raises OSError with nothing changed (or `broken`), and
        `LimitExceeded` if a command is too long.
        """
        self._check_writable()
        for command in commands:
            if len(command) > self._config.record_bytes_max:
                raise LimitExceeded(
                    f"a command of {len(command)} bytes is above record_bytes_max "
                    f"({self._config.record_bytes_max}): send less at once"
                )
        segment, file = self._active()
        first, durable, seed = self.last_index + 1, self.durable_index, segment.header.seed
        records = [
            encode_record(seed, index, term, durable, command)
            for index, command in enumerate(commands, first)
        ]
        try:
            write_all(file, b"".join(records))
        except OSError as error:
            self._take_back(segment, file, error)
            raise
        for record in records:
            segment.offsets.append(segment.bytes)
            segment.bytes += len(record)
        segment.last_index = self.last_index = first + len(commands) - 1
        self._note_term(first, term)
        return first

    def term_at(self, index: int) -> int | None:
        """The term of a record; None where there is no such record."""
        if not self.first_index <= index <= self.last_index:
            return None
        return self._terms[bisect_right(self._terms, (index, _TERM_MAX)) - 1][1]

    def read(self, first: int, count_max: int, bytes_max: int) -> list[Entry]:
        """Entries from index `first` on, from the files: at least one, if there is one.

        Not more than `count_max`, and not more bytes of commands than `bytes_max` after the first.
        Raises `LogDamaged` if one is not sound. Cost: the bytes read.
        """
        segment = next((one for one in self._segments if first <= one.last_index), None)
        if segment is None or first < segment.header.first_index:
            return []
        place = first - segment.header.first_index
        ends = segment.offsets[place + 1 : place + count_max]
        ends.append(
            segment.bytes
            if place + count_max >= len(segment.offsets)
            else segment.offsets[place + count_max]
        )
        start = segment.offsets[place]
        within = [end for end in ends if end - start <= bytes_max] or [ends[0]]
        data = _read_range(segment.path, start, within[-1])
        entries = decode_entries(data, segment.header, first)
        if len(entries) != len(within):
            found = f"{len(entries)} sound records, where {len(within)} belong"
            raise _damage(segment.path, start, found)
        return entries

    def truncate_from(self, index: int) -> None:
        """Remove the records from `index` on; they do not come back once this returns.

        Raises OSError, and is then `broken`.
        """
        if index <= self.last_index:
            self._remove_from(index)

    def _remove_from(self, index: int) -> None:
        self._check_writable()
        try:
            self._truncate_from(index)
        except OSError as error:
            self.broken = f"{self.directory} could not be truncated: {error}"
            raise
        self._epoch += 1  # a sync that runs speaks of records that are gone
        self.last_index = self.durable_index = index - 1
        del self._terms[bisect_right(self._terms, (index - 1, _TERM_MAX)) :]
        self.term = self._terms[-1][1] if self._terms else 0

    def _truncate_from(self, index: int) -> None:
        """Newest first, each step durable before the next, so that no gap is ever left."""
        self._close_file()
        while self._segments and self._segments[-1].header.first_index >= index:
            self._segments[-1].path.unlink()
            sync_directory(self.directory)
            with self._lock:
                del self._segments[-1]
        if not self._segments:
            return
        segment = self._segments[-1]
        place = index - segment.header.first_index
        if place < len(segment.offsets):
            segment.bytes = segment.offsets[place]
            del segment.offsets[place:]
            segment.last_index = index - 1
        cut_file(segment.path, segment.bytes)

    def begin_behind(self, index: int) -> None:
        """Forget every record; the next one has the index behind this one. Raises OSError."""
        self._remove_from(self.first_index)  # also a segment that has no record yet
        self.last_index = self.durable_index = index

    def _note_term(self, index: int, term: int) -> None:
        if not self._terms or self._terms[-1][1] != term:
            self._terms.append((index, term))
        self.term = term

    def sync(self) -> None:
        """Make every appended record survive a loss of power; raises OSError and is then `broken`.

        After a failed sync the kernel may hold pages as clean that are not on disk: the records
        since the last sync are taken out of the file, so that a restart does not trust them.
        """
        pending = self.begin_sync()
        if pending is not None:
            pending.run()
            self.end_sync(pending)

    def begin_sync(self) -> PendingSync | None:
        """A sync of what was appended until now; None where everything is durable."""
        self._check_writable()
        if self._file is None or self.durable_index == self.last_index:
            return None
        segment = self._segments[-1]
        return PendingSync(
            os.open(segment.path, os.O_WRONLY | os.O_CLOEXEC),
            segment.path,
            segment.bytes,
            self.last_index,
            self._epoch,
        )

    def end_sync(self, pending: PendingSync) -> None:
        """A sync has run: what it covered is durable. Raises and is `broken` as `sync`."""
        in_tail = bool(self._segments) and self._segments[-1].path == pending.path
        if pending.error is not None:
            self.broken = f"{pending.path} could not be synced: {pending.error}"
            if in_tail and self._file is not None:
                with suppress(OSError):
                    os.ftruncate(self._file, self._synced_bytes)
            raise pending.error
        if pending.epoch == self._epoch:
            self.durable_index = max(self.durable_index, pending.index)
            if in_tail:
                self._synced_bytes = max(self._synced_bytes, pending.bytes)

    def records(self, after_index: int) -> Iterator[Record]:
        """The records behind an index, in order, read from the files as they are asked for.

        Raises `LogDamaged` if one is not sound. Not to be run beside `append` or `compact`.
        """
        for segment in list(self._segments):
            if segment.last_index <= after_index:
                continue
            reader = SegmentReader(segment.path)
            yield from (record for record in reader if record.index > after_index)
            if reader.next_index <= segment.last_index:
                raise _damage(reader.path, reader.offset, reader.problem or "the end of the file")

    def compact(self, index: int) -> int:
        """Drop every segment, but the last, that has no record behind `index`; how many went.

        Oldest first and each durably, so that what is left has no gap whenever it is cut short.
        Raises OSError.
        """
        dropped = 0
        with self._lock:
            while len(self._segments) > 1 and self._segments[0].last_index <= index:
                self._segments[0].path.unlink(missing_ok=True)
                del self._segments[0]
                sync_directory(self.directory)
                dropped += 1
        return dropped

    def close(self) -> None:
        """Close the file; closing twice is harmless. Nothing is synced: `sync` is for that."""
        self._closed = True
        self._close_file()

    def _load(self, applied_index: int) -> None:
        paths = sorted(self.directory.glob("*.log"))
        for path in paths:
            if not _NAME.fullmatch(path.name):
                raise LogDamaged(f"{path} is no name of a log segment: move the file elsewhere")
        for path in paths:
            self._load_segment(path, applied_index, tail=path == paths[-1])
        if not self._segments:
            self.last_index = applied_index
            if applied_index:
                _log.warning("log_begins_anew", directory=str(self.directory), after=applied_index)

    def _load_segment(self, path: Path, applied_index: int, *, tail: bool) -> None:
        reader = SegmentReader(path)
        if reader.header is None:
            self._drop_unborn(reader, applied_index, tail=tail)
            return
        first = reader.header.first_index
        if first != int(path.stem):
            raise _damage(path, 0, f"the header of a segment that begins with {first}")
        if self._segments and first != self.last_index + 1:
            raise _damage(path, 0, f"the record {first}, where {self.last_index + 1} belongs")
        offsets = array("I")
        for start, terms, ends in reader.pieces():
            offsets.append(start)
            offsets.extend([start + end for end in ends[:-1]])
            index = reader.next_index - len(terms)
            for same, group in groupby(terms):
                self._note_term(index, same)
                index += sum(1 for _ in group)
        if reader.problem is not None:
            self._cut_tail(reader, applied_index, tail=tail)
        last = reader.next_index - 1
        self._segments.append(_Segment(path, reader.header, last, reader.offset, offsets))
        self.last_index = last

    def _drop_unborn(self, reader: SegmentReader, applied_index: int, *, tail: bool) -> None:
        """Remove a segment whose creation was cut short; its header was never synced."""
        path = reader.path
        if not tail or reader.size > HEADER_BYTES or int(path.stem) <= applied_index:
            raise _damage(path, 0, "no header of a segment")
        path.unlink()
        sync_directory(self.directory)
        _log.warning("log_segment_unborn", file=path.name, bytes=reader.size)

    def _cut_tail(self, reader: SegmentReader, applied_index: int, *, tail: bool) -> None:
        problem, path, offset = reader.problem or "", reader.path, reader.offset
        if not tail:
            raise _damage(path, offset, f"{problem}, and newer segments follow")
        if reader.misplaced or reader.header is None:
            raise _damage(path, offset, problem)
        if reader.next_index <= applied_index:
            raise _damage(path, offset, f"{problem}, though the store has applied this record")
        witness = find_witness(path, reader.header, offset, reader.next_index)
        if witness is not None:
            found = f"{problem}, and a sound record at {witness}"
            if reader.header.witnessed:
                raise _damage(path, offset, f"{found} that was written when this was durable")
            raise _damage(path, offset, found, _ADVICE_1.format(offset=offset))
        cut_file(path, offset)
        _log.warning(
            "log_tail_cut",
            file=path.name,
            offset=offset,
            bytes=reader.size - offset,
            index=reader.next_index,
            problem=problem,
        )

    def _check_reach(self, applied_index: int) -> None:
        first = self._segments[0].header.first_index if self._segments else applied_index + 1
        if first > applied_index + 1:
            raise LogDamaged(
                f"the log in {self.directory} begins with {first}, but the store has applied only "
                f"{applied_index}: records are missing. Restore store and log from one backup"
            )
        if self.last_index < applied_index:
            raise LogDamaged(
                f"the log in {self.directory} ends with {self.last_index}, but the store has "
                f"applied {applied_index}: records are missing. Keep a copy of both; then move the "
                "log elsewhere, and a new one begins behind the store"
            )

    def _settle(self) -> None:
        """Make what was found durable before it is trusted. Nothing is written behind it."""
        if self._segments:
            last = self._segments[-1]
            cut_file(last.path, last.bytes)
            sync_directory(self.directory)
        self.durable_index = self.last_index

    def _active(self) -> tuple[_Segment, int]:
        """The segment that takes the next records; all before it are durable."""
        if self._file is not None:
            segment = self._segments[-1]
            if segment.bytes < self._config.segment_bytes_max and not self._ended:
                return segment, self._file
            self.sync()
        self._drop_empty()
        segment, file = self._create(self.last_index + 1)
        self._close_file()
        self._file, self._synced_bytes, self._ended = file, segment.bytes, False
        with self._lock:
            self._segments.append(segment)
        return segment, file

    def _drop_empty(self) -> None:
        """A last segment without a record makes way: the next has its name, and another salt."""
        if self._segments and not self._segments[-1].offsets:
            self._close_file()
            self._segments[-1].path.unlink(missing_ok=True)
            sync_directory(self.directory)
            with self._lock:
                del self._segments[-1]

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _create(self, first_index: int) -> tuple[_Segment, int]:
        path = segment_path(self.directory, first_index)
        header, data = SegmentHeader.create(self._salts(), first_index)
        file = os.open(
            path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        try:
            write_all(file, data)
            os.fdatasync(file)
            sync_directory(self.directory)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        return _Segment(path, header, first_index - 1, HEADER_BYTES), file

    def _take_back(self, segment: _Segment, file: int, cause: OSError) -> None:
        """Undo a partial write, durably: what was refused must not come back after a restart."""
        self._ended = True
        try:
            os.ftruncate(file, segment.bytes)
            os.fdatasync(file)
        except OSError as error:
            self.broken = f"{segment.path}: {cause}, and the write could not be undone: {error}"

    def _check_writable(self) -> None:
        if self._closed:
            raise ReplicaStopped("the log is closed: open it again to write")
        if self.broken is not None:
            raise ReplicaStopped(f"the log takes no writes: {self.broken}")


def _read_range(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        return file.read(stop - start)


def _damage(path: Path, offset: int, found: str, advice: str = "") -> LogDamaged:
    return LogDamaged(
        f"{path} is damaged at offset {offset}: found {found}. Nothing was changed. Keep a copy of "
        f"the data directory and restore it from a backup. {advice}".strip()
    )
