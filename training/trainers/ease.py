"""EASE: a linear model from every activity to every other, in closed form (Steck 2019).

Harald Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019. With X the
interactions and P = (X'X + l2 I)^-1, the weights are B = I - P diag(1 / diag P): what engaging with
one activity says of another, the diagonal 0. A user's scores are the user's row of X times B.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from training.errors import TrainingError
from training.trainers.base import (
    DIMENSIONS_MAX,
    Embedded,
    FactorModel,
    Floats,
    OnEpoch,
)
from training.trainers.matrices import blas_threads, checked

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["EaseModel", "EaseTrainer"]

Exact = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class EaseModel:
    """`weights` float32[n, n]: what a row's activity says of a column's; and who engaged."""

    interactions: "sparse.csr_matrix"
    weights: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """Users and activities."""
        users, activities = self.interactions.shape
        return int(users), int(activities)

    def scores(self, users: npt.NDArray[np.integer]) -> Floats:
        """See `MatrixModel.scores`; 0 throughout for a user without engagements."""
        found: Floats = np.asarray(self.interactions[users] @ self.weights)
        return found

    def factors(self, dimensions_max: int = DIMENSIONS_MAX) -> FactorModel:
        """The nearest matrix of scores that vectors of this length give (Eckart and Young 1936).

        Exact where users or activities are not more than `dimensions_max`. On MovieLens 100K, 32
        dimensions lose 0.002 of the NDCG@10, and 128 nothing to speak of.
        """
        users, activities = self.shape
        few = min(users, activities) <= dimensions_max
        with blas_threads(1):
            left, values, right = self._whole() if few else self._largest(dimensions_max)
        return FactorModel(
            Embedded.without_biases((left * values).astype(np.float32)),
            Embedded.without_biases(np.ascontiguousarray(right.T, np.float32)),
        )

    def _whole(self) -> tuple[Exact, Exact, Exact]:
        scores = (self.interactions @ self.weights).astype(np.float64)
        left, values, right = np.linalg.svd(scores, full_matrices=False)
        return left, values, right

    def _largest(self, count: int) -> tuple[Exact, Exact, Exact]:
        """The largest singular values of the scores, which are never written out."""
        from scipy.sparse.linalg import LinearOperator, svds  # noqa: PLC0415 - only in training

        seen, weights = self.interactions, self.weights
        operator = LinearOperator(
            self.shape,
            matvec=lambda vector: seen @ (weights @ vector.astype(np.float32)),
            rmatvec=lambda vector: weights.T @ (seen.T @ vector.astype(np.float32)),
            dtype=np.float32,
        )
        start = np.ones(min(self.shape), np.float32)
        left, values, right = svds(operator, count, v0=start)
        return left, values, right


@dataclass(frozen=True, slots=True)
class EaseTrainer:
    """Hyperparameters of EASE."""

    l2: float = 500.0
    """Penalty on the weights, above 0: grows with the engagements of each activity."""
    activities_max: int = 15_000
    """Activities beyond which it refuses: memory is 12 bytes a pair (2.7 GB), time is cubic."""

    threads: int = 1
    """Threads that invert the matrix; another number gives other last bits."""

    @property
    def name(self) -> str:
        """The model's name."""
        return "ease"

    def fit(
        self,
        interactions: "sparse.csr_matrix",
        *,
        user_features: "sparse.csr_matrix | None" = None,
        activity_features: "sparse.csr_matrix | None" = None,
        seed: int = 0,
        on_epoch: OnEpoch | None = None,
    ) -> EaseModel:
        """See `MatrixTrainer.fit`; nothing is random in it."""
        del user_features, activity_features, seed
        matrix = checked(interactions)
        activities = matrix.shape[1]
        if activities > self.activities_max:
            raise TrainingError(
                f"EASE of {activities} activities needs {activities**2 * 12 / 1e9:.1f} GB; "
                f"activities_max is {self.activities_max}: use ALS, or leave out rare activities"
            )
        if not self.l2 > 0:
            raise TrainingError(f"EASE has l2 {self.l2}: give a penalty above 0")
        with blas_threads(self.threads):
            model = EaseModel(matrix, _weights(matrix, self.l2))
        if on_epoch is not None:
            on_epoch(1, model)
        return model


def _weights(matrix: "sparse.csr_matrix", l2: float) -> Floats:
    """float32[n, n], in float64 until the end; inverted in place by Cholesky's way."""
    from scipy.linalg import lapack  # noqa: PLC0415 - only who trains pays for it

    exact = matrix.astype(np.float64)
    gram = np.asfortranarray((exact.T @ exact).toarray())
    gram[np.diag_indices_from(gram)] += l2
    factor, failed = lapack.dpotrf(gram, lower=True, overwrite_a=True)
    if failed:
        raise TrainingError(f"EASE cannot invert its matrix with l2 {l2}: give a larger penalty")
    inverse, _ = lapack.dpotri(factor, lower=True, overwrite_c=True)
    weights = inverse.astype(np.float32)  # the lower triangle; the other half mirrors it
    weights += np.tril(weights, -1).T
    weights /= -np.diag(inverse).astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    return np.ascontiguousarray(weights)
