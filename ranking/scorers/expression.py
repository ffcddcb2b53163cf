"""Scores by a formula that the tenant wrote: no model is needed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace as replace_fields

from ranking.candidates import Query
from ranking.expressions import (
    VARIABLES,
    Expression,
    ExpressionConfig,
    Request,
    Variable,
    compiled,
)
from ranking.expressions.functions import Column, row_keys
from ranking.extractors.caller import CALLER
from ranking.features import COUNTS, FEATURES, FeatureMatrix, FeatureSpec
from ranking.scorers.base import column_places

__all__ = ["ExpressionScorer"]

_MICROSECONDS: Final = 1_000_000

_TELLING: Final = ("age_h", "engagements_total", "impressions_total", "length_bytes")
"""Features that tell activities apart, read where the expression draws random numbers."""


@dataclass(frozen=True, slots=True)
class ExpressionScorer:
    """Scores with a ranking expression. Immutable; `for_query` gives the scorer of one request.

    Without a request it is 1970, `external` has its defaults and the seed is 0: decays by time from
    the request's moment come out the same, since `time` is then minus the age. A draw follows from
    the seed and the row's features: rows with equal features draw alike.
    """

    name: ClassVar[str] = "expression"

    expression: Expression
    spec: FeatureSpec
    external: Mapping[str, float]
    now_s: float = 0.0
    seed: int = 0

    @classmethod
    def of(
        cls,
        document: object,
        *,
        variables: Mapping[str, Variable] = VARIABLES,
        config: ExpressionConfig | None = None,
    ) -> Self:
        """The scorer of a document; raises `InvalidExpression` naming every mistake in it."""
        expression = compiled(document, variables=variables, config=config)
        return cls(expression, FeatureSpec(_features(expression)), expression.externals({}))

    def for_query(self, query: Query, ranking_vars: Mapping[str, object] | None = None) -> Self:
        """The scorer of a request: with its moment, its seed and the numbers that it brings.

        What the caller brings with each candidate stands for `external` too, where it is there.
        Raises `InvalidRankingVars` where the expression reads what is no number. Cost: a few us.
        """
        brought = [CALLER + name for name in self.expression.external if name in query.caller]
        names = (*self.spec.names, *brought)
        return replace(
            self,
            spec=replace_fields(self.spec, names=names) if brought else self.spec,
            external=self.expression.externals(ranking_vars or {}),
            now_s=query.now_us / _MICROSECONDS,
            seed=query.seed,
        )

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        """The expression's value of each row, float32[n]; NaN where it is not finite."""
        columns, request = self._inputs(features)
        value = self.expression.evaluate(columns, request)
        with np.errstate(all="ignore"):
            scores = np.full(len(features), value).astype(np.float32)
        scores[~np.isfinite(scores)] = np.nan
        return scores

    def contributions(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        """The score as the bias, float32[n, F + 1]: a formula is not a sum over its features."""
        added = np.zeros((len(features), len(features.names) + 1), np.float32)
        added[:, -1] = self.score(features)
        return added

    def score_vars(self, features: FeatureMatrix) -> dict[str, npt.NDArray[np.float64]]:
        """What the expression read, by name: float64[n] each, defaults filled in."""
        read = self.expression.read(*self._inputs(features))
        return {name: np.full(len(features), column) for name, column in read.items()}

    def _inputs(self, features: FeatureMatrix) -> tuple[dict[str, Column], Request]:
        places = column_places(self.name, self.spec.names, features.names)
        raw = [features.values[:, place] for place in places]
        columns = {
            name: column.astype(np.float64)
            for name, column in zip(self.spec.names, raw, strict=True)
        }
        keys = row_keys(self.seed, raw) if self.expression.draws else None
        return columns, Request(self.now_s, self._external(columns), keys)

    def _external(self, columns: Mapping[str, Column]) -> Mapping[str, float | Column]:
        """The request's numbers, with the caller's in their place where it brought any."""
        external: dict[str, float | Column] = dict(self.external)
        for name, number in self.external.items():
            brought = columns.get(CALLER + name)
            if brought is not None:
                external[name] = np.where(np.isnan(brought), number, brought)
        return external


def _features(expression: Expression) -> tuple[str, ...]:
    """What the expression reads, in the order of the registry; a spec names one at least."""
    wanted = expression.features | (set(_TELLING) if expression.draws else set())
    return tuple(name for name in (*FEATURES, *COUNTS) if name in wanted) or _TELLING[:1]
