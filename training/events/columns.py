"""The event log as columns: names are numbers, and an event is its place in the log.

An event of the log takes 37 bytes here, and about 500 as an object. What is posted, removed and
followed stays as rows beside the columns, since it is seldom and has more to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from feeds.counters import COUNTER_KINDS
from feeds.events import EVENT_SCHEMA, Event
from training.events.fingerprints import fingerprint_of
from training.events.log import (
    EventLog,
    check_file,
    damaged,
    event_of,
    read_deleted_users,
    read_manifest,
    row_of,
    without_users,
)
from training.sources.base import Progress, no_progress

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ENGAGED", "IMPRESSED", "UNNAMED", "EventColumns", "columns_of", "read_columns"]

IMPRESSED: Final = 0
"""The code of an impression."""

ENGAGED: Final = tuple(range(1, len(COUNTER_KINDS)))
"""The codes of engagements, in the order of `feeds.events.ENGAGEMENT_KINDS`."""

UNNAMED: Final = -1
"""The number of no name, such as the slate of an event that names none."""

_TYPES: Final = ("posted", "removed", "followed", "unfollowed", "feedback")
_CODES: Final[Mapping[str, int]] = {
    **{kind: code for code, kind in enumerate(COUNTER_KINDS)},
    **{kind: len(COUNTER_KINDS) + code for code, kind in enumerate(_TYPES)},
}
_POSTS: Final = (_CODES["posted"], _CODES["removed"])
_FOLLOWS: Final = (_CODES["followed"], _CODES["unfollowed"])
_NAMES: Final = ("user", "activity_id", "slate_id")
_BATCH_ROWS: Final = 65_536

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class EventColumns:
    """A tenant's n events in log order; the place of an event is its row here.

    Times are what the events say; names are numbers, `UNNAMED` where an event has none.
    """

    tenant: str
    index: npt.NDArray[np.int64]
    """int64[n]: the log index, ascending; events of one command share it."""
    code: npt.NDArray[np.int8]
    """int8[n]: 0 an impression, `ENGAGED` an engagement by kind, above anything else."""
    time_us: npt.NDArray[np.int64]
    """int64[n]: when it happened, by the event, microseconds since the epoch."""
    user: npt.NDArray[np.int32]
    """int32[n]: who was shown or engaged, a place in `users`."""
    activity: npt.NDArray[np.int32]
    """int32[n]: of which activity, a place in `activities`."""
    slate: npt.NDArray[np.int32]
    """int32[n]: in which slate, a place in `slates`."""
    position: npt.NDArray[np.int32]
    """int32[n]: the 0-based place in the slate or feed, -1 unknown."""
    value: npt.NDArray[np.float32]
    """float32[n]: what an engagement counts to the app, a dwell its seconds; -1 of others."""
    users: Sequence[str]
    activities: Sequence[str]
    slates: Sequence[str]
    posts: "Rows"
    """What was posted and removed."""
    follows: "Rows"
    """What was followed and unfollowed."""
    fingerprint: str
    """32 hexadecimal digits that change with any event."""

    def __len__(self) -> int:
        """How many events there are."""
        return len(self.code)

    @property
    def is_impression(self) -> npt.NDArray[np.bool_]:
        """bool[n]: which events are impressions."""
        shown: npt.NDArray[np.bool_] = self.code == IMPRESSED
        return shown

    @property
    def is_engagement(self) -> npt.NDArray[np.bool_]:
        """bool[n]: which events are engagements, those that are counted apart too."""
        return (self.code >= ENGAGED[0]) & (self.code <= ENGAGED[-1])


@dataclass(frozen=True, slots=True)
class Rows:
    """Some events of the log whole: `places[i]` is where the i-th stands."""

    places: npt.NDArray[np.int64]
    table: "pa.Table" = field(repr=False)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.places)

    def events(self) -> Iterator[tuple[int, Event]]:
        """(place, event) in log order, read as they are asked for."""
        rows = chain.from_iterable(
            batch.to_pylist() for batch in self.table.to_batches(max_chunksize=_BATCH_ROWS)
        )
        for place, row in zip(self.places.tolist(), rows, strict=True):
            yield place, event_of(row)


def columns_of(log: EventLog) -> EventColumns:
    """The events of a log in memory as columns."""
    import pyarrow as pa  # noqa: PLC0415 - half a second that only training pays

    schema = pa.schema([(name, _arrow_type(kind)) for name, kind in EVENT_SCHEMA])
    rows = [row_of(*pair) for pair in zip(log.indexes, log.events, strict=True)]
    reader = _Reader(log.tenant)
    reader.add(pa.Table.from_pylist(rows, schema))
    return reader.columns(log.fingerprint)


def read_columns(path: Path | str, tenant: str, progress: Progress = no_progress) -> EventColumns:
    """A tenant's exported events as columns, without those of deleted users.

    One file of the export is in memory at a time.
    Raises `ExportDamaged` with what to do. Cost: about 1 s a million events.
    """
    import pyarrow as pa  # noqa: PLC0415 - half a second that only training pays
    import pyarrow.parquet as pq  # noqa: PLC0415

    root, manifest = read_manifest(Path(path), tenant)
    reader = _Reader(tenant)
    names = [name for name, _ in EVENT_SCHEMA]
    deleted = read_deleted_users(path, tenant)
    encoded = [] if deleted else list(_NAMES)
    for number, file in enumerate(manifest.files):
        progress("read events", number, len(manifest.files))
        check_file(root, file)
        try:
            table = pq.ParquetFile(root / file.path, read_dictionary=encoded).read(names)
        except (OSError, pa.ArrowException) as error:
            raise damaged(root / file.path, str(error)) from error
        if table.num_rows != file.rows or table.column_names != names:
            raise damaged(root / file.path, "its rows or columns are not those of the manifest")
        reader.add(_with_integer_times(without_users(table, deleted)))
    hashes = sorted(file.sha256 for file in manifest.files)
    return reader.columns(fingerprint_of([tenant, *sorted(deleted), "", *hashes]))


class _Reader:
    """Gathers columns table by table; only the rows that are not columns stay as they are."""

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant
        self._numbers: dict[str, dict[str, int]] = {name: {} for name in _NAMES}
        self._parts: dict[str, list[npt.NDArray[Any]]] = {}  # Any: a column's own type
        self._rows: list[pa.Table] = []

    def add(self, table: "pa.Table") -> None:
        """Take in the rows of a table; their order does not matter."""
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.compute as pc  # noqa: PLC0415

        code = _codes(table)
        whole = (code == _POSTS[0]) | (code >= _POSTS[1])
        own: dict[str, npt.NDArray[Any]] = {  # Any: a column's own type
            "index": _numbers(table, "index", np.int64),
            "ordinal": _numbers(table, "ordinal", np.int32),
            "code": code,
            "time_us": _numbers(table, "time", np.int64),
            "position": _numbers(table, "position", np.int32),
            "value": _numbers(table, "value", np.float32),
            **{name: self._named(name, table.column(name)) for name in _NAMES},
        }
        for name, column in own.items():
            self._parts.setdefault(name, []).append(column)
        rows = table.filter(pa.array(whole))
        for name in _NAMES:
            place = rows.column_names.index(name)
            rows = rows.set_column(place, name, pc.cast(rows.column(name), pa.string()))
        self._rows.append(rows)

    def columns(self, fingerprint: str) -> EventColumns:
        """Everything that was added, in log order."""
        if not self._parts:
            return _nothing(self._tenant, fingerprint)
        import pyarrow as pa  # noqa: PLC0415

        found = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        self._parts.clear()
        order = np.lexsort((found.pop("ordinal"), found["index"]))
        if np.array_equal(order, np.arange(len(order))):
            order = np.arange(len(order))
        found = {name: column[order] for name, column in found.items()}
        rows = pa.concat_tables(self._rows, promote_options="permissive").sort_by(
            [("index", "ascending"), ("ordinal", "ascending")]
        )
        code = found["code"]
        whole = (code == _POSTS[0]) | (code >= _POSTS[1])
        user, activity, slate = (found.pop(name) for name in _NAMES)
        return EventColumns(
            tenant=self._tenant,
            **found,
            user=user,
            activity=activity,
            slate=slate,
            users=list(self._numbers["user"]),
            activities=list(self._numbers["activity_id"]),
            slates=list(self._numbers["slate_id"]),
            posts=_chosen(rows, np.flatnonzero(whole), code, _POSTS),
            follows=_chosen(rows, np.flatnonzero(whole), code, _FOLLOWS),
            fingerprint=fingerprint,
        )

    def _named(self, name: str, column: "pa.ChunkedArray") -> npt.NDArray[np.int32]:
        """The numbers of names, given to those that are new; no name and "" are `UNNAMED`."""
        encoded = column.combine_chunks()
        if not hasattr(encoded, "indices"):
            encoded = encoded.dictionary_encode()
        numbers = self._numbers[name]
        of_values = [
            numbers.setdefault(value, len(numbers)) if value else UNNAMED
            for value in encoded.dictionary.to_pylist()
        ]
        table = np.array([*of_values, UNNAMED], np.int32)
        places = encoded.indices.fill_null(len(of_values)).to_numpy(zero_copy_only=False)
        numbered: npt.NDArray[np.int32] = table[places]
        return numbered


def _nothing(tenant: str, fingerprint: str) -> EventColumns:
    import pyarrow as pa  # noqa: PLC0415

    rows = Rows(np.zeros(0, np.int64), pa.table({}))
    names = np.zeros(0, np.int32)
    return EventColumns(
        tenant=tenant,
        index=np.zeros(0, np.int64),
        code=np.zeros(0, np.int8),
        time_us=np.zeros(0, np.int64),
        user=names,
        activity=names,
        slate=names,
        position=names,
        value=np.zeros(0, np.float32),
        users=[],
        activities=[],
        slates=[],
        posts=rows,
        follows=rows,
        fingerprint=fingerprint,
    )


def _codes(table: "pa.Table") -> npt.NDArray[np.int8]:
    """The code of each event: by its kind where it is an engagement, else by its type."""
    import pyarrow.compute as pc  # noqa: PLC0415

    types = table.column("type")
    engaged = pc.equal(types, "engagement")
    named = pc.if_else(engaged, table.column("kind"), types).combine_chunks().dictionary_encode()
    values = named.dictionary.to_pylist()
    for value in values:
        if value not in _CODES:
            event_of({"type": value})  # says what is wrong
    table_of_codes = np.array([_CODES[value] for value in values], np.int8)
    codes: npt.NDArray[np.int8] = table_of_codes[named.indices.to_numpy(zero_copy_only=False)]
    return codes


def _numbers(table: "pa.Table", name: str, kind: type[T]) -> npt.NDArray[T]:
    column = table.column(name).combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False)
    numbers: npt.NDArray[T] = column.astype(kind, copy=False)
    return numbers


def _with_integer_times(table: "pa.Table") -> "pa.Table":
    import pyarrow as pa  # noqa: PLC0415

    for name in ("time", "since"):
        place = table.column_names.index(name)
        table = table.set_column(place, name, table.column(name).cast(pa.int64()))
    return table


def _chosen(
    rows: "pa.Table",
    places: npt.NDArray[np.int64],
    code: npt.NDArray[np.int8],
    codes: Sequence[int],
) -> Rows:
    import pyarrow as pa  # noqa: PLC0415

    chosen = np.isin(code[places], codes)
    return Rows(places[chosen], rows.filter(pa.array(chosen)))


def _arrow_type(kind: str) -> Any:  # Any: pyarrow has no types
    import pyarrow as pa  # noqa: PLC0415

    if kind.startswith("timestamp"):
        return pa.int64()
    types = {
        "list<string>": pa.list_(pa.string()),
        "bool": pa.bool_(),
        "float32": pa.float32(),
        "string": pa.string(),
        "int64": pa.int64(),
        "int32": pa.int32(),
    }
    return types[kind]
