"""What a trainer is: hyperparameters, frozen; data and a seed go in, a model comes out.

There are two natural shapes. A **matrix trainer** learns from who engaged with what, a sparse
matrix of users by activities; its model scores every activity for any of the users. A **row
trainer** learns from the candidates of requests with their features (`rows`), and what it gives is
a scorer that serves as it is.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["Floats", "MatrixModel", "MatrixTrainer", "OnEpoch", "Stopwatch"]

Floats = npt.NDArray[np.float32]


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
