"""The check of what matrix trainers are given, and the threads of their linear algebra."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np

from training.errors import TooFewEvents, TrainingError

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["blas_threads", "checked", "checked_features"]


def blas_threads(count: int) -> AbstractContextManager[object]:
    """Products of matrices use so many threads in a `with` block.

    Sums depend on their number, so that a trainer names it. More threads than idle cores wait for
    each other: on a busy machine of two cores, two were forty times slower than one.
    """
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 - only who trains pays for it

    limits: AbstractContextManager[object] = threadpool_limits(count, "blas")
    return limits


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
