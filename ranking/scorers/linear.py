"""A sum of features with coefficients, such as a logistic regression's log odds."""

from typing import Final, Self

import numpy as np
import numpy.typing as npt

from ranking.arrays import ArrayShape, pack_arrays, unpack_arrays
from ranking.errors import BundleDamaged, FeatureSpecMismatch
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.scorers.base import rounded_contributions

__all__ = ["LinearScorer"]

Floats = npt.NDArray[np.float64]

_FILE = "ranker.npz"
_SHAPES: Final = {
    "coefficients": ArrayShape("<f8", 1),
    "missing": ArrayShape("<f8", 1),
    "bias": ArrayShape("<f8", 1),
}


class LinearScorer:
    """Scores with `bias` plus, for each column, its coefficient times its value. Immutable.

    `coefficients` and `missing` are float64[F] in the order of the spec: a column adds
    `coefficient * value`, and where its value is missing it adds its number of `missing`. What a
    trainer did to scale or fill columns is folded into these numbers. Scores are margins. Raises
    `BundleDamaged` for numbers that are not finite, `FeatureSpecMismatch` for another count.
    """

    name = "linear"

    def __init__(
        self,
        spec: FeatureSpec,
        coefficients: Floats,
        missing: Floats,
        bias: float,
        *,
        file: str = _FILE,
    ) -> None:
        self.spec = spec
        self.coefficients = np.asarray(coefficients, np.float64)
        self.missing = np.asarray(missing, np.float64)
        self.bias = float(bias)
        named = len(spec.names)
        if {self.coefficients.shape, self.missing.shape} != {(named,)}:
            raise FeatureSpecMismatch(
                f"{file} has {self.coefficients.shape} coefficients and {self.missing.shape} "
                f"numbers for what is missing, and its spec names {named} columns: save the model "
                "together with the spec that it was trained with"
            )
        if not np.isfinite([*self.coefficients, *self.missing, self.bias]).all():
            raise BundleDamaged(f"{file} has numbers that are not finite: train anew")

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        """The sum, float32[n], computed in float64."""
        return self._sum(self._terms(features)).astype(np.float32)

    def contributions(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        """The terms of the sum, float32[n, F + 1], the bias last."""
        terms = self._terms(features)
        added = np.column_stack([terms, np.full(len(terms), self.bias)])
        return rounded_contributions(added, self._sum(terms).astype(np.float32))

    def pack(self) -> bytes:
        """The bytes of its `.npz` file: `coefficients`, `missing` and `bias`, float64."""
        return pack_arrays(
            {
                "coefficients": self.coefficients,
                "missing": self.missing,
                "bias": np.array([self.bias]),
            }
        )

    @classmethod
    def parse(cls, spec: FeatureSpec, content: bytes, file: str = _FILE) -> Self:
        """Read the bytes of a `.npz` file, called `file` in errors; raises `BundleDamaged`."""
        arrays = unpack_arrays(content, file, _SHAPES)
        if arrays["bias"].shape != (1,):
            raise BundleDamaged(f"{file} is damaged: it has not one bias; train anew")
        return cls(
            spec, arrays["coefficients"], arrays["missing"], float(arrays["bias"][0]), file=file
        )

    def _terms(self, features: FeatureMatrix) -> Floats:
        if features.names != self.spec.names:
            raise FeatureSpecMismatch(
                f"the linear scorer reads the columns {', '.join(self.spec.names)}, in this order, "
                f"and was given {', '.join(features.names)}: build the matrix from its own spec"
            )
        values = features.values.astype(np.float64)
        return np.where(np.isnan(values), self.missing, values * self.coefficients)

    def _sum(self, terms: Floats) -> Floats:
        """Row by row along C order, so that a row's bits do not depend on how many there are."""
        total: Floats = terms.sum(axis=1) + self.bias
        return total
