"""What a trainer is: hyperparameters, frozen; data and a seed go in, a model comes out.

There are two natural shapes. A **matrix trainer** learns from who engaged with what, a sparse
matrix of users by activities; its model scores every activity for any of the users. A **row
trainer** learns from the candidates of requests with their features (`rows`), and what it gives is
a scorer that serves as it is.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy import sparse

__all__ = [
    "DIMENSIONS_MAX",
    "Embedded",
    "FactorModel",
    "Floats",
    "MatrixModel",
    "MatrixTrainer",
    "OnEpoch",
    "Stopwatch",
]

Floats = npt.NDArray[np.float32]

DIMENSIONS_MAX: Final = 128
"""Length of the vectors that stand for a model which has none of its own."""


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

    def factors(self, dimensions_max: int = DIMENSIONS_MAX) -> Self:
        """Itself, whatever its dimensions."""
        del dimensions_max
        return self


class MatrixModel(Protocol):
    """A model of fixed users and activities, by their numbers. Immutable once `fit` returned it."""

    @property
    def shape(self) -> tuple[int, int]:
        """Users and activities."""
        ...

    def scores(self, users: npt.NDArray[np.integer]) -> Floats:
        """Higher is better: float32[len(users), activities], always finite.

        What a user engaged with in training is scored as everything else is; who does not want it
        again leaves it out. The scores of different users do not compare.
        """
        ...

    def factors(self, dimensions_max: int = DIMENSIONS_MAX) -> FactorModel:
        """The model as vectors, which a bundle holds and the request path multiplies.

        Models that are vectors already give themselves; others their best approximation in
        `dimensions_max`.
        """
        ...


OnEpoch = Callable[[int, MatrixModel], None]
"""Told after each pass over the data how many there were, and the model as it then is.

It may raise to end the training (Optuna's pruning does).
"""


class MatrixTrainer(Protocol):
    """Hyperparameters of a model of users by activities: a frozen dataclass, small, importable."""

    @property
    def name(self) -> str:
        """The model's name in reports and on the command line."""
        ...

    def fit(
        self,
        interactions: "sparse.csr_matrix",
        *,
        user_features: "sparse.csr_matrix | None" = None,
        activity_features: "sparse.csr_matrix | None" = None,
        seed: int = 0,
        on_epoch: OnEpoch | None = None,
    ) -> MatrixModel:
        """Learn from `interactions`, csr [users, activities] of weights above 0.

        Features are csr [users, f] and [activities, g]; a trainer that cannot use them leaves them
        alone. Equal inputs and seed give equal bytes. Raises `TooFewEvents` where there is nothing
        to learn from, and `TrainingError` for a matrix that is none of this kind.
        """
        ...


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return time.perf_counter() - self._start
