"""Most popular first, the same for every user: what each model is measured against."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from training.trainers.base import Embedded, FactorModel, OnEpoch
from training.trainers.matrices import checked

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["PopularityTrainer"]


@dataclass(frozen=True, slots=True)
class PopularityTrainer:
    """Scores an activity by how many users engaged with it, whatever the weights."""

    @property
    def name(self) -> str:
        """The model's name."""
        return "popularity"

    def fit(
        self,
        interactions: "sparse.csr_matrix",
        *,
        user_features: "sparse.csr_matrix | None" = None,
        activity_features: "sparse.csr_matrix | None" = None,
        seed: int = 0,
        on_epoch: OnEpoch | None = None,
    ) -> FactorModel:
        """See `MatrixTrainer.fit`; a model of no factors, whose biases are the counts."""
        del user_features, activity_features, seed
        matrix = checked(interactions)
        users, activities = matrix.shape
        counts = np.bincount(matrix.indices, minlength=activities).astype(np.float32)
        model = FactorModel(
            Embedded.without_biases(np.zeros((users, 0), np.float32)),
            Embedded(np.zeros((activities, 0), np.float32), counts),
        )
        if on_epoch is not None:
            on_epoch(1, model)
        return model
