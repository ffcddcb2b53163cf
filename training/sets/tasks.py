"""What workers do for a training set: one side of the features, or one part of the rows.

Everything comes from a shelf and goes to one, or to a part's file; what travels is a few numbers.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from feeds.model import format_time
from ranking.features import FeatureSpec, compute
from ranking.scorers.factorization import FactorTable
from training.asof.case import Case
from training.asof.inputs import AsOfInputs, Social
from training.asof.sides import Columns, activity_side, author_side, tag_side, user_side
from training.events.columns import UNNAMED
from training.sets.files import LABELS, SetFile, schema_of, write_part
from training.sets.labels import OPEN
from training.sets.shelf import NameList, Shelf

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Rows",
    "WrittenPart",
    "features_of",
    "make_user_columns",
    "shared_side",
    "user_part",
    "written_part",
]

Ints = npt.NDArray[np.int64]

_SIDES: Final = {"activity": activity_side, "author": author_side, "tags": tag_side}
_USER_COLUMNS: Final = ("user_engagements", "met_author", "met_tags", "shown")


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a set: r impressions of q requests, requests in time order."""

    request: Ints
    """int64[r], ascending"""
    question: Ints
    """int64[r]: the question of the row's features, or -1 where all were logged."""
    served: Ints
    """int64[r]: the row's place among those of logged slates, or -1."""
    user: npt.NDArray[np.int32]
    activity: npt.NDArray[np.int32]
    position: npt.NDArray[np.int32]
    propensity: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int8]
    """int8[r, kinds]"""
    slate: npt.NDArray[np.int32]
    """int32[q]"""
    time_us: Ints
    """int64[q]"""


@dataclass(frozen=True, slots=True)
class WrittenPart:
    """What writing a part gave; `file` is None where no row was left."""

    file: SetFile | None
    users: frozenset[int]
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Names:
    users: NameList
    activities: NameList


def shared_side(shelf: Shelf, name: str) -> str:
    """Compute the side of the activities, their authors or their tags, of all questions."""
    _SIDES[name](shelf.get("case", Case), shelf.make)
    return name


def make_user_columns(shelf: Shelf) -> None:
    """Make the columns that `user_part` fills."""
    case = shelf.get("case", Case)
    count, tags = len(case.questions), case.lives.tags.shape[1]
    shapes = ((count,), (count, 3), (count, tags, 3), (count,))
    for name, shape in zip(_USER_COLUMNS, shapes, strict=True):
        shelf.make(name, shape, np.int64)


def user_part(shelf: Shelf, part: int, parts: int) -> str:
    """Compute what the records of some of the users say, of all their questions."""
    rows, columns = user_side(shelf.get("case", Case), part, parts)
    for name in _USER_COLUMNS if len(rows) else ():
        shelf.array(name, "r+")[rows] = columns[name]
    return f"users {part + 1} of {parts}"


def written_part(shelf: Shelf, path: Path, begin: int, end: int, spec: FeatureSpec) -> WrittenPart:
    """Put the rows from `begin` to `end` together, and write those whose features are known."""
    rows = shelf.get("rows", Rows)
    some = slice(begin, end)
    values, known, source = _features(shelf, rows, some, spec)
    kept = begin + np.flatnonzero(known)
    counts = Counter(_SOURCES[each] for each in source[known].tolist())
    counts["not_in_table"] = int((~known).sum())
    if not len(kept):
        return WrittenPart(None, frozenset(), dict(counts))
    request = rows.request[kept]
    table = _table(shelf, rows, kept, source[known], values[known], spec)
    file = write_part(
        path,
        table,
        first_us=int(rows.time_us[request[0]]),
        last_us=int(rows.time_us[request[-1]]),
        requests=len(np.unique(request)),
    )
    return WrittenPart(file, frozenset(np.unique(rows.user[kept]).tolist()), dict(counts))


_SOURCES: Final = ("as_of", "mixed", "served")


def _features(
    shelf: Shelf, rows: Rows, some: slice, spec: FeatureSpec
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.int8]]:
    """float32[n, names]; which rows are known; and where each comes from, in `_SOURCES`."""
    question, served = rows.question[some], rows.served[some]
    values = np.full((len(question), len(spec.names)), np.nan, np.float32)
    asked = np.flatnonzero(question >= 0)
    known = np.ones(len(question), np.bool_)
    if len(asked):
        case = shelf.get("case", Case)
        present = case.life[question[asked]] >= 0
        known[asked] = present
        asked = asked[present]
        values[asked] = features_of(shelf, case, question[asked], spec)
    source = np.zeros(len(question), np.int8)
    place = np.flatnonzero(served >= 0)
    if len(place):
        logged = shelf.array("served.logged")[served[place]]
        features = shelf.array("served.features")[served[place]]
        values[place] = np.where(logged, features, values[place])
        source[place] = np.where(logged.all(axis=1), 2, logged.any(axis=1))
    return values, known, source


def features_of(
    shelf: Shelf, case: Case, questions: Ints, spec: FeatureSpec
) -> npt.NDArray[np.float32]:
    """The features of some questions, float32[q, names], once the shelf has every side."""
    names = (*_USER_COLUMNS, *_SHARED_COLUMNS)
    sides: Columns = {name: np.asarray(shelf.array(name)[questions]) for name in names}
    packed = shelf.array("factors").tobytes()
    inputs = AsOfInputs(
        _Names(shelf.names("users"), shelf.names("activities")),
        case,
        questions,
        sides,
        shelf.get("social", Social),
        spec.parameters,
        FactorTable.parse(packed) if packed else None,
    )
    return compute(spec, inputs).values


_SHARED_COLUMNS: Final = (
    "totals",
    "days",
    "hours",
    "engaged_us",
    "author_totals",
    "author_days",
    "tag_totals",
    "tag_days",
)


def _table(
    shelf: Shelf,
    rows: Rows,
    kept: Ints,
    source: npt.NDArray[np.int8],
    values: npt.NDArray[np.float32],
    spec: FeatureSpec,
) -> "pa.Table":
    import pyarrow as pa  # noqa: PLC0415 - half a second that only training pays

    request = rows.request[kept]
    time_us = rows.time_us[request]
    columns: dict[str, Any] = {  # Any: pyarrow has no types
        "request_id": _request_ids(shelf, rows, kept),
        "user_id": _named(shelf.names("users"), rows.user[kept]),
        "activity_id": _named(shelf.names("activities"), rows.activity[kept]),
        "time": pa.array(time_us).cast(pa.timestamp("us", tz="UTC")),
        "position": pa.array(rows.position[kept]),
        "propensity": pa.array(rows.propensity[kept]),
    }
    for place, name in enumerate(LABELS):
        label = rows.labels[kept, place]
        columns[name] = pa.array(label, mask=label == OPEN)
    columns["features_from"] = pa.DictionaryArray.from_arrays(
        pa.array(source.astype(np.int32)), pa.array(_SOURCES)
    )
    columns |= {
        name: pa.array(np.ascontiguousarray(values[:, place]))
        for place, name in enumerate(spec.names)
    }
    return pa.table(columns, schema=schema_of(spec.names))


def _named(names: NameList, numbers: npt.NDArray[np.int32]) -> Any:  # Any: pyarrow has no types
    """The names of numbers, as a dictionary of those that come up."""
    import pyarrow as pa  # noqa: PLC0415

    used, codes = np.unique(numbers, return_inverse=True)
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), names.arrow(used))


def _request_ids(shelf: Shelf, rows: Rows, kept: Ints) -> Any:  # Any: pyarrow has no types
    """The slate of each row; where none is named, the user and the time of the request."""
    import pyarrow as pa  # noqa: PLC0415

    used, first, codes = np.unique(rows.request[kept], return_index=True, return_inverse=True)
    slate = rows.slate[used]
    ids = shelf.names("slates").arrow(slate[slate != UNNAMED])
    lone = np.flatnonzero(slate == UNNAMED)
    if len(lone):
        users = shelf.names("users").arrow(rows.user[kept[first[lone]]]).to_pylist()
        times_us = rows.time_us[used[lone]].tolist()
        made = [f"{user}@{format_time(at)}" for user, at in zip(users, times_us, strict=True)]
        order = np.argsort(np.concatenate([np.flatnonzero(slate != UNNAMED), lone]))
        ids = pa.concat_arrays([ids, pa.array(made)]).take(pa.array(order))
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), ids)
