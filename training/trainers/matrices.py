"""What matrix trainers share: the check of what they are given, and models that are products."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from training.errors import TooFewEvents, TrainingError
from training.trainers.base import Floats

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["Embedded", "FactorModel", "checked", "checked_features"]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors float32[n, d] and biases float32[n] of one kind of thing."""

    vectors: Floats
    biases: Floats

    @classmethod
    def without_biases(cls, vectors: Floats) -> Self:
        """Vectors whose biases are all 0."""
        return cls(vectors, np.zeros(len(vectors), np.float32))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.biases)


@dataclass(frozen=True, slots=True)
class FactorModel:
    """A score is the dot product of the user's and the activity's vector plus the latter's bias.

    `features` are the vectors of activity features, which stand in for activities that come later;
    None where the trainer does not learn them.
    """

    users: Embedded
    activities: Embedded
    features: Embedded | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Users and activities."""
        return len(self.users), len(self.activities)

    def scores(self, users: npt.NDArray[np.integer]) -> Floats:
        """See `MatrixModel.scores`."""
        found: Floats = self.users.vectors[users] @ self.activities.vectors.T
        found += self.activities.biases
        return found


def checked(interactions: "sparse.csr_matrix") -> "sparse.csr_matrix":
    """The interactions as float32 csr with sorted columns, each cell once; copied if need be.

    Raises `TooFewEvents` where there are none, and `TrainingError` saying what else is wrong.
    """
    matrix = _csr(interactions, "interactions")
    if not matrix.nnz:
        raise TooFewEvents(
            f"{matrix.shape[0]} users and {matrix.shape[1]} activities have no engagement between "
            "them: record some, or look at a longer time"
        )
    if float(matrix.data.min()) <= 0:
        raise TrainingError(
            "an interaction has a weight of 0 or less: leave out what the user did not want"
        )
    return matrix


def checked_features(
    features: "sparse.csr_matrix | None", rows: int, of: str
) -> "sparse.csr_matrix | None":
    """The features as float32 csr, a row for each of `rows` things; raises `TrainingError`."""
    if features is None:
        return None
    matrix = _csr(features, f"{of} features")
    if matrix.shape[0] != rows:
        raise TrainingError(
            f"{of} features have {matrix.shape[0]} rows for {rows} of them: give a row for each"
        )
    return matrix


def _csr(given: "sparse.csr_matrix", what: str) -> "sparse.csr_matrix":
    from scipy import sparse  # noqa: PLC0415 - only who trains pays for it

    if not sparse.issparse(given):
        raise TrainingError(f"{what} must be a scipy.sparse matrix, not {type(given).__name__}")
    matrix = sparse.csr_matrix(given, dtype=np.float32)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    if not np.isfinite(matrix.data).all():
        raise TrainingError(f"{what} hold a number that is not finite: leave it out")
    return matrix
