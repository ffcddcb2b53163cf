"""Appending served slates to the log, beside the requests: a bounded queue and one thread.

A request leaves references in the queue, about 3 us; the thread packs and writes them, a batch each
`flush_ms` or `flush_records`. What a crash of the process loses is what was noted since the last
batch; nothing is synced, so a loss of power loses besides what the kernel had not written (30 s, as
Linux is set up). A full queue and a failing disk cost slates, which are counted, never a request.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import structlog

from feeds.model import TenantId
from ranking.candidates import Query
from ranking.slates import Slate
from ranking.table import ActivityTable
from serving.slate_log.config import Shares, SlateLogConfig, SlateRules
from serving.slate_log.record import encode, log
from serving.slate_log.segments import (
    HEADER_BYTES,
    RECORD_BYTES,
    SegmentDisk,
    SegmentHeader,
    frame,
    key_of,
)
from serving.slate_log.shelf import (
    locked,
    make_room,
    remove_all,
    remove_old,
    remove_over,
    segment_path,
    tenants_of,
)
from serving.telemetry import Metrics

__all__ = ["NoSlateLog", "SlateLog", "SlateNotes", "TenantShelf", "Written"]

_log = structlog.get_logger(__name__)

AT_ONCE: Final = 8
"""Slates that are packed at once, about 0.2 ms, before the thread lets requests go first."""

PAUSE_S: Final = 0.0001
"""Seconds for which it then steps back."""

TIDY_S: Final = 30.0
"""Seconds between two looks at what is too old, or too much over all tenants."""

SPAN_US: Final = 3_600_000_000
"""Microseconds that one segment's records span at most; a segment leaves as a whole."""

_ATTEMPTS: Final = 3
_DRAWS: Final = 2**64


class SlateNotes(Protocol):
    """What a reader of feeds tells of every slate."""

    def note(self, query: Query, slate: Slate, table: ActivityTable) -> None:
        """Keep a slate that is about to be served; never raises, never waits."""
        ...


class NoSlateLog:
    """Keeps nothing."""

    def note(self, query: Query, slate: Slate, table: ActivityTable) -> None:
        """Keep nothing."""


class _Noted(NamedTuple):
    query: Query
    slate: Slate
    key: bytes
    candidate_ids: Sequence[str] | None


class SlateLog:
    """The slate log of one process, `slot` its number among those that share the directory.

    `note` belongs to one thread; what it leaves is written by another, from `start` to `stop`.
    """

    def __init__(
        self,
        directory: Path,
        config: SlateLogConfig,
        rules: Callable[[TenantId], SlateRules],
        metrics: Metrics,
        clock_us: Callable[[], int],
        *,
        slot: int = 0,
        disk: SegmentDisk | None = None,
        shares: Shares = lambda _tenant, _kind: 1.0,
    ) -> None:
        self.directory = directory
        self.config = config
        self._rules = rules
        self._metrics = metrics
        self._clock_us = clock_us
        self._slot = slot
        self._disk = disk or SegmentDisk()
        self._shares = shares
        self._queue: deque[_Noted | TenantId] = deque()
        self._shelves: dict[TenantId, TenantShelf] = {}
        self._wake = threading.Event()
        self._waiting: deque[threading.Event] = deque()
        self._stopping = False
        self._failing: set[str] = set()
        self._thread: threading.Thread | None = None

    def note(self, query: Query, slate: Slate, table: ActivityTable | None = None) -> None:
        """Keep a slate, if the rate takes it; about 3 us, more with all candidates.

        The rate is the tenant's, by the service's rules, or its ranking config's if that is lower.
        Rows of the table are looked up now: they may hold something else once the reply is sent.
        Without a table, what was shown is kept, and not all candidates.
        """
        scoring, rules = slate.scoring, self._rules(query.tenant)
        key = key_of(slate.request_id)
        rate = min(rules.rate, self._shares(query.tenant, query.kind))
        if scoring is None or int.from_bytes(key[:8]) >= rate * _DRAWS:
            return
        if len(self._queue) >= self.config.queue_max:
            self._metrics.slates_dropped.labels("queue").inc()
            return
        ids = table.ids(scoring.kept.rows) if rules.candidates and table is not None else None
        self._queue.append(_Noted(query, slate, key, ids))
        if len(self._queue) >= self.config.flush_records:
            self._wake.set()

    def forget(self, tenant: TenantId) -> None:
        """Remove what is kept of the tenant, soon, and with it all that was noted before."""
        self._queue.append(tenant)
        self._wake.set()

    def start(self) -> None:
        """Begin to write."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="slate-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end; twice is harmless."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all that was noted before is written, or dropped; False if it took longer."""
        done = threading.Event()
        self._waiting.append(done)
        self._wake.set()
        return done.wait(timeout_s)

    def _run(self) -> None:
        tidied_s = -TIDY_S
        while True:
            self._wake.wait(self.config.flush_ms / 1e3)
            self._wake.clear()
            stopping = self._stopping
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
            self._write_queue()
            if time.monotonic() - tidied_s >= TIDY_S:
                self._attempt("all", self._tidy)
                tidied_s = time.monotonic()
            for done in waiting:
                done.set()
            if stopping:
                return

    def _write_queue(self) -> None:
        batches: dict[TenantId, list[tuple[bytes, bytes]]] = {}
        for number in range(1, len(self._queue) + 1):
            noted = self._queue.popleft()
            if not isinstance(noted, _Noted):
                batches.pop(noted, None)
                self._remove(noted)
            elif (content := self._packed(noted)) is not None:
                batches.setdefault(noted.query.tenant, []).append((noted.key, content))
            if number % AT_ONCE == 0:
                time.sleep(PAUSE_S)
        for tenant, batch in batches.items():
            self._write(tenant, batch)

    def _packed(self, noted: _Noted) -> bytes | None:
        try:
            return encode(log(noted.query, noted.slate, noted.candidate_ids))
        except Exception as error:  # noqa: BLE001 - one slate that cannot be packed, not the log
            self._metrics.slates_dropped.labels("failed").inc()
            _log.error("slate_not_packed", tenant=noted.query.tenant, error=type(error).__name__)
            return None

    def _write(self, tenant: TenantId, batch: list[tuple[bytes, bytes]]) -> None:
        most = self.config.segment_bytes - HEADER_BYTES - RECORD_BYTES
        fitting = [entry for entry in batch if len(entry[1]) <= most]
        self._metrics.slates_dropped.labels("size").inc(len(batch) - len(fitting))
        shelf = self._shelves.setdefault(tenant, self._shelf(tenant))
        before = shelf.written
        rules, now_us = self._rules(tenant), self._clock_us()
        self._attempt(tenant, lambda: shelf.append(fitting, rules, now_us))
        records, size = shelf.written.records - before.records, shelf.written.bytes - before.bytes
        self._metrics.slates_logged.inc(records)
        self._metrics.slate_log_bytes.inc(size)
        self._metrics.slates_dropped.labels("disk").inc(len(fitting) - records)

    def _remove(self, tenant: TenantId) -> None:
        """Other processes that write for the tenant hear of its end too, and do the same."""
        self._shelves.pop(tenant, None)
        self._attempt(tenant, lambda: remove_all(self.directory / tenant))
        self._failing.discard(tenant)

    def _shelf(self, tenant: TenantId) -> "TenantShelf":
        home = self.directory / tenant
        return TenantShelf(home, self._slot, self.config.segment_bytes, self._disk)

    def _tidy(self) -> None:
        """Remove what is too old, or too much over all tenants."""
        tenants, now_us = tenants_of(self.directory), self._clock_us()
        for tenant in tenants:
            before_us = now_us - round(self._rules(tenant).age_s * 1e6)
            remove_old(self.directory / tenant, before_us, self._disk)
        remove_over(self.directory, tenants, self.config.total_bytes_max, self._disk)

    def _attempt(self, tenant: str, work: Callable[[], None]) -> None:
        """Do it, and log where it begins to fail for the tenant, and that it no longer does."""
        try:
            work()
        except OSError as error:
            if tenant not in self._failing:
                self._failing.add(tenant)
                _log.error(
                    "slate_log_failed",
                    tenant=tenant,
                    path=str(error.filename or self.directory),
                    error=error.strerror or str(error),
                )
        else:
            if tenant in self._failing:
                self._failing.remove(tenant)
                _log.info("slate_log_recovered", tenant=tenant)


class Written(NamedTuple):
    """What one process has written for a tenant."""

    records: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Growing:
    """The segment that is appended to."""

    path: Path
    header: SegmentHeader
    start_us: int
    bytes: int
    records: int = 0


@dataclass(slots=True)
class TenantShelf:
    """What one process appends to one tenant's log."""

    home: Path
    slot: int
    segment_bytes: int
    disk: SegmentDisk
    salts: Callable[[], bytes] = lambda: os.urandom(8)
    written: Written = field(default_factory=Written, init=False)
    _growing: _Growing | None = field(default=None, init=False)

    def append(
        self, entries: Sequence[tuple[bytes, bytes]], rules: SlateRules, now_us: int
    ) -> None:
        """Append records, (key, content) each; none may be longer than a segment.

        Raises OSError once a write fails; `written` says how far it came.
        """
        left, attempts = list(entries), _ATTEMPTS
        while left:
            growing = self._room(len(left[0][1]), rules, now_us)
            frames = self._frames(growing, left)
            data = b"".join(frames)
            try:
                self.disk.append(growing.path, data)
            except FileNotFoundError:  # the oldest of a full log: another process removed it
                self._growing, attempts = None, attempts - 1
                if not attempts:
                    raise
                continue
            growing.bytes += len(data)
            growing.records += len(frames)
            done = self.written
            self.written = Written(done.records + len(frames), done.bytes + len(data))
            del left[: len(frames)]

    def _room(self, content_bytes: int, rules: SlateRules, now_us: int) -> _Growing:
        """The segment under way, or a new one where it is full or spans too long."""
        growing = self._growing
        if (
            growing is not None
            and growing.bytes + RECORD_BYTES + content_bytes <= self.segment_bytes
            and 0 <= now_us - growing.start_us < SPAN_US
        ):
            return growing
        self._growing = None
        with locked(self.home):
            make_room(self.home, self.slot, self.segment_bytes, rules.bytes_max, self.disk)
            self._growing = growing = self._create(now_us)
        return growing

    def _create(self, start_us: int) -> _Growing:
        header, data = SegmentHeader.create(self.salts())
        while True:
            path = segment_path(self.home, start_us, self.slot)
            try:
                self.disk.create(path, data)
            except FileExistsError:
                start_us += 1
            else:
                return _Growing(path, header, start_us, len(data))

    def _frames(self, growing: _Growing, entries: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """As many records as the segment has room for."""
        frames: list[bytes] = []
        room = self.segment_bytes - growing.bytes
        for number, (key, content) in enumerate(entries, start=growing.records):
            room -= RECORD_BYTES + len(content)
            if room < 0:
                break
            frames.append(frame(growing.header, number, key, content))
        return frames
