"""What the ranker asks of a scorer."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ranking.errors import FeatureSpecMismatch
from ranking.features import FeatureMatrix, FeatureSpec

__all__ = [
    "ExplainingScorer",
    "Scorer",
    "column_places",
    "only_added",
    "rounded_contributions",
]


@runtime_checkable
class Scorer(Protocol):
    """Turns features into scores. Immutable: one scorer serves many requests at once.

    `name` says which ranking this is; `spec` names the columns it reads, and a matrix built from
    that spec is what it expects.
    """

    @property
    def name(self) -> str:
        """Which ranking this is, such as `boosted`."""
        ...

    @property
    def spec(self) -> FeatureSpec:
        """The features this scorer reads."""
        ...

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        """One score a row, higher is better: float32[n], same length, same order.

        NaN means that the scorer has no opinion. Raises `FeatureSpecMismatch` where a column that
        the scorer reads is missing.
        """
        ...


@runtime_checkable
class ExplainingScorer(Scorer, Protocol):
    """A scorer that can say which feature moved a score by how much."""

    def contributions(self, features: FeatureMatrix) -> npt.NDArray[np.float32] | None:
        """What each feature added: float32[n, F + 1], last column the bias; slow.

        Rows add up to the score. None where this scorer cannot say.
        """
        ...


def column_places(scorer: str, wanted: tuple[str, ...], names: tuple[str, ...]) -> list[int]:
    """Where the wanted columns stand in `names`; raises `FeatureSpecMismatch` naming the absent."""
    absent = [name for name in wanted if name not in names]
    if absent:
        raise FeatureSpecMismatch(
            f"scorer {scorer} reads {', '.join(absent)}, which the feature matrix does not have: "
            "build the matrix from the scorer's own spec"
        )
    return [names.index(name) for name in wanted]


def only_added(
    features: FeatureMatrix, columns: Mapping[int, npt.NDArray[np.float32]]
) -> npt.NDArray[np.float32]:
    """Contributions, float32[n, F + 1], where these columns alone add something: no bias."""
    added = np.zeros((len(features), len(features.names) + 1), np.float32)
    for place, column in columns.items():
        added[:, place] = column
    return added


def rounded_contributions(
    added: npt.NDArray[np.float64], scores: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Contributions, float64[n, F + 1], as float32; the bias takes what rounding left.

    So rows add up to `scores`, float32[n], however large the single contributions are.
    """
    rounded = added.astype(np.float32)
    features_alone = rounded[:, :-1].astype(np.float64).sum(axis=1)
    rounded[:, -1] = scores.astype(np.float64) - features_alone
    return rounded
