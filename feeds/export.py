"""The event log as Parquet files by tenant and day, for training and for anyone's own analysis.

    out/tenant=acme/manifest.json
    out/tenant=acme/day=2018-03-12/events-<first index>-<last index>.parquet

The manifest alone says what is exported: files come first, then the manifest is replaced. So an
export that is killed anywhere has taken place up to some log index, and the next one goes on behind
it; files that the manifest does not name are the remains of a killed one, and are removed.
"""

import contextlib
import datetime as dt
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import msgspec

from feeds.counters import DAY_US
from feeds.durable import make_directory, sync_directory
from feeds.engine import FeedEngine
from feeds.errors import DataDirectoryLocked, FormatUnsupported, StorageError
from feeds.events import EVENT_SCHEMA, EVENT_SCHEMA_VERSION, Event
from feeds.model import TenantId
from feeds.reader import StoreReader

__all__ = ["EXPORT_EVENTS_MAX", "ExportDisk", "ExportReport", "ExportedFile", "Manifest", "export"]

MANIFEST: Final = "manifest.json"

EXPORT_EVENTS_MAX: Final = 50_000
"""Events between two replacements of the manifest: what is held in memory, about 1 KB each."""

_UNFINISHED = "manifest.json.new"
_LOCK = "LOCK"
_EPOCH = dt.date(1970, 1, 1)

Indexed = tuple[int, int, Event]


class ExportedFile(msgspec.Struct, frozen=True):
    """A file of the export; `path` is relative to the manifest's directory."""

    path: str
    rows: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What an export consists of: every event of the tenant up to log index `last_index`.

    `tenant_created_us` tells the tenant from one of the same name in another data directory. For
    whoever trains from the export there are `training_minutes`, the tenant's own quota, and the
    ranking config that was active: its version, and the document as JSON; 0 and None: the default.
    """

    schema_version: int
    tenant: str
    tenant_created_us: int
    last_index: int
    files: tuple[ExportedFile, ...] = ()
    training_minutes: int | None = None
    ranking_config_version: int = 0
    ranking_config: str | None = None


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What one export added; `last_index` and `events_total` are of all that is exported now."""

    tenant: str
    directory: str
    events: int
    files: int
    events_total: int
    last_index: int
    seconds: float


class ExportDisk:
    """The few things that an export does to a disk; each is durable when it returns."""

    def make_directory(self, path: Path) -> None:
        """Make a directory and its parents."""
        make_directory(path)

    def write(self, path: Path, data: bytes) -> None:
        """Write a whole file."""
        with path.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        sync_directory(path)

    def replace(self, source: Path, target: Path) -> None:
        """Put a file in another's place."""
        source.replace(target)
        self.sync_directory(target.parent)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()


def export(
    source: StoreReader | Path,
    tenant: TenantId,
    out: Path,
    *,
    progress: Callable[[int], None] = lambda _: None,
    disk: ExportDisk | None = None,
    events_max: int = EXPORT_EVENTS_MAX,
) -> ExportReport:
    """Export what a tenant's event log has that `out` has not; `progress` gets events so far.

    `source` is an engine, or a data directory that no other process has open. Raises `NotFound`,
    `DataDirectoryLocked` where another export writes to `out`, `FormatUnsupported` where `out`
    holds something else, or `StorageError` where the disk fails; a later export goes on.
    """
    if isinstance(source, Path):
        with FeedEngine.open(source) as engine:
            return export(engine, tenant, out, progress=progress, disk=disk, events_max=events_max)
    record = source.tenant(tenant)
    started = time.monotonic()
    try:
        writer = _Writer(out / f"tenant={tenant}", disk or ExportDisk())
        with writer.locked():
            before = writer.begin(tenant, record.created_us)
            version, document = source.active_ranking_config(tenant)
            told = msgspec.structs.replace(
                before,
                training_minutes=record.quotas.training_minutes,
                ranking_config_version=version,
                ranking_config=None if document is None else document.decode(),
            )
            manifest = before if told == before else writer.replace(told)
            for chunk in _chunks(source, tenant, before.last_index, events_max):
                manifest = writer.add(manifest, chunk)
                progress(_rows(manifest) - _rows(before))
    except OSError as error:
        raise StorageError(
            f"the export to {out} stopped: {error.strerror or error} ({error.filename}); put it "
            "right and export again, what is in the manifest stays"
        ) from error
    return ExportReport(
        tenant=tenant,
        directory=str(out / f"tenant={tenant}"),
        events=_rows(manifest) - _rows(before),
        files=len(manifest.files) - len(before.files),
        events_total=_rows(manifest),
        last_index=manifest.last_index,
        seconds=time.monotonic() - started,
    )


def _rows(manifest: Manifest) -> int:
    return sum(file.rows for file in manifest.files)


def _chunks(
    source: StoreReader, tenant: TenantId, after_index: int, events_max: int
) -> Iterator[list[Indexed]]:
    while chunk := source.events(tenant, after_index, events_max):
        yield chunk
        after_index = chunk[-1][0]


class _Writer:
    """One tenant's directory of an export."""

    def __init__(self, root: Path, disk: ExportDisk) -> None:
        self._root = root
        self._disk = disk
        disk.make_directory(root)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Only one export at a time removes and adds files."""
        with (self._root / _LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataDirectoryLocked(
                    f"another export writes to {self._root}: wait until it has ended"
                ) from None
            yield

    def begin(self, tenant: str, created_us: int) -> Manifest:
        """The manifest to go on from, with every file gone that it does not name."""
        manifest = self._read(tenant, created_us)
        named = {self._root / file.path for file in manifest.files}
        unfinished = self._root / _UNFINISHED
        found = {*self._root.glob("day=*/events-*.parquet"), *self._root.glob(unfinished.name)}
        if missing := named - found:
            raise StorageError(
                f"{min(missing)} is gone, though the manifest names it: delete {self._root} and "
                "export again"
            )
        for path in sorted(found - named):
            self._disk.remove(path)
        return manifest

    def add(self, manifest: Manifest, chunk: list[Indexed]) -> Manifest:
        """Write the events of a chunk, a file for each day, then the manifest that names them."""
        days = sorted(chunk, key=_day)
        files = [self._write_day(day, list(events)) for day, events in groupby(days, key=_day)]
        return self.replace(
            msgspec.structs.replace(
                manifest, last_index=chunk[-1][0], files=(*manifest.files, *files)
            )
        )

    def replace(self, manifest: Manifest) -> Manifest:
        """Put a manifest in the other's place."""
        unfinished = self._root / _UNFINISHED
        self._disk.write(unfinished, msgspec.json.format(msgspec.json.encode(manifest)))
        self._disk.replace(unfinished, self._root / MANIFEST)
        return manifest

    def _write_day(self, day: dt.date, events: list[Indexed]) -> ExportedFile:
        directory = self._root / f"day={day.isoformat()}"
        if not directory.exists():
            self._disk.make_directory(directory)
        path = directory / f"events-{events[0][0]}-{events[-1][0]}.parquet"
        data = _parquet(events)
        self._disk.write(path, data)
        self._disk.sync_directory(directory)
        name = str(path.relative_to(self._root))
        return ExportedFile(name, len(events), hashlib.sha256(data).hexdigest())

    def _read(self, tenant: str, created_us: int) -> Manifest:
        path = self._root / MANIFEST
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except FileNotFoundError:
            return Manifest(EVENT_SCHEMA_VERSION, tenant, created_us, 0)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(
                f"{path} cannot be read ({error}): delete {self._root} and export again"
            ) from error
        if manifest.schema_version != EVENT_SCHEMA_VERSION:
            raise FormatUnsupported(
                f"{path} has schema version {manifest.schema_version}, this release writes "
                f"{EVENT_SCHEMA_VERSION}: export to another directory"
            )
        if (manifest.tenant, manifest.tenant_created_us) != (tenant, created_us):
            raise FormatUnsupported(
                f"{self._root} holds the export of another data directory: "
                "delete it, or export to another directory"
            )
        return manifest


def _day(indexed: Indexed) -> dt.date:
    """The UTC day of an event's time."""
    return _EPOCH + dt.timedelta(days=indexed[2].time_us // DAY_US)


def _parquet(events: Iterable[Indexed]) -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - only an export needs it
    import pyarrow.parquet as pq  # noqa: PLC0415

    types = {
        "int64": pa.int64(),
        "int32": pa.int32(),
        "float32": pa.float32(),
        "string": pa.string(),
        "bool": pa.bool_(),
        "list<string>": pa.list_(pa.string()),
        "timestamp[us, UTC]": pa.timestamp("us", tz="UTC"),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in EVENT_SCHEMA])
    table = pa.Table.from_pylist([_row(*event) for event in events], schema=schema)
    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _row(index: int, ordinal: int, event: Event) -> dict[str, Any]:
    """One event as a row of `EVENT_SCHEMA`; Any: a column's own type."""
    row = msgspec.structs.asdict(event)
    row |= {"index": index, "ordinal": ordinal, "type": event.__struct_config__.tag}
    row["time"] = row.pop("time_us")
    if "since_us" in row:
        row["since"] = row.pop("since_us")
    return row
