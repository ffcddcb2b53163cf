"""Training sets on disk: Parquet files by time, a request whole in one file, and a manifest.

    out/tenant=acme/training-set.json
    out/tenant=acme/part-00000.parquet

A set is made beside its place and put there in one step, so that there is a whole one or none: what
a killed or full disk leaves is a directory that is not read and that the next build removes.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from feeds.events import ENGAGEMENT_KINDS
from ranking.features import FeatureSpec
from training.errors import TrainingError, TrainingSetDamaged

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = [
    "HEAD",
    "LABELS",
    "SetFile",
    "SetManifest",
    "StoredSet",
    "new_set",
    "read_training_set",
    "write_part",
]

MANIFEST: Final = "training-set.json"
SCHEMA_VERSION: Final = 1
"""Rises when a column changes its name, type or meaning."""
MANIFEST_BYTES_MAX: Final = 16_777_216
"""The largest manifest that is read, in bytes."""

LABELS: Final = tuple(f"label_{kind}" for kind in ENGAGEMENT_KINDS)
"""The label columns: 1 engaged, 0 not, missing where the window was not closed."""

HEAD: Final = (
    "request_id",
    "user_id",
    "activity_id",
    "time",
    "position",
    "propensity",
    *LABELS,
    "features_from",
)
"""The columns before the features; docs/training-sets.md says what they mean."""

_UNFINISHED: Final = ".building-"


class SetFile(msgspec.Struct, frozen=True):
    """A file of a set; `path` is relative to the manifest, times are of its requests."""

    path: str
    rows: int
    requests: int
    first_us: int
    last_us: int
    sha256: str


class SetManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a set consists of, and what it was made from.

    `fingerprint` changes with any of the rows; `events_fingerprint` and `slates_fingerprint` are of
    the data ("" without slates), `spec` is the feature spec as JSON, `code_version` what computed
    the features. `counts` says how many events were used and left out, by reason.
    """

    schema_version: int = SCHEMA_VERSION
    tenant: str
    spec: str
    labels: dict[str, Any]  # Any: numbers and names of a `LabelConfig`
    rows: int
    requests: int
    users: int
    fingerprint: str
    events_fingerprint: str
    slates_fingerprint: str
    code_version: str
    counts: dict[str, int]
    files: tuple[SetFile, ...]


@dataclass(frozen=True, slots=True)
class StoredSet:
    """A training set on disk: one row a candidate, requests in time order and each in one part."""

    directory: Path
    manifest: SetManifest

    @property
    def spec(self) -> FeatureSpec:
        """The features, in column order, and what they were computed with."""
        return FeatureSpec.from_json(self.manifest.spec)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that change with any row."""
        return self.manifest.fingerprint

    def __len__(self) -> int:
        """How many rows there are."""
        return self.manifest.rows

    def to_frame(
        self,
        since_us: int | None = None,
        until_us: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> "pd.DataFrame":
        """The rows of requests from `since_us` on and before `until_us`; one row a candidate.

        Memory: 200 bytes a row with all columns; `parts` holds one file at a time. Raises
        `TrainingSetDamaged`.
        """
        import pyarrow as pa  # noqa: PLC0415 - half a second that only training pays

        tables = list(self.tables(since_us, until_us, columns))
        if not tables:
            return self._nothing(columns)
        frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
        return frame

    def parts(self, columns: Sequence[str] | None = None) -> Iterator["pd.DataFrame"]:
        """The rows a file at a time; no request lies in two."""
        for table in self.tables(columns=columns):
            yield table.to_pandas()

    def tables(
        self,
        since_us: int | None = None,
        until_us: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> Iterator["pa.Table"]:
        """As Arrow tables, a file each; raises `TrainingSetDamaged` or, of a column, `KeyError`."""
        names = [*HEAD, *self.spec.names]
        if columns is not None and (unknown := [name for name in columns if name not in names]):
            raise TrainingError(
                f"the training set has no column {unknown[0]!r}: it has {', '.join(names)}"
            )
        for file in self.manifest.files:
            if since_us is not None and file.last_us < since_us:
                continue
            if until_us is not None and file.first_us >= until_us:
                continue
            yield _between(self._read(file, columns), since_us, until_us)

    def check(self) -> None:
        """Read every file's bytes; raises `TrainingSetDamaged` for the first that is not whole."""
        for file in self.manifest.files:
            self._check(file)

    def _read(self, file: SetFile, columns: Sequence[str] | None) -> "pa.Table":
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415

        path = self._check(file)
        wanted = None if columns is None else list(dict.fromkeys([*columns, "time"]))
        try:
            table = pq.ParquetFile(path).read(wanted)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, str(error)) from error
        if table.num_rows != file.rows:
            raise _damaged(path, f"it has {table.num_rows} rows, not {file.rows}")
        return table if columns is None else table.select([*columns, *_missing_time(columns)])

    def _check(self, file: SetFile) -> Path:
        path = (self.directory / file.path).resolve()
        if not path.is_relative_to(self.directory.resolve()):
            raise _damaged(self.directory / MANIFEST, f"{file.path!r} lies outside the set")
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise _damaged(path, error.strerror or str(error)) from error
        if digest != file.sha256:
            raise _damaged(path, "its checksum is not that of the manifest; it may be cut short")
        return path

    def _nothing(self, columns: Sequence[str] | None) -> "pd.DataFrame":
        schema = schema_of(self.spec.names)
        frame: pd.DataFrame = schema.empty_table().to_pandas()
        return frame if columns is None else frame[list(columns)]


def read_training_set(path: Path | str, tenant: str) -> StoredSet:
    """The training set of a tenant that `build_training_set` left below `path`.

    Only the manifest is read. Raises `TrainingSetDamaged` saying what to do.
    """
    directory = Path(path) / f"tenant={tenant}"
    file = directory / MANIFEST
    try:
        if file.stat().st_size > MANIFEST_BYTES_MAX:
            raise _damaged(file, f"it is larger than {MANIFEST_BYTES_MAX} bytes")
        manifest = msgspec.json.decode(file.read_bytes(), type=SetManifest)
    except FileNotFoundError as error:
        raise TrainingSetDamaged(
            f"{file}: there is no such file; build the set first: `headwater dataset build "
            f"--tenant {tenant} --out {path}`"
        ) from error
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(file, str(error)) from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise TrainingSetDamaged(
            f"{file}: a set of schema version {manifest.schema_version}; this release reads "
            f"version {SCHEMA_VERSION}: build it again"
        )
    return StoredSet(directory, manifest)


@contextlib.contextmanager
def new_set(out: Path, tenant: str) -> Iterator["NewSet"]:
    """A set in the making; `commit` puts it into the place of the one that was there.

    Without that, or where anything fails, nothing is left of it. Raises `TrainingError` where the
    disk fails.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for left in out.glob(f"{_UNFINISHED}{tenant}-*"):
            shutil.rmtree(left, ignore_errors=True)
        directory = Path(tempfile.mkdtemp(prefix=f"{_UNFINISHED}{tenant}-", dir=out))
        try:
            yield NewSet(directory, out / f"tenant={tenant}")
        finally:
            for left in out.glob(f"{directory.name}*"):
                shutil.rmtree(left, ignore_errors=True)
    except OSError as error:
        raise TrainingError(
            f"the training set in {out} was not written: {error.strerror or error}; make room or "
            "put it right and build again, the set that was there before is untouched"
        ) from error


@dataclass(frozen=True, slots=True)
class NewSet:
    """Where the parts of a set go until it is whole."""

    directory: Path
    place: Path

    def part(self, number: int) -> Path:
        """The file of a part."""
        return self.directory / f"part-{number:05}.parquet"

    def commit(self, manifest: SetManifest) -> StoredSet:
        """Make the set of the parts that the manifest names, durable, in one step."""
        file = self.directory / MANIFEST
        with file.open("wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(manifest)))
            stream.flush()
            os.fsync(stream.fileno())
        before = self.directory.with_name(f"{self.directory.name}-before")
        if self.place.exists():
            self.place.replace(before)
        self.directory.replace(self.place)
        shutil.rmtree(before, ignore_errors=True)
        _sync(self.place.parent)
        return StoredSet(self.place, manifest)


def write_part(
    path: Path, table: "pa.Table", first_us: int, last_us: int, requests: int
) -> SetFile:
    """Write the rows of some requests as one durable file."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    pq.write_table(table, path, compression="zstd", compression_level=1)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return SetFile(path.name, table.num_rows, requests, first_us, last_us, digest)


def schema_of(features: Sequence[str]) -> "pa.Schema":
    """The columns of a set with these features."""
    import pyarrow as pa  # noqa: PLC0415

    names = pa.dictionary(pa.int32(), pa.string())
    types: Mapping[str, Any] = {  # Any: pyarrow has no types
        "request_id": names,
        "user_id": names,
        "activity_id": names,
        "time": pa.timestamp("us", tz="UTC"),
        "position": pa.int32(),
        "propensity": pa.float64(),
        "features_from": names,
    }
    fields = [(name, types.get(name, pa.int8())) for name in HEAD]
    return pa.schema([*fields, *((name, pa.float32()) for name in features)])


def _between(table: "pa.Table", since_us: int | None, until_us: int | None) -> "pa.Table":
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    times = pc.cast(table.column("time"), pa.int64())
    if since_us is not None:
        table = table.filter(pc.greater_equal(times, since_us))
        times = pc.cast(table.column("time"), pa.int64())
    if until_us is not None:
        table = table.filter(pc.less(times, until_us))
    return table


def _missing_time(columns: Sequence[str]) -> list[str]:
    return [] if "time" in columns else ["time"]


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damaged(path: Path, problem: str) -> TrainingSetDamaged:
    return TrainingSetDamaged(
        f"{path}: {problem}; build the set again with `headwater dataset build`"
    )
