"""Training sets on disk (`training.sets.files`) as what row trainers learn from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ranking.features import FeatureMatrix
from training.errors import TooFewEvents
from training.sets.files import LABELS, StoredSet
from training.trainers.rows import UNKNOWN, Examples

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["examples_of", "examples_of_tables", "split_examples"]

_LABEL = "label_"
_RELEVANT = tuple(name for name in LABELS if name != f"{_LABEL}hide")


def split_examples(stored: StoredSet, validation_share: float = 0.2) -> tuple[Examples, Examples]:
    """Training and validation: the last requests, by time, are the share that validates.

    Raises `TooFewEvents` where the set has no rows, or all at one time.
    """
    times = [
        np.asarray(table.column("time").cast("int64")) for table in stored.tables(columns=["time"])
    ]
    sorted_us = np.sort(np.concatenate(times)) if times else np.zeros(0, np.int64)
    if not len(sorted_us):
        raise TooFewEvents(
            "the training set has no rows: record impressions, export and build it again"
        )
    boundary = int(sorted_us[min(int(len(sorted_us) * (1 - validation_share)), len(sorted_us) - 1)])
    if boundary == sorted_us[0]:
        raise TooFewEvents("all requests of the training set are at one time: record for longer")
    return examples_of(stored, until_us=boundary), examples_of(stored, since_us=boundary)


def examples_of(
    stored: StoredSet, since_us: int | None = None, until_us: int | None = None
) -> Examples:
    """The requests from `since_us` on and before `until_us`: 4 bytes a feature and row."""
    return examples_of_tables(list(stored.tables(since_us, until_us)), stored)


def examples_of_tables(tables: "Sequence[pa.Table]", stored: StoredSet) -> Examples:
    """The rows of these tables of a set; each request lies in one, its rows together.

    A row is relevant where it got an engagement of any kind but a hide, by what is known so far.
    """
    spec = stored.spec
    engaged = {name: _column(tables, name, np.int8, UNKNOWN) for name in LABELS}
    relevance = np.zeros(sum(table.num_rows for table in tables), np.int8)
    for name in _RELEVANT:
        np.maximum(relevance, engaged[name], out=relevance)
    names, sizes = _requests(tables)
    return Examples(
        names=spec.names,
        values=_features(tables, spec.names),
        relevance=np.maximum(relevance, 0),
        sizes=sizes,
        users=names,
        engaged={name.removeprefix(_LABEL): column for name, column in engaged.items()},
        shown_at=_column(tables, "position", np.int32, UNKNOWN),
        parameters=spec.parameters,
    )


def _features(tables: "Sequence[pa.Table]", names: tuple[str, ...]) -> npt.NDArray[np.float32]:
    values = np.empty((sum(table.num_rows for table in tables), len(names)), np.float32)
    for place, name in enumerate(names):
        values[:, place] = _column(tables, name, np.float32, np.nan)
    return FeatureMatrix(names, values).values


def _column(
    tables: "Sequence[pa.Table]", name: str, kind: Any, missing: float
) -> npt.NDArray[Any]:  # Any: the type is the caller's
    parts = [np.asarray(table.column(name).fill_null(missing).to_numpy(), kind) for table in tables]
    return np.concatenate([np.zeros(0, kind), *parts])


def _requests(tables: "Sequence[pa.Table]") -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int64]]:
    """The user of each request, and its rows."""
    users: list[npt.NDArray[np.str_]] = [np.zeros(0, np.str_)]
    sizes: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for table in tables:
        requests = table.column("request_id").cast("string").to_numpy(zero_copy_only=False)
        starts = np.flatnonzero(np.concatenate([[True], requests[1:] != requests[:-1]]))
        starts = starts[: len(requests)]
        named = table.column("user_id").cast("string").to_numpy(zero_copy_only=False)
        users.append(named[starts].astype(np.str_))
        sizes.append(np.diff(np.concatenate([starts, [len(requests)]])).astype(np.int64))
    return np.concatenate(users), np.concatenate(sizes)
