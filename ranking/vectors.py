"""What is asked of a model's vectors of activities, beyond the products that features need."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = ["Vectors", "unit_vectors", "vectors_of"]


@runtime_checkable
class Vectors(Protocol):
    """A factorization that tells the vectors of activities."""

    def activity_vectors(self, positions: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """float32[n, d]; a row of NaN where the activity is unknown."""
        ...


def vectors_of(factors: object) -> Vectors | None:
    """The factors of a model, where they tell the vectors of activities."""
    return factors if isinstance(factors, Vectors) else None


def unit_vectors(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The vectors at length 1, float64[n, d]; zeros where a vector is unknown or 0."""
    exact = np.nan_to_num(vectors.astype(np.float64))
    lengths = np.sqrt(np.einsum("nd,nd->n", exact, exact))
    units: npt.NDArray[np.float64] = exact / np.where(lengths > 0, lengths, 1.0)[:, None]
    return units
