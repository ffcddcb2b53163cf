"""ALS for implicit feedback; the only importer of `implicit`.

Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from training.errors import TrainingError
from training.trainers.base import Embedded, FactorModel, OnEpoch
from training.trainers.matrices import blas_threads, checked

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["AlsTrainer"]


@dataclass(frozen=True, slots=True)
class AlsTrainer:
    """Hyperparameters of alternating least squares."""

    dimensions: int = 32
    """Length of a user's or activity's vector."""
    l2: float = 75.0
    """Penalty on the vectors."""
    alpha: float = 12.5
    """How much more an engagement counts than none: its confidence is `alpha` times its weight."""
    epochs: int = 20
    """Passes over users and activities."""
    threads: int = 1
    """Threads; the vectors are the same with any number."""

    @property
    def name(self) -> str:
        """The model's name."""
        return "als"

    def fit(
        self,
        interactions: "sparse.csr_matrix",
        *,
        user_features: "sparse.csr_matrix | None" = None,
        activity_features: "sparse.csr_matrix | None" = None,
        seed: int = 0,
        on_epoch: OnEpoch | None = None,
    ) -> FactorModel:
        """See `MatrixTrainer.fit`; features are not used."""
        from implicit.cpu.als import AlternatingLeastSquares  # noqa: PLC0415 - a second

        del user_features, activity_features
        matrix = checked(interactions)
        # The library's threads share out rows; BLAS threads below them would only get in the way,
        # and would make sums depend on their number.
        with blas_threads(1):
            library = AlternatingLeastSquares(
                factors=self.dimensions,
                regularization=self.l2,
                alpha=self.alpha,
                iterations=self.epochs,
                num_threads=self.threads,
                random_state=seed,
            )

            def told(epoch: int, *_: object) -> None:
                if on_epoch is not None:
                    on_epoch(epoch + 1, _model(library))

            library.fit(matrix, show_progress=False, callback=told)
        model = _model(library)
        if not all(np.isfinite(side.vectors).all() for side in (model.users, model.activities)):
            raise TrainingError(f"ALS diverged with {self}: give a larger l2 or a smaller alpha")
        return model


def _model(library: Any) -> FactorModel:  # Any: implicit has no types
    return FactorModel(
        Embedded.without_biases(library.user_factors), Embedded.without_biases(library.item_factors)
    )
