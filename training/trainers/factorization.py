"""LightFM: vectors of users and activities, and of their features; the only importer of LightFM.

A user or an activity is the sum of its own vector and its features' (Kula 2015, "Metadata
Embeddings for User and Item Cold-start Recommendations"). One without any engagement has learnt no
vector of its own, only the noise it started with: it is its features' alone, here and in serving.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from training.errors import TrainingError
from training.trainers.base import Embedded, FactorModel, Floats, OnEpoch
from training.trainers.matrices import checked, checked_features

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["FactorizationTrainer"]


@dataclass(frozen=True, slots=True)
class FactorizationTrainer:
    """Hyperparameters of LightFM. `loss` "warp" and "bpr" learn an order, "logistic" a probability.

    WARP: Weston, Bengio and Usunier, "WSABIE", IJCAI 2011; BPR: Rendle and others, UAI 2009.
    """

    loss: Literal["warp", "bpr", "logistic"] = "warp"
    dimensions: int = 32
    """Length of a vector."""
    epochs: int = 30
    """Passes over the engagements."""
    learning_rate: float = 0.05
    """First step size of Adagrad."""
    user_l2: float = 1e-5
    """Penalty on the vectors of users and their features."""
    activity_l2: float = 1e-5
    """Penalty on the vectors of activities and their features."""
    tries_max: int = 10
    """Activities that WARP draws before it gives up finding one that is ranked too high."""
    threads: int = 1
    """Threads; more than one race on the same vectors, and no seed repeats that."""

    @property
    def name(self) -> str:
        """The model's name: the loss."""
        return self.loss

    def fit(
        self,
        interactions: "sparse.csr_matrix",
        *,
        user_features: "sparse.csr_matrix | None" = None,
        activity_features: "sparse.csr_matrix | None" = None,
        seed: int = 0,
        on_epoch: OnEpoch | None = None,
    ) -> FactorModel:
        """See `MatrixTrainer.fit`; weights of the interactions are weights of the samples."""
        matrix = checked(interactions)
        users, activities = matrix.shape
        given = checked_features(activity_features, activities, "activity")
        user_side = _Side.of(matrix.getnnz(axis=1), checked_features(user_features, users, "user"))
        activity_side = _Side.of(matrix.getnnz(axis=0), given)

        def model() -> FactorModel:
            vectors, biases = library.item_embeddings, library.item_biases
            own = Embedded(vectors[activities:].copy(), biases[activities:].copy())
            return FactorModel(
                user_side.embedded(library.user_embeddings, library.user_biases),
                activity_side.embedded(vectors, biases),
                None if given is None else own,
            )

        library = self._library(seed)
        wanted = matrix.tocoo()
        weights = None if (wanted.data == 1).all() else wanted
        for epoch in range(1, self.epochs + 1):
            self._pass(library, wanted, weights, user_side, activity_side)
            if on_epoch is not None:
                on_epoch(epoch, model())
        return model()

    def _library(self, seed: int) -> Any:  # Any: LightFM has no types
        from lightfm import LightFM  # noqa: PLC0415 - only who trains pays for it

        return LightFM(
            no_components=self.dimensions,
            loss=self.loss,
            learning_rate=self.learning_rate,
            user_alpha=self.user_l2,
            item_alpha=self.activity_l2,
            max_sampled=self.tries_max,
            random_state=seed,
        )

    def _pass(
        self,
        library: Any,
        wanted: "sparse.coo_matrix",
        weights: "sparse.coo_matrix | None",
        users: "_Side",
        activities: "_Side",
    ) -> None:
        try:
            library.fit_partial(
                wanted,
                user_features=users.taught,
                item_features=activities.taught,
                sample_weight=weights,
                epochs=1,
                num_threads=self.threads,
            )
        except ValueError as error:  # LightFM looks for numbers that are not finite
            raise TrainingError(
                f"LightFM diverged with {self}: give a smaller learning_rate ({error})"
            ) from error


@dataclass(frozen=True, slots=True)
class _Side:
    """Users or activities: what LightFM learns from, and what represents them afterwards."""

    taught: "sparse.csr_matrix"
    """float32[n, n + f]: each is itself and its features."""
    known: "sparse.csr_matrix"
    """The same, where those without an engagement are their features alone."""

    @classmethod
    def of(
        cls, engagements: npt.NDArray[np.integer], features: "sparse.csr_matrix | None"
    ) -> "_Side":
        from scipy import sparse  # noqa: PLC0415 - only who trains pays for it

        def with_features(own: Any) -> Any:  # Any: scipy has no types
            whole = own if features is None else sparse.hstack([own, features])
            return sparse.csr_matrix(whole, dtype=np.float32)

        itself = sparse.identity(len(engagements), np.float32, format="csr")
        warm = sparse.diags((engagements > 0).astype(np.float32), format="csr")
        return cls(with_features(itself), with_features(warm))

    def embedded(self, vectors: Floats, biases: Floats) -> Embedded:
        return Embedded(
            np.asarray(self.known @ vectors, np.float32),
            np.asarray(self.known @ biases, np.float32),
        )
