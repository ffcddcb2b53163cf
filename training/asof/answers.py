"""Features as of many moments, all in memory: the short way, for sets that are not large."""

import numpy as np
import numpy.typing as npt

from ranking.extractors.base import Factors
from ranking.features import FeatureMatrix, FeatureSpec, compute
from training.asof.case import Questions, resolve
from training.asof.inputs import AsOfInputs, Social
from training.asof.sides import activity_side, author_side, tag_side, user_side
from training.events.columns import EventColumns

__all__ = ["features_as_of"]


def features_as_of(
    events: EventColumns,
    questions: Questions,
    spec: FeatureSpec,
    table_rows: int,
    factors: Factors | None = None,
) -> tuple[npt.NDArray[np.int64], FeatureMatrix]:
    """The questions whose activity was in the table, int64[r], and their features, row for row.

    Bit for bit what serving would have read at each moment, the factors apart, which are those that
    are given. Cost: about 10 us an event and question, and 300 bytes of memory.
    """
    case = resolve(events, questions, table_rows)
    rows = np.flatnonzero(case.life >= 0)
    sides = activity_side(case) | author_side(case) | tag_side(case)
    _, of_users = user_side(case)
    sides = {name: column[rows] for name, column in (sides | of_users).items()}
    social = Social.of(events, case)
    inputs = AsOfInputs(events, case, rows, sides, social, spec.parameters, factors)
    return rows, compute(spec, inputs)
