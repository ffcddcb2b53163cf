"""What many engaged with lately: the second order that every model is measured against."""

import numpy as np
import numpy.typing as npt

from ranking.features import FeatureMatrix, FeatureSpec
from ranking.scorers.base import column_places, only_added

__all__ = ["PopularityScorer"]

_POPULARITY = "engagements_1d"


class PopularityScorer:
    """Scores by one column that counts engagements: `engagements_1d` unless another is named."""

    name = "popularity"

    def __init__(self, spec: FeatureSpec | None = None, column: str = _POPULARITY) -> None:
        self.spec = FeatureSpec((column,)) if spec is None else spec
        self.column = column
        column_places(self.name, (column,), self.spec.names)

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        """The column's value of each activity, float32[n]; NaN where it is missing."""
        (place,) = column_places(self.name, (self.column,), features.names)
        return features.values[:, place].copy()

    def contributions(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        """The column is the whole score, float32[n, F + 1]."""
        (place,) = column_places(self.name, (self.column,), features.names)
        return only_added(features, {place: self.score(features)})
