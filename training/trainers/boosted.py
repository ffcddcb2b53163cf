"""XGBoost `rank:ndcg` on requests, stopped early on validation."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ranking.features import FEATURES
from ranking.scorers.boosted import BoostedScorer
from training.config import BoostedConfig, BoostedVariant
from training.errors import TooFewEvents
from training.trainers.base import Stopwatch
from training.trainers.rows import (
    Examples,
    Fitted,
    OnRound,
    check_teaching,
    position_apart,
    user_weights,
)

__all__ = ["BoostedTrainer", "features_of", "grow"]


@dataclass(frozen=True, slots=True)
class BoostedTrainer:
    """Trains one variant; the model is cut after the best round.

    `figures` has `trees`, `seconds` and `validation_score`, XGBoost's weighted NDCG that stopped
    it.
    """

    variant: BoostedVariant
    config: BoostedConfig
    k: int = 10

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.variant.name

    def fit(
        self,
        train: Examples,
        validation: Examples,
        *,
        seed: int = 0,
        on_round: OnRound | None = None,
    ) -> Fitted:
        """See `RowTrainer.fit`; looks at validation after each `ask_every` trees."""
        watch = Stopwatch()
        check_teaching(train, train.relevance > 0, self.name)
        if not (validation.relevance > 0).any():
            raise TooFewEvents(
                f"{self.name}: no candidate of the {len(validation.sizes)} validation requests was "
                "engaged with, so nothing says when to stop: record more engagements"
            )
        names = train.taught(features_of(self.variant, train.names))
        matrix = self._matrix(train, names)
        held_out = self._matrix(validation, names, matrix)
        booster, trees, score = grow(
            self.parameters(names, seed), matrix, held_out, self.config, on_round
        )
        return self._fitted(booster[:trees], train, names, {"validation_score": score}, watch)

    def refit(self, data: Examples, trees: int, *, seed: int = 0) -> Fitted:
        """Train on all of the data with the number of trees that validation chose."""
        import xgboost  # noqa: PLC0415 - a second that only workers pay

        watch = Stopwatch()
        check_teaching(data, data.relevance > 0, self.name)
        names = data.taught(features_of(self.variant, data.names))
        matrix = self._matrix(data, names)
        booster = xgboost.train(self.parameters(names, seed), matrix, num_boost_round=trees)
        return self._fitted(booster, data, names, {}, watch)

    def _fitted(
        self,
        booster: Any,  # Any: XGBoost has no types
        data: Examples,
        names: tuple[str, ...],
        figures: dict[str, float],
        watch: Stopwatch,
    ) -> Fitted:
        scorer = BoostedScorer(data.spec(names), bytes(booster.save_raw("ubj")))
        trees = float(booster.num_boosted_rounds())
        return Fitted(scorer, figures | {"trees": trees, "seconds": watch.seconds})

    def _matrix(self, data: Examples, names: tuple[str, ...], like: Any = None) -> Any:
        # Any: XGBoost has no types. `like` lends its bins, so that both are cut alike.
        import xgboost  # noqa: PLC0415

        asked = data.sizes > 0
        return xgboost.QuantileDMatrix(
            data.matrix(names).values,
            label=data.relevance.astype(np.float32),
            group=data.sizes[asked],
            weight=user_weights(data.users[asked], self.config.user_weight_power),
            feature_names=list(names),
            missing=np.nan,
            nthread=self.config.threads,
            ref=like,
        )

    def parameters(self, names: tuple[str, ...], seed: int) -> dict[str, Any]:
        """XGBoost's parameters for these features; Any: its own names and values."""
        config = self.config
        return {
            "objective": "rank:ndcg",
            "eval_metric": f"ndcg@{self.k}-",  # requests without a relevant one count 0
            "tree_method": "hist",
            "max_depth": self.variant.depth,
            "learning_rate": config.learning_rate,
            "min_child_weight": config.rows_per_leaf_min,
            "lambda": config.l2,
            "subsample": config.rows_share,
            "colsample_bytree": config.columns_share,
            "lambdarank_pair_method": "topk",
            "lambdarank_num_pair_per_sample": config.pairs_per_candidate,
            "ndcg_exp_gain": False,
            "interaction_constraints": position_apart(names),
            "nthread": config.threads,
            "seed": seed,
            "verbosity": 0,
        }


def grow(
    parameters: dict[str, Any],  # Any: XGBoost's own names and values
    matrix: Any,  # Any: XGBoost has no types
    held_out: Any,
    config: BoostedConfig,
    on_round: OnRound | None = None,
    *,
    rising: bool = True,
) -> tuple[Any, int, float]:
    """A booster, its best number of trees, and how good that was on `held_out` (higher is better).

    XGBoost's own loop asks validation after every tree, which takes three times as long as growing
    the tree. `rising` False says that less of the metric is better; it is negated then.
    """
    import xgboost  # noqa: PLC0415 - a second that only workers pay

    booster = xgboost.Booster(parameters, [matrix, held_out])
    best, best_score = 0, -np.inf
    for tree in range(1, config.trees_max + 1):
        booster.update(matrix, tree - 1)
        if tree % config.ask_every and tree != config.trees_max:
            continue
        score = float(booster.eval(held_out).rpartition(":")[2]) * (1 if rising else -1)
        if on_round is not None:
            on_round(tree, score)
        if score > best_score:
            best, best_score = tree, score
        elif tree - best >= config.stop_rounds:
            break
    return booster, best, best_score


def features_of(variant: BoostedVariant, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the set's features that the variant reads, in the set's order."""
    if variant.families is None:
        return names
    return tuple(name for name in names if FEATURES[name].family in variant.families)
