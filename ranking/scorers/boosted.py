"""Gradient boosted trees (XGBoost), one thread: several processes beat several threads here."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ranking.errors import BundleDamaged, FeatureSpecMismatch
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.scorers.forest import evaluator

__all__ = ["BoostedScorer"]

_FILE = "ranker.ubj"


class BoostedScorer:
    """Scores with the trees of an XGBoost model. Immutable; several threads may score at once.

    `content` are the model's bytes as UBJ (`booster.save_raw("ubj")`); they are trusted: XGBoost
    may crash the process on others, so a bundle checks them against its manifest first.
    `iterations` are the first round and the one after the last that take part, (0, 0) for all.
    Scores are margins, before any logistic function, so that contributions add up to them.
    `file` is what errors call the content.
    Raises `BundleDamaged` for what is no model, `FeatureSpecMismatch` for a model of other columns.
    """

    name = "boosted"

    def __init__(
        self,
        spec: FeatureSpec,
        content: bytes,
        iterations: tuple[int, int] = (0, 0),
        *,
        file: str = _FILE,
    ) -> None:
        self.spec = spec
        self.content = content
        self.iterations = iterations
        self._booster = _load(content, file)
        self._check(file)
        self._margins = evaluator(self._booster, iterations)

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        """The sum of the trees' leaves, float32[n]; NaN features take each tree's default way."""
        self._check_names(features)
        if not len(features.values):
            return np.zeros(0, np.float32)
        return self._margins(features.values)

    def contributions(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        """What each feature added (exact SHAP values), float32[n, F + 1], the bias last; slow."""
        import xgboost  # noqa: PLC0415  (up to 3 s: only where there is a model)

        self._check_names(features)
        if not len(features.values):
            return np.zeros((0, len(self.spec.names) + 1), np.float32)
        matrix = xgboost.DMatrix(features.values, missing=np.nan, nthread=1)
        contributions: npt.NDArray[np.float32] = self._booster.predict(
            matrix, pred_contribs=True, iteration_range=self.iterations, validate_features=False
        )
        return contributions

    def _check_names(self, features: FeatureMatrix) -> None:
        if features.names != self.spec.names:
            raise FeatureSpecMismatch(
                f"the boosted scorer reads the columns {', '.join(self.spec.names)}, in this order,"
                f" and was given {', '.join(features.names)}: build the matrix from its own spec"
            )

    def _check(self, file: str) -> None:
        columns, named = self._booster.num_features(), len(self.spec.names)
        if columns != named:
            raise FeatureSpecMismatch(
                f"{file} was trained on {columns} columns and its spec names {named}: "
                "save the model together with the spec that it was trained with"
            )
        trained = self._booster.feature_names
        if trained is not None and tuple(trained) != self.spec.names:
            raise FeatureSpecMismatch(
                f"{file} was trained on the columns {', '.join(trained)} and its spec names "
                f"{', '.join(self.spec.names)}: save the model with the spec it was trained with"
            )
        first, after = self.iterations
        if not 0 <= first <= after <= self._booster.num_boosted_rounds():
            raise BundleDamaged(
                f"{file} has {self._booster.num_boosted_rounds()} rounds, and rounds {first} to "
                f"{after} are asked for: train anew"
            )


def _load(content: bytes, file: str) -> Any:  # Any: xgboost is untyped here
    """The booster in these bytes."""
    import xgboost  # noqa: PLC0415  (up to 3 s: only where there is a model)

    if content[:1] != b"{":
        raise BundleDamaged(f"{file} is damaged: it is not a model; fetch the bundle again")
    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(content))
    except xgboost.core.XGBoostError as error:
        line = str(error).strip().splitlines()[0]
        raise BundleDamaged(
            f"{file} is damaged: XGBoost cannot read it ({line}); fetch the bundle again"
        ) from error
    booster.set_param({"nthread": 1})
    return booster
