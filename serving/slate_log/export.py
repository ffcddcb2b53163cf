"""The slate log as Parquet files by tenant and day, a row for each place; docs/slates.md has them.

    out/tenant=acme/_slates.json
    out/tenant=acme/day=2018-03-12/slates-<segment>-<first record>-<last record>.parquet

As with the events' export, which may lie beside it, the manifest alone says what is exported: files
come first, then the manifest is replaced. An export that is killed anywhere goes on where the
manifest ends; files that it does not name are removed.
"""

import contextlib
import datetime as dt
import fcntl
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from feeds.counters import DAY_US
from feeds.errors import DataDirectoryLocked, FormatUnsupported, NotFound, StorageError
from feeds.export import ExportDisk, ExportedFile
from feeds.model import TenantId
from serving.slate_log.record import LoggedSlate, RecordDamaged, decode
from serving.slate_log.segments import SegmentReader
from serving.slate_log.shelf import Segment, segments_of

__all__ = ["SCHEMA", "SCHEMA_VERSION", "SlatesManifest", "SlatesReport", "export_slates"]

SCHEMA_VERSION: Final = 1
"""Rises when a column changes its name, type or meaning."""

SCHEMA: Final = (
    ("slate_id", "string"),
    ("time", "timestamp[us, UTC]"),
    ("user", "string"),
    ("kind", "string"),
    ("scorer", "string"),
    ("model_version", "string"),
    ("config_version", "int32"),
    ("spec_fingerprint", "string"),
    ("degraded", "string"),
    ("seed", "uint64"),
    ("activity_id", "string"),
    ("position", "int32"),
    ("score", "float32"),
    ("source", "string"),
    ("reason", "string"),
    ("propensity", "float64"),
    ("explored", "bool"),
    ("placed", "string"),
    ("multiplier_names", "string"),
    ("multipliers", "list<float64>"),
    ("feature_names", "string"),
    ("features", "list<float32>"),
)
"""Name and type of every column; `docs/slates.md` says what they mean."""

MANIFEST: Final = "_slates.json"
"""Its name begins so that readers of Parquet directories pass it over."""

NOT_SHOWN: Final = -1
"""Position of a candidate that was not shown."""

_UNFINISHED: Final = "_slates.json.new"
_LOCK: Final = "_slates.lock"
_EPOCH: Final = dt.date(1970, 1, 1)


class ExportedSegment(msgspec.Struct, frozen=True):
    """How far a segment that is still in the log is exported: records before `next_number`."""

    name: str
    next_number: int
    bytes: int


class SlatesManifest(msgspec.Struct, frozen=True):
    """What an export consists of."""

    schema_version: int
    tenant: str
    slates: int = 0
    segments: tuple[ExportedSegment, ...] = ()
    files: tuple[ExportedFile, ...] = ()


@dataclass(frozen=True, slots=True)
class SlatesReport:
    """What one export added; `damaged` are records and segments of the log that cannot be read."""

    tenant: str
    directory: str
    slates: int
    files: int
    slates_total: int
    damaged: int


class _Numbered(NamedTuple):
    number: int
    slate: LoggedSlate


def export_slates(
    directory: Path,
    tenant: TenantId,
    out: Path,
    *,
    progress: Callable[[int, int], None] = lambda *_: None,
    disk: ExportDisk | None = None,
) -> SlatesReport:
    """Export what a tenant's slate log has that `out` has not; a running service goes on.

    `progress` gets the bytes of the log that were read, and how many there are. Raises `NotFound`
    where there is no log of the tenant, `DataDirectoryLocked` where another export writes to `out`,
    `FormatUnsupported` where `out` holds something else, or `StorageError` where the disk fails; a
    later export goes on.
    """
    if not (directory / tenant).is_dir():
        raise NotFound(
            f"{directory} has no slates of tenant {tenant!r}: name the data directory of the "
            "service, or its slate_log_dir"
        )
    try:
        writer = _Writer(out / f"tenant={tenant}", disk or ExportDisk())
        with writer.locked():
            return _export(segments_of(directory / tenant), tenant, writer, progress)
    except OSError as error:
        raise StorageError(
            f"the export to {out} stopped: {error.strerror or error} ({error.filename}); put it "
            "right and export again, what is in the manifest stays"
        ) from error


def _export(
    found: Sequence[Segment], tenant: str, writer: "_Writer", progress: Callable[[int, int], None]
) -> SlatesReport:
    before = manifest = writer.begin(tenant, {segment.path.name for segment in found})
    known = {segment.name: segment for segment in before.segments}
    total, done, damaged = sum(segment.bytes for segment in found), 0, 0
    for segment in found:
        at = known.get(segment.path.name, ExportedSegment(segment.path.name, 0, 0))
        if segment.bytes != at.bytes:
            slates, lost = _read(segment.path, at.next_number)
            damaged += lost
            manifest = writer.add(manifest, at, slates, segment.bytes)
        done += segment.bytes
        progress(done, total)
    return SlatesReport(
        tenant,
        str(writer.root),
        manifest.slates - before.slates,
        len(manifest.files) - len(before.files),
        manifest.slates,
        damaged,
    )


def _read(path: Path, first_number: int) -> tuple[list[_Numbered], int]:
    """The sound records from a number on, and how many are damaged."""
    try:
        reader = SegmentReader(path)
    except FileNotFoundError:  # the oldest left meanwhile
        return [], 0
    slates, damaged = [], int(reader.headless)
    for record in reader:
        if record.number >= first_number:
            try:
                slates.append(_Numbered(record.number, decode(record.content)))
            except RecordDamaged:
                damaged += 1
    return slates, damaged + reader.lost


class _Writer:
    """One tenant's directory of an export."""

    def __init__(self, root: Path, disk: ExportDisk) -> None:
        self.root = root
        self._disk = disk
        disk.make_directory(root)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Only one export at a time removes and adds files."""
        with (self.root / _LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataDirectoryLocked(
                    f"another export writes to {self.root}: wait until it has ended"
                ) from None
            yield

    def begin(self, tenant: str, present: set[str]) -> SlatesManifest:
        """The manifest to go on from, of the segments that are still there.

        Files that it does not name are removed.
        """
        manifest = self._manifest(tenant)
        named = {self.root / file.path for file in manifest.files}
        found = {*self.root.glob("day=*/slates-*.parquet"), *self.root.glob(_UNFINISHED)}
        if missing := named - found:
            raise StorageError(
                f"{min(missing)} is gone, though {MANIFEST} names it: delete {MANIFEST} and the "
                "slates-*.parquet beside it, and export again"
            )
        for path in sorted(found - named):
            self._disk.remove(path)
        kept = tuple(each for each in manifest.segments if each.name in present)
        return msgspec.structs.replace(manifest, segments=kept)

    def add(
        self,
        manifest: SlatesManifest,
        at: ExportedSegment,
        slates: Sequence[_Numbered],
        segment_bytes: int,
    ) -> SlatesManifest:
        """Write a segment's slates, a file for each day, then the manifest that names them."""
        ordered = sorted(slates, key=_day)
        files = [self._write_day(at, day, list(of)) for day, of in groupby(ordered, key=_day)]
        next_number = slates[-1].number + 1 if slates else at.next_number
        others = (each for each in manifest.segments if each.name != at.name)
        grown = msgspec.structs.replace(
            manifest,
            slates=manifest.slates + len(slates),
            segments=(*others, ExportedSegment(at.name, next_number, segment_bytes)),
            files=(*manifest.files, *files),
        )
        unfinished = self.root / _UNFINISHED
        self._disk.write(unfinished, msgspec.json.format(msgspec.json.encode(grown)))
        self._disk.replace(unfinished, self.root / MANIFEST)
        return grown

    def _write_day(
        self, at: ExportedSegment, day: dt.date, slates: Sequence[_Numbered]
    ) -> ExportedFile:
        directory = self.root / f"day={day.isoformat()}"
        if not directory.exists():
            self._disk.make_directory(directory)
        stem, first, last = Path(at.name).stem, slates[0].number, slates[-1].number
        path = directory / f"slates-{stem}-{first}-{last}.parquet"
        rows, data = _parquet([each.slate for each in slates])
        self._disk.write(path, data)
        self._disk.sync_directory(directory)
        name = str(path.relative_to(self.root))
        return ExportedFile(name, rows, hashlib.sha256(data).hexdigest())

    def _manifest(self, tenant: str) -> SlatesManifest:
        path = self.root / MANIFEST
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=SlatesManifest)
        except FileNotFoundError:
            return SlatesManifest(SCHEMA_VERSION, tenant)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(
                f"{path} cannot be read ({error}): delete it and the slates-*.parquet beside it, "
                "and export again"
            ) from error
        if (manifest.schema_version, manifest.tenant) != (SCHEMA_VERSION, tenant):
            raise FormatUnsupported(
                f"{path} is of tenant {manifest.tenant} and schema version "
                f"{manifest.schema_version}, this release writes {SCHEMA_VERSION}: export to "
                "another directory"
            )
        return manifest


def _day(numbered: _Numbered) -> dt.date:
    """The UTC day on which the slate was made."""
    return _EPOCH + dt.timedelta(days=numbered.slate.time_us // DAY_US)


def _parquet(slates: Sequence[LoggedSlate]) -> tuple[int, bytes]:
    """The slates' rows as the bytes of a Parquet file, and how many there are."""
    import pyarrow as pa  # noqa: PLC0415 - only an export needs it
    import pyarrow.parquet as pq  # noqa: PLC0415

    types = {
        "string": pa.string(),
        "int32": pa.int32(),
        "uint64": pa.uint64(),
        "float32": pa.float32(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "timestamp[us, UTC]": pa.timestamp("us", tz="UTC"),
        "list<float32>": pa.list_(pa.float32()),
        "list<float64>": pa.list_(pa.float64()),
    }
    rows = [_Rows.of(slate) for slate in slates]
    columns: dict[str, Any] = {}  # Any: pyarrow is untyped here
    for name, kind in SCHEMA:
        lists = [each.lists[name] for each in rows if name in each.lists]
        if lists:
            offsets = np.concatenate(([0], np.cumsum(np.concatenate([n for n, _ in lists]))))
            values = pa.array(np.concatenate([column for _, column in lists]))
            columns[name] = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
        else:
            cells = [cell for each in rows for cell in each.column(name)]
            columns[name] = pa.array(cells, type=types[kind])
    schema = pa.schema([(name, types[kind]) for name, kind in SCHEMA])
    table = pa.table(columns, schema=schema)
    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return table.num_rows, buffer.getvalue()


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of one slate: its places in order, then the candidates that were not shown."""

    slate: LoggedSlate
    own: dict[str, list[Any]]  # Any: a column's own type
    lists: dict[str, tuple[np.ndarray, np.ndarray]]
    """Of each list column, how long each row's is, and the values of all one behind the other."""

    def __len__(self) -> int:
        return len(self.own["activity_id"])

    def column(self, name: str) -> Iterable[Any]:  # Any: as above
        """The cells of a column: the slate's own value in each row, or each row's."""
        if name in self.own:
            return self.own[name]
        match name:
            case "time":
                value: Any = self.slate.time_us
            case "feature_names":
                value = ",".join(self.slate.feature_names)
            case "multiplier_names":
                value = ",".join(self.slate.multipliers)
            case _:
                value = getattr(self.slate, name)
        return [value] * len(self)

    @classmethod
    def of(cls, slate: LoggedSlate) -> "_Rows":
        """The slate's rows."""
        places = slate.places
        own: dict[str, list[Any]] = {
            "activity_id": list(places.activity_ids()),
            "position": list(range(len(places))),
            "score": places.score_values().tolist(),
            "source": slate.source_names(places),
            "reason": slate.reason_texts(),
            "propensity": slate.numbers(slate.propensities).tolist(),
            "explored": slate.explored_places().tolist(),
            "placed": [slate.placed.get(place) for place in range(len(places))],
        }
        values = slate.features_of(places).values
        if (rest := slate.candidates) is not None:
            shown = set(own["activity_id"])
            ids, sources = rest.activity_ids(), slate.source_names(rest)
            left = [place for place, each in enumerate(ids) if each not in shown]
            own["activity_id"] += [ids[place] for place in left]
            own["position"] += [NOT_SHOWN] * len(left)
            own["score"] += rest.score_values()[left].tolist()
            own["source"] += [sources[place] for place in left]
            for name in ("reason", "propensity", "explored", "placed"):
                own[name] += [None] * len(left)
            values = np.concatenate((values, slate.features_of(rest).values[left]))
        multipliers = [slate.numbers(packed) for packed in slate.multipliers.values()]
        by_place = np.zeros((len(places), len(multipliers)))
        for number, column in enumerate(multipliers):
            by_place[:, number] = column
        of_each = np.zeros(len(values), np.int64)
        of_each[: len(places)] = len(multipliers)
        widths = np.full(len(values), values.shape[1])
        lists: dict[str, tuple[np.ndarray, np.ndarray]] = {
            "features": (widths, values.ravel()),
            "multipliers": (of_each, by_place.ravel()),
        }
        return cls(slate, own, lists)
