"""XGBoost `rank:ndcg` on the requests of the ranker's window, stopped early on validation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ranking.features import FEATURES
from training.config import BoostedConfig, BoostedVariant
from training.dataset import TrainingSet, joined
from training.trainers.base import Stopwatch, Trained

__all__ = ["BoostedTrainer", "features_of", "user_weights"]

RANKER_SET = "ranker.npz"
VALIDATION_SET = "validation.npz"


@dataclass(frozen=True, slots=True)
class BoostedTrainer:
    """Trains one variant from `ranker.npz` and `validation.npz` in the source directory.

    The model is UBJ bytes, cut after the best round; `figures` has `trees`, `seconds` and
    `validation_score`, XGBoost's weighted NDCG that stopped it.
    """

    variant: BoostedVariant
    config: BoostedConfig
    k: int
    seed: int

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.variant.name

    def train(self, source: Path, out: Path) -> Trained:
        """Learn from the training sets in `source`."""
        watch = Stopwatch()
        train = TrainingSet.load(source / RANKER_SET)
        names = features_of(self.variant, train.names)
        validation = TrainingSet.load(source / VALIDATION_SET)
        matrix = self._matrix(train, names)
        held_out = self._matrix(validation, names, matrix)
        del train, validation
        booster, trees, score = self._grow(matrix, held_out)
        return self._write(booster[:trees], names, out, {"validation_score": score}, watch)

    def refit(self, source: Path, out: Path, trees: int) -> Trained:
        """Train again on both sets together, with the number of trees that validation chose."""
        import xgboost  # noqa: PLC0415 - a second that only workers pay

        watch = Stopwatch()
        both = joined(
            TrainingSet.load(source / RANKER_SET), TrainingSet.load(source / VALIDATION_SET)
        )
        names = features_of(self.variant, both.names)
        matrix = self._matrix(both, names)
        del both
        booster = xgboost.train(self._parameters(), matrix, num_boost_round=trees)
        return self._write(booster, names, out, {}, watch)

    def _grow(self, matrix: Any, held_out: Any) -> tuple[Any, int, float]:
        # Any: XGBoost has no types. Its own loop asks validation after every tree, which takes
        # three times as long as growing the tree.
        import xgboost  # noqa: PLC0415

        config = self.config
        booster = xgboost.Booster(self._parameters(), [matrix, held_out])
        best, best_score = 0, -np.inf
        for tree in range(1, config.trees_max + 1):
            booster.update(matrix, tree - 1)
            if tree % config.ask_every and tree != config.trees_max:
                continue
            score = float(booster.eval(held_out).rpartition(":")[2])
            if score > best_score:
                best, best_score = tree, score
            elif tree - best >= config.stop_rounds:
                break
        return booster, best, best_score

    def _write(
        self,
        booster: Any,  # Any: XGBoost has no types
        names: tuple[str, ...],
        out: Path,
        figures: dict[str, float],
        watch: Stopwatch,
    ) -> Trained:
        path = out / f"{self.name}.ubj"
        path.write_bytes(booster.save_raw("ubj"))
        figures |= {"trees": float(booster.num_boosted_rounds()), "seconds": watch.seconds}
        return Trained(self.name, path, names, figures)

    def _matrix(self, data: TrainingSet, names: tuple[str, ...], like: Any = None) -> Any:
        # Any: XGBoost has no types. `like` lends its bins, so that both are cut alike.
        import xgboost  # noqa: PLC0415

        asked = data.sizes > 0
        return xgboost.QuantileDMatrix(
            data.columns(names).values,
            label=data.labels.astype(np.float32),
            group=data.sizes[asked],
            weight=user_weights(np.array(data.users)[asked], self.config.user_weight_power),
            feature_names=list(names),
            missing=np.nan,
            nthread=self.config.threads,
            ref=like,
        )

    def _parameters(self) -> dict[str, Any]:  # Any: XGBoost's own names and values
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
            "nthread": config.threads,
            "seed": self.seed,
            "verbosity": 0,
        }


def features_of(variant: BoostedVariant, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the set's features that the variant reads, in the set's order."""
    if variant.families is None:
        return names
    return tuple(name for name in names if FEATURES[name].family in variant.families)


def user_weights(users: npt.NDArray[np.str_], power: float) -> npt.NDArray[np.float32]:
    """float32[q]: a weight for each request by its user's number of requests, 1 on average."""
    _, user, counts = np.unique(users, return_inverse=True, return_counts=True)
    weights = counts[user].astype(np.float64) ** -power
    return np.asarray(weights / weights.mean(), np.float32)
