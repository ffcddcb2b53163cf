"""Features as of many moments, spread over workers: a task a side, then a task a part of the rows.

What `training.asof.answers.features_as_of` does in one process, by way of a shelf.
"""

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from ranking.features import FeatureMatrix, FeatureSpec
from training.asof.case import Case, Questions, resolve
from training.asof.inputs import Social
from training.cluster import Task, Workers
from training.events.columns import EventColumns
from training.sets.shelf import Shelf
from training.sets.tasks import features_of, make_user_columns, shared_side, user_part

__all__ = ["features_on_workers", "submit_sides"]

_FEATURES: Final = "features"


def submit_sides(workers: Workers, shelf: Shelf, parts: int) -> list[Task[str]]:
    """Hand in every side of the features; users' records in so many parts. The longest first."""
    make_user_columns(shelf)
    tasks = [workers.submit(shared_side, shelf, "activity")]
    tasks += [workers.submit(user_part, shelf, part, parts) for part in range(parts)]
    tasks += [workers.submit(shared_side, shelf, name) for name in ("tags", "author")]
    return tasks


def features_on_workers(
    workers: Workers,
    shelf: Shelf,
    log: EventColumns,
    questions: Questions,
    spec: FeatureSpec,
    table_rows: int,
) -> tuple[npt.NDArray[np.int64], FeatureMatrix]:
    """As `features_as_of`, bit for bit, without factors; the matrix is mapped from the shelf."""
    case = resolve(log, questions, table_rows)
    shelf.put("case", case)
    sides = submit_sides(workers, shelf, workers.places)
    shelf.put("social", Social.of(log, case))
    shelf.put("factors", np.zeros(0, np.uint8))
    for name in ("users", "activities"):
        shelf.put(name, getattr(log, name))
    rows = np.flatnonzero(case.life >= 0)
    shelf.make(_FEATURES, (len(rows), len(spec.names)), np.float32)
    for side in sides:
        side.result()
    bounds = np.linspace(0, len(rows), workers.places + 1).astype(int).tolist()
    parts = [workers.submit(_part, shelf, begin, end, spec) for begin, end in pairwise(bounds)]
    for part in parts:
        part.result()
    return rows, FeatureMatrix(spec.names, shelf.array(_FEATURES))


def _part(shelf: Shelf, begin: int, end: int, spec: FeatureSpec) -> int:
    """Compute some of the rows into the shelf; returns how many."""
    case = shelf.get("case", Case)
    rows = np.flatnonzero(case.life >= 0)[begin:end]
    if len(rows):
        shelf.array(_FEATURES, "r+")[begin:end] = features_of(shelf, case, rows, spec)
    return len(rows)
