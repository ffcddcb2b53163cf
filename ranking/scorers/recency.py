"""Newest first: the order that every other one is measured against."""

import numpy as np
import numpy.typing as npt

from ranking.features import FeatureMatrix, FeatureSpec
from ranking.scorers.base import column_places, only_added

__all__ = ["RecencyScorer"]

_AGE = "age_h"


class RecencyScorer:
    """Scores by time alone: hours of age, negated. Reads the column `age_h`."""

    name = "recency"

    def __init__(self, spec: FeatureSpec | None = None) -> None:
        self.spec = FeatureSpec((_AGE,)) if spec is None else spec
        column_places(self.name, (_AGE,), self.spec.names)

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        """Minus the hours since each activity, float32[n]."""
        (age,) = column_places(self.name, (_AGE,), features.names)
        scores: npt.NDArray[np.float32] = -features.values[:, age]
        return scores

    def contributions(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        """The age is the whole score, float32[n, F + 1]."""
        (age,) = column_places(self.name, (_AGE,), features.names)
        return only_added(features, {age: self.score(features)})
