"""Exported slates one by one, with every number that they were made from; see docs/slates.md."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from training.errors import TrainingError
from training.slates.served import slate_tables

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ROWS_MAX", "SlateRows", "logged_slates"]

ROWS_MAX: Final = 5_000_000
"""Rows of an export that are read: places and other candidates."""

_OF_SLATE: Final = (
    "slate_id",
    "user",
    "scorer",
    "model_version",
    "degraded",
    "spec_fingerprint",
    "feature_names",
)
_OF_ROW: Final = ("activity_id", "position", "score", "propensity", "placed", "features")


@dataclass(frozen=True, slots=True)
class SlateRows:
    """One slate: n activities, of which the first `shown` were, from the top; the others were not.

    `scores` are float32[n] and `features` float32[n, len(names)], bit for bit as they were when it
    was served; `propensities` float64[shown]; `placed` bool[shown]: a rule gave the place away.
    """

    slate_id: str
    user: str
    scorer: str
    model_version: str | None
    degraded: str | None
    spec_fingerprint: str
    names: tuple[str, ...]
    activity_ids: tuple[str, ...]
    shown: int
    scores: npt.NDArray[np.float32]
    propensities: npt.NDArray[np.float64]
    placed: npt.NDArray[np.bool_]
    features: npt.NDArray[np.float32]

    def __len__(self) -> int:
        """How many activities there are."""
        return len(self.activity_ids)

    @property
    def with_candidates(self) -> bool:
        """Whether candidates were logged that were not shown."""
        return len(self) > self.shown


def logged_slates(path: Path | str, tenant: str, rows_max: int = ROWS_MAX) -> Iterator[SlateRows]:
    """The slates of a tenant in an export, file by file.

    Raises `ExportDamaged`, or `TrainingError` for an export of more than `rows_max` rows. Memory:
    one file, a day of one segment of the log.
    """
    rows = 0
    for table in slate_tables(path, tenant, (*_OF_SLATE, *_OF_ROW)):
        rows += table.num_rows
        if rows > rows_max:
            raise TrainingError(
                f"{path} has more than {rows_max:,} rows of slates: export a shorter time to a "
                "directory of its own, or raise rows_max"
            )
        yield from _slates(table)


def _slates(table: "pa.Table") -> Iterator[SlateRows]:
    columns: dict[str, list[Any]] = {  # Any: a column's own type
        name: table.column(name).to_pylist() for name in (*_OF_SLATE, "activity_id", "placed")
    }
    positions, scores, propensities = (
        table.column(name).to_numpy() for name in ("position", "score", "propensity")
    )
    lists = table.column("features").combine_chunks()
    values, offsets = lists.values.to_numpy(zero_copy_only=False), lists.offsets.to_numpy()
    ids = columns["slate_id"]
    starts = [row for row in range(len(ids)) if not row or ids[row] != ids[row - 1]]
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        shown = int((positions[start:end] >= 0).sum())
        names = tuple(columns["feature_names"][start].split(","))
        yield SlateRows(
            **{name: columns[name][start] for name in _OF_SLATE if name != "feature_names"},
            names=names,
            activity_ids=tuple(columns["activity_id"][start:end]),
            shown=shown,
            scores=np.asarray(scores[start:end], np.float32),
            propensities=np.asarray(propensities[start : start + shown], np.float64),
            placed=np.array([rule is not None for rule in columns["placed"][start:end]])[:shown],
            features=np.asarray(values[offsets[start] : offsets[end]], np.float32).reshape(
                end - start, len(names)
            ),
        )
