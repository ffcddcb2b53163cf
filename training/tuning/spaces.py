"""The spaces that are searched for each trainer, and how a trainer is judged on validation."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from ranking.features import FeatureMatrix
from training.config import BoostedConfig, BoostedVariant
from training.errors import TooFewEvents
from training.evaluation.rankings import mean_ndcg
from training.sets.dataset import TrainingSet
from training.trainers.als import AlsTrainer
from training.trainers.base import MatrixModel, MatrixTrainer
from training.trainers.boosted import BoostedTrainer
from training.trainers.ease import EaseTrainer
from training.trainers.factorization import FactorizationTrainer
from training.trainers.logistic import LogisticTrainer
from training.trainers.rows import Examples, RowTrainer
from training.tuning.search import Draws, Judge, Space, Told

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["MATRIX_SPACES", "judge_of_matrices", "judge_of_rows", "matrix_ndcg", "row_spaces"]


def _ease(draws: Draws) -> MatrixTrainer:
    return EaseTrainer(l2=draws.suggest_float("l2", 10, 5_000, log=True))


def _als(draws: Draws) -> MatrixTrainer:
    return AlsTrainer(
        dimensions=draws.suggest_int("dimensions", 8, 128, log=True),
        l2=draws.suggest_float("l2", 0.1, 200, log=True),
        alpha=draws.suggest_float("alpha", 0.5, 40, log=True),
        epochs=draws.suggest_int("epochs", 5, 30),
    )


def _warp(draws: Draws) -> MatrixTrainer:
    penalty = draws.suggest_float("l2", 1e-7, 1e-3, log=True)
    return FactorizationTrainer(
        dimensions=draws.suggest_int("dimensions", 8, 128, log=True),
        epochs=draws.suggest_int("epochs", 5, 80, log=True),
        learning_rate=draws.suggest_float("learning_rate", 0.005, 0.1, log=True),
        user_l2=penalty,
        activity_l2=penalty,
        tries_max=draws.suggest_int("tries_max", 5, 50, log=True),
    )


MATRIX_SPACES: Final[Mapping[str, Space[MatrixTrainer]]] = MappingProxyType(
    {
        "ease": Space({"l2": 500.0}, _ease),
        "als": Space({"dimensions": 32, "l2": 75.0, "alpha": 12.5, "epochs": 20}, _als),
        "warp": Space(
            {
                "l2": 1e-5,
                "dimensions": 32,
                "epochs": 30,
                "learning_rate": 0.05,
                "tries_max": 10,
            },
            _warp,
        ),
    }
)
"""By the trainer's name; the first values are its defaults."""


_SEARCHED: Final = (
    "learning_rate",
    "rows_per_leaf_min",
    "l2",
    "rows_share",
    "columns_share",
    "pairs_per_candidate",
    "user_weight_power",
)
"""What is searched for of a `BoostedConfig`."""


def row_spaces(
    config: BoostedConfig, k: int, families: tuple[str, ...] | None = None
) -> Mapping[str, Space[RowTrainer]]:
    """Boosted trees and logistic regression; `config` has what is not searched for."""

    def boosted(draws: Draws) -> RowTrainer:
        depth = draws.suggest_int("depth", 2, 8)
        tried = replace(
            config,
            learning_rate=draws.suggest_float("learning_rate", 0.02, 0.3, log=True),
            rows_per_leaf_min=draws.suggest_float("rows_per_leaf_min", 0.5, 50, log=True),
            l2=draws.suggest_float("l2", 0.1, 100, log=True),
            rows_share=draws.suggest_float("rows_share", 0.4, 1.0),
            columns_share=draws.suggest_float("columns_share", 0.3, 1.0),
            pairs_per_candidate=draws.suggest_int("pairs_per_candidate", 1, 32, log=True),
            user_weight_power=draws.suggest_float("user_weight_power", 0.0, 1.0),
        )
        return BoostedTrainer(BoostedVariant("boosted-tuned", depth, families), tried, k)

    def logistic(draws: Draws) -> RowTrainer:
        return LogisticTrainer(
            strength=draws.suggest_float("strength", 1e-4, 100, log=True),
            user_weight_power=draws.suggest_float("user_weight_power", 0.0, 1.0),
        )

    depth = config.variants[0].depth if config.variants else 4
    first = {"depth": depth, **{name: getattr(config, name) for name in _SEARCHED}}
    return {
        "boosted": Space(first, boosted),
        "logistic": Space({"strength": 1.0, "user_weight_power": 0.5}, logistic),
    }


def judge_of_rows(
    train: TrainingSet, validation: TrainingSet, k: int, seed: int
) -> Judge[RowTrainer]:
    """NDCG at k on the validation requests; trees tell XGBoost's own as they grow."""
    examples, held = Examples.of(train), Examples.of(validation)

    def judge(trainer: RowTrainer, told: Told) -> float:
        scorer = trainer.fit(examples, held, seed=seed, on_round=told).scorer
        matrix: FeatureMatrix = validation.columns(scorer.spec.names)
        return mean_ndcg(validation, scorer.score(matrix), k)

    return judge


def judge_of_matrices(
    train: "sparse.csr_matrix",
    held: "sparse.csr_matrix",
    k: int,
    seed: int,
    *,
    user_features: "sparse.csr_matrix | None" = None,
    activity_features: "sparse.csr_matrix | None" = None,
    looks: int = 10,
) -> Judge[MatrixTrainer]:
    """NDCG at k of what was held back, over the users who have some.

    It is told `looks` times, at equal shares of a trainer's own passes and not at equal passes:
    half way, whoever takes many small steps is not behind yet, and is not pruned for it.
    """

    def judge(trainer: MatrixTrainer, told: Told) -> float:
        epochs = int(getattr(trainer, "epochs", 1))

        def look(epoch: int, model: MatrixModel) -> None:
            step = epoch * looks // epochs
            if step > (epoch - 1) * looks // epochs:
                told(step, matrix_ndcg(model, train, held, k))

        model = trainer.fit(
            train,
            user_features=user_features,
            activity_features=activity_features,
            seed=seed,
            on_epoch=look,
        )
        return matrix_ndcg(model, train, held, k)

    return judge


_CELLS_MAX: Final = 20_000_000
"""Scores held at once: 80 MB."""


def matrix_ndcg(
    model: MatrixModel, seen: "sparse.csr_matrix", wanted: "sparse.csr_matrix", k: int
) -> float:
    """NDCG at k, mean over the users who want something; every unseen activity is a candidate.

    Raises `TooFewEvents` where nobody wants anything.
    """
    users = np.flatnonzero(wanted.getnnz(axis=1))
    if not len(users):
        raise TooFewEvents("no user of the validation part engaged with anything known before")
    step = max(1, _CELLS_MAX // max(1, wanted.shape[1]))
    values = [
        _ndcg_of(model.scores(some), seen[some], wanted[some], k)
        for some in np.array_split(users, -(-len(users) // step))
    ]
    return float(np.concatenate(values).mean())


def _ndcg_of(
    scores: npt.NDArray[np.float32],
    seen: "sparse.csr_matrix",
    wanted: "sparse.csr_matrix",
    k: int,
) -> npt.NDArray[np.float64]:
    """float64[users]; gains 1, discount 1 / log2(place + 1)."""
    values = np.where(seen.toarray() > 0, -np.inf, scores)
    best = np.argsort(-values, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(wanted.toarray() > 0, best, axis=1)
    discounts = 1 / np.log2(np.arange(found.shape[1]) + 2)
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])
    totals = np.minimum(wanted.getnnz(axis=1), len(discounts))
    gained: npt.NDArray[np.float64] = (found * discounts).sum(axis=1) / ideal[totals]
    return gained
