"""The value model: one probability for each kind of engagement, and their weighted sum.

A head says how likely an engagement of its kind is; what it is worth is the tenant's to say, below
0 too. So the score is expected value, and it is taken apart by feature as exactly as each head is.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from feeds.events import ENGAGEMENT_KINDS
from ranking.errors import FeatureSpecMismatch
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.scorers.base import (
    ExplainingScorer,
    Scorer,
    column_places,
    rounded_contributions,
)
from ranking.scorers.calibration import Calibration, Platt

__all__ = ["HEAD_KINDS", "ExplainedHead", "Head", "ValueScorer"]

Floats = npt.NDArray[np.float64]

HEAD_KINDS: Final[tuple[str, ...]] = ENGAGEMENT_KINDS
"""What a head may be for: the kinds that a ranking config has weights for."""


_LOG_ODDS: Final = Platt()


@dataclass(frozen=True, slots=True)
class Head:
    """How likely an engagement of one kind is: a scorer, and what makes its scores probabilities.

    Where `calibration` is None they are probabilities already.
    """

    kind: str
    scorer: Scorer
    calibration: Calibration | None = _LOG_ODDS

    def probabilities(self, features: FeatureMatrix) -> Floats:
        """The probability of the engagement, float64[n]; NaN where the scorer has no opinion."""
        return self._likely(self.scorer.score(features).astype(np.float64))

    def contributions(self, features: FeatureMatrix) -> Floats | None:
        """What each feature added to the probability, float64[n, F + 1], the bias last.

        What the scorer says in margins is scaled by the slope of the straight line from the
        probability at its bias to the one at its margin, so that rows add up to the probability
        (the rescale rule of DeepLIFT, Shrikumar 2017). None where the scorer cannot say.
        """
        if not isinstance(self.scorer, ExplainingScorer):
            return None
        told = self.scorer.contributions(features)
        if told is None:
            return None
        added, bias = told[:, :-1].astype(np.float64), told[:, -1].astype(np.float64)
        margins = added.sum(axis=1) + bias
        likely, at_bias = self._likely(margins), self._likely(bias)
        moved = margins - bias
        flat = np.abs(moved) < 1e-12  # noqa: PLR2004 - all the features together moved nothing
        slope = (likely - at_bias) / np.where(flat, 1.0, moved)
        return np.column_stack([added * slope[:, None], np.where(flat, likely, at_bias)])

    def _likely(self, scores: Floats) -> Floats:
        return scores if self.calibration is None else self.calibration.probability(scores)


@dataclass(frozen=True, slots=True)
class ExplainedHead:
    """What a head says of n activities, and what that is worth.

    `probability` is float32[n]; `contributions`, float32[n, F + 1] over `columns` with the bias
    last, add up to it within 1e-5, and are None where the head cannot say. The score is the sum
    over the heads of `weight * probability`.
    """

    kind: str
    weight: float
    columns: tuple[str, ...]
    probability: npt.NDArray[np.float32]
    contributions: npt.NDArray[np.float32] | None


class ValueScorer:
    """Scores by expected value: the sum over the heads of weight times probability. Immutable.

    A kind without a weight counts nothing, and its head is not asked; where none counts, every
    score is 0. Where a head that counts has no opinion, neither has the sum. Heads read columns of
    their own; the spec is all of them, each once, and they must agree on its parameters. Raises
    `ValueError` for no heads, two of one kind, or a weight that is no number, and
    `FeatureSpecMismatch` where the specs do not agree.
    """

    name = "value"

    def __init__(self, heads: Sequence[Head], weights: Mapping[str, float]) -> None:
        kinds = [head.kind for head in heads]
        if not heads or len(set(kinds)) < len(kinds):
            raise ValueError(
                f"a value model has heads for {', '.join(kinds) or 'nothing'}: give at least one, "
                "and one for each kind"
            )
        self.heads = tuple(heads)
        self.weights = _checked(weights)
        self.spec = _whole_spec([head.scorer.spec for head in heads])

    def weighed(self, weights: Mapping[str, float]) -> Self:
        """The same heads with other weights. Cost: a few microseconds."""
        other = copy.copy(self)
        other.weights = _checked(weights)
        return other

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        """The expected value of each activity, float32[n]."""
        total = np.zeros(len(features))
        for head, weight in self._counting():
            total += weight * head.probabilities(_columns(features, head.scorer.spec))
        return total.astype(np.float32)

    def contributions(self, features: FeatureMatrix) -> npt.NDArray[np.float32] | None:
        """What each feature added to the value, float32[n, F + 1], the bias last; slow.

        None where a head cannot say.
        """
        added = np.zeros((len(features), len(self.spec.names) + 1))
        for head, weight in self._counting():
            spec = head.scorer.spec
            told = head.contributions(_columns(features, spec))
            if told is None:
                return None
            added[:, [*map(self.spec.names.index, spec.names), -1]] += weight * told
        return rounded_contributions(added, self.score(features))

    def explained(self, features: FeatureMatrix) -> tuple[ExplainedHead, ...]:
        """What each head says, those without a weight too; slow."""
        return tuple(self._explained(head, features) for head in self.heads)

    def _explained(self, head: Head, features: FeatureMatrix) -> ExplainedHead:
        own = _columns(features, head.scorer.spec)
        likely, told = head.probabilities(own).astype(np.float32), head.contributions(own)
        return ExplainedHead(
            kind=head.kind,
            weight=self.weights.get(head.kind, 0.0),
            columns=own.names,
            probability=likely,
            contributions=None if told is None else rounded_contributions(told, likely),
        )

    def probabilities(self, features: FeatureMatrix) -> dict[str, npt.NDArray[np.float32]]:
        """The probability of each kind of engagement, float32[n], whatever it is worth."""
        return {
            head.kind: head.probabilities(_columns(features, head.scorer.spec)).astype(np.float32)
            for head in self.heads
        }

    def _counting(self) -> Iterator[tuple[Head, float]]:
        """The heads whose kind has a weight, with it."""
        for head in self.heads:
            if weight := self.weights.get(head.kind, 0.0):
                yield head, weight


def _checked(weights: Mapping[str, float]) -> dict[str, float]:
    if wrong := [kind for kind, weight in weights.items() if not np.isfinite(weight)]:
        raise ValueError(f"the weights of {', '.join(wrong)} are no numbers: give finite ones")
    return dict(weights)


def _whole_spec(specs: Sequence[FeatureSpec]) -> FeatureSpec:
    """Every column of the specs once, in the order in which they come."""
    if len({spec.parameters for spec in specs}) > 1:
        raise FeatureSpecMismatch(
            "the heads of a value model were trained with different feature parameters: train them "
            "together"
        )
    names = dict.fromkeys(name for spec in specs for name in spec.names)
    return FeatureSpec(tuple(names), parameters=specs[0].parameters)


def _columns(features: FeatureMatrix, spec: FeatureSpec) -> FeatureMatrix:
    """The columns of a spec, in its order, as its scorer expects them."""
    if features.names == spec.names:
        return features
    places = column_places(ValueScorer.name, spec.names, features.names)
    return FeatureMatrix(spec.names, np.ascontiguousarray(features.values[:, places]))
