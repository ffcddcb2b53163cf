"""Reading an exported event log: Parquet files by tenant and day, and the manifest that counts.

    out/tenant=acme/manifest.json
    out/tenant=acme/day=2018-03-12/events-<first index>-<last index>.parquet

Only files that the manifest names are read, and each must have the rows and the checksum that it
states. The order of events is (index, ordinal): that of the engine's log.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from feeds.events import (
    EVENT_SCHEMA,
    EVENT_SCHEMA_VERSION,
    Engagement,
    Event,
    FeedbackGiven,
    Followed,
    Impression,
    Posted,
    Removed,
    Unfollowed,
)
from training.errors import ExportDamaged

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = [
    "DELETED_USERS",
    "EventLog",
    "ExportedFile",
    "Manifest",
    "check_file",
    "damaged",
    "event_of",
    "load_events",
    "read_deleted_users",
    "read_event_log",
    "read_manifest",
    "row_of",
    "without_users",
]

DELETED_USERS = "deleted_users.txt"
"""Users whose traces are left out, one a line, beside the manifest; it need not exist."""

MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 67_108_864
"""The largest manifest that is read, in bytes."""

_BATCH_ROWS = 65_536
_TIMES = ("time", "since")


class ExportedFile(msgspec.Struct, frozen=True):
    """A file of the export; `path` is relative to the manifest's directory."""

    path: str
    rows: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What an export consists of, and what training must know of the tenant.

    That is its own quota of training, None without one, and its ranking config as JSON with its
    version; None and 0: the default.
    """

    schema_version: int
    last_index: int
    files: tuple[ExportedFile, ...]
    training_minutes: int | None = None
    ranking_config_version: int = 0
    ranking_config: str | None = None


@dataclass(frozen=True)
class EventLog:
    """A tenant's events in log order; `indexes[i]` is the log index of `events[i]`.

    Memory: about 500 bytes an event.
    """

    tenant: str
    indexes: list[int]
    events: list[Event]

    def __len__(self) -> int:
        """How many events there are."""
        return len(self.events)

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that change with any event or its place."""
        digest = hashlib.blake2b(digest_size=16)
        encoder = msgspec.msgpack.Encoder()
        for pair in zip(self.indexes, self.events, strict=True):
            digest.update(encoder.encode(pair))
        return digest.hexdigest()


def load_events(path: Path | str, tenant: str) -> "pd.DataFrame":
    """A tenant's exported events as a DataFrame: one row an event, in log order.

    Columns are those of `feeds.events.EVENT_SCHEMA`; what an event's type does not have is missing.
    `time` and `since` are in UTC. Raises `ExportDamaged` with what to do.
    """
    frame: pd.DataFrame = _read_table(Path(path), tenant).to_pandas()
    return frame


def read_event_log(path: Path | str, tenant: str) -> EventLog:
    """A tenant's exported events in log order, without those of deleted users.

    Raises `ExportDamaged` with what to do.
    """
    table = _read_table(Path(path), tenant)
    indexes: list[int] = table.column("index").to_pylist()
    return EventLog(tenant, indexes, list(_events(table)))


def read_deleted_users(path: Path | str, tenant: str) -> frozenset[str]:
    """The users of a tenant who are deleted: one a line in `deleted_users.txt` beside its events.

    What they did is left out wherever the export is read. None without such a file; raises
    `ExportDamaged` for one that cannot be read.
    """
    file = Path(path) / f"tenant={tenant}" / DELETED_USERS
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return frozenset()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportDamaged(
            f"{file} cannot be read ({error}): write one user a line, as UTF-8"
        ) from error
    return frozenset(line.strip() for line in lines if line.strip())


def _read_table(path: Path, tenant: str) -> "pa.Table":
    import pyarrow as pa  # noqa: PLC0415 - half a second that only training pays
    import pyarrow.parquet as pq  # noqa: PLC0415

    root, manifest = read_manifest(path, tenant)
    columns = [name for name, _ in EVENT_SCHEMA]
    tables = []
    for file in manifest.files:
        check_file(root, file)
        try:
            # One file a table: a directory name such as day=… must not become a column.
            table = pq.ParquetFile(root / file.path).read(columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise damaged(root / file.path, str(error)) from error
        if table.num_rows != file.rows or table.column_names != columns:
            raise damaged(root / file.path, "its rows or columns are not those of the manifest")
        tables.append(table)
    if not tables:
        raise ExportDamaged(f"{root}: no events were exported yet; record some and export again")
    table = pa.concat_tables(tables, promote_options="permissive").sort_by(
        [("index", "ascending"), ("ordinal", "ascending")]
    )
    return without_users(table, read_deleted_users(path, tenant))


def without_users(table: "pa.Table", users: frozenset[str]) -> "pa.Table":
    """Rows of the export without what these users did, posted and followed."""
    if not users:
        return table
    import pyarrow as pa  # noqa: PLC0415 - as above
    import pyarrow.compute as pc  # noqa: PLC0415

    names = pa.array(sorted(users), pa.string())
    actors = pa.array(sorted(f"{p}{user}" for p in ("", "user:", "SU:") for user in users))
    follower = pc.replace_substring_regex(table["follower"], "^[^:]*:", "")
    posted = pc.and_(pc.equal(table["type"], "posted"), pc.is_in(table["actor"], actors))
    theirs = pc.or_(pc.is_in(table["user"], names), pc.is_in(follower, names))
    return table.filter(pc.invert(pc.or_(theirs, posted)))


def read_manifest(path: Path, tenant: str) -> tuple[Path, Manifest]:
    """The directory of a tenant's export, and what it consists of; raises `ExportDamaged`."""
    root = path / f"tenant={tenant}"
    file = root / MANIFEST
    try:
        if file.stat().st_size > MANIFEST_BYTES_MAX:
            raise damaged(file, f"it is larger than {MANIFEST_BYTES_MAX} bytes")
        manifest = msgspec.json.decode(file.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise ExportDamaged(
            f"{file}: there is no such file; run `headwater export --tenant {tenant}` first, and "
            "give the directory that it wrote to"
        ) from error
    except (OSError, msgspec.DecodeError) as error:
        raise damaged(file, str(error)) from error
    if manifest.schema_version != EVENT_SCHEMA_VERSION:
        raise ExportDamaged(
            f"{file}: events of schema version {manifest.schema_version}; this release reads "
            f"version {EVENT_SCHEMA_VERSION}: export again with it"
        )
    return root, manifest


def check_file(root: Path, file: ExportedFile) -> None:
    """Raises `ExportDamaged` where a file is not, byte for byte, what the manifest names."""
    path = (root / file.path).resolve()
    if not path.is_relative_to(root.resolve()):
        raise damaged(root / MANIFEST, f"{file.path!r} lies outside the export")
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error
    if digest != file.sha256:
        raise damaged(path, "its checksum is not that of the manifest")


def damaged(path: Path, problem: str) -> ExportDamaged:
    """The error of a file that is not as it was written."""
    return ExportDamaged(f"{path}: {problem}; delete the export and run `headwater export` again")


def _events(table: "pa.Table") -> Iterator[Event]:
    import pyarrow as pa  # noqa: PLC0415

    for name in _TIMES:
        place = table.column_names.index(name)
        table = table.set_column(place, name, table.column(name).cast(pa.int64()))
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        for row in batch.to_pylist():
            yield event_of(row)


def event_of(row: dict[str, Any]) -> Event:  # Any: a row of mixed columns
    """The event in a row of the export whose times are integers; raises `ExportDamaged`."""
    read = _READ.get(row["type"])
    if read is None:
        raise ExportDamaged(
            f"an event has the unknown type {row['type']!r}; export again with this release"
        )
    return read(row)


def _engagement(row: dict[str, Any]) -> Engagement:  # Any: a row of mixed columns
    return Engagement(time_us=row["time"], kind=row["kind"], value=row["value"], **_shown(row))


def _followed(row: dict[str, Any]) -> Followed:  # Any: a row of mixed columns
    return Followed(
        time_us=row["time"],
        follower=row["follower"],
        target=row["target"],
        since_us=row["since"],
        derived=row["derived"],
    )


def _unfollowed(row: dict[str, Any]) -> Unfollowed:  # Any: a row of mixed columns
    return Unfollowed(
        time_us=row["time"],
        follower=row["follower"],
        target=row["target"],
        keep_history=row["keep_history"],
    )


def _feedback(row: dict[str, Any]) -> FeedbackGiven:  # Any: a row of mixed columns
    return FeedbackGiven(
        time_us=row["time"],
        user=row["user"],
        kind=row["kind"],
        activity_id=row["activity_id"],
        actor=row["actor"],
        tags=tuple(row["tags"]),
        to=tuple(row["to"]),
    )


def _shown(row: dict[str, Any]) -> dict[str, Any]:  # Any: keywords of mixed types
    return {name: row[name] for name in ("user", "activity_id", "feed", "position", "slate_id")}


def _posted(row: dict[str, Any]) -> Posted:  # Any: a row of mixed columns
    return Posted(
        time_us=row["time"],
        activity_id=row["activity_id"],
        actor=row["actor"],
        verb=row["verb"],
        object=row["object"],
        feed=row["feed"],
        to=tuple(row["to"]),
        tags=tuple(row["tags"]),
        length=row["length"],
    )


def row_of(index: int, event: Event) -> dict[str, Any]:  # Any: a row of mixed columns
    """The event as a row of the export, its times as integers; `event_of` reads it back."""
    row = {"index": index, "ordinal": 0, "type": event.__struct_config__.tag}
    fields = msgspec.structs.asdict(event)
    return row | {name.removesuffix("_us"): value for name, value in fields.items()}


_READ: Final[Mapping[str, Callable[[dict[str, Any]], Event]]] = {
    # Any: a row of mixed columns
    "engagement": _engagement,
    "impression": lambda row: Impression(time_us=row["time"], **_shown(row)),
    "posted": _posted,
    "removed": lambda row: Removed(time_us=row["time"], activity_id=row["activity_id"]),
    "followed": _followed,
    "unfollowed": _unfollowed,
    "feedback": _feedback,
}
"""What reads an event of each type."""
