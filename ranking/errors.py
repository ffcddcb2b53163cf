"""Every error of ranking.

RankingError
├── InvalidFeatureSpec      a feature spec that cannot be used; the message says what to change
│   └── UnknownFeature      it names a feature that the registry does not have
├── InvalidRankingConfig    a ranking config that cannot be used; every problem is told at once
├── FeatureSpecMismatch     a scorer was given columns other than those it was trained on
├── InvalidExpression       a ranking expression that cannot be used; every mistake is named
├── InvalidRankingVars      a request brings something other than numbers for an expression
├── InvalidScores           a scorer did not return one number for each candidate
├── InvalidMetricInput      a metric was given arrays that do not fit together
├── BundleDamaged           a model bundle is not what its manifest says; nothing was loaded
├── ModelNotFound           the tenant has no such version or alias
├── AliasConflict           an alias moved since it was last read; nothing was changed
└── RegistryUnavailable     the registry cannot be reached or read; a retry may succeed
"""

from collections.abc import Sequence

__all__ = [
    "AliasConflict",
    "BundleDamaged",
    "FeatureSpecMismatch",
    "InvalidExpression",
    "InvalidFeatureSpec",
    "InvalidMetricInput",
    "InvalidRankingConfig",
    "InvalidRankingVars",
    "InvalidScores",
    "ModelNotFound",
    "RankingError",
    "RegistryUnavailable",
    "UnknownFeature",
]


class RankingError(Exception):
    """Base of every error of this package; `str(error)` is a sentence for the user."""


class InvalidFeatureSpec(RankingError):
    """A feature spec that cannot be used; the message says what to change."""


class UnknownFeature(InvalidFeatureSpec):
    """A feature spec names a feature that the registry does not have; near names are given."""


class InvalidRankingConfig(RankingError):
    """A ranking config that cannot be used; `problems` holds every one as a sentence."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class FeatureSpecMismatch(RankingError):
    """A scorer was given columns other than those it was trained on."""


class InvalidExpression(RankingError):
    """A ranking expression that cannot be used; `problems` has a sentence for every mistake."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class InvalidRankingVars(RankingError):
    """A request brings something other than a number for a name that its expression reads."""


class InvalidScores(RankingError):
    """A scorer did not return one number for each candidate."""


class InvalidMetricInput(RankingError, ValueError):
    """Arrays whose shapes do not fit together, or a cut-off below 1."""


class BundleDamaged(RankingError):
    """A model bundle is not what its manifest says; the file and what to do are named."""


class ModelNotFound(RankingError):
    """The tenant has no such version or alias."""


class AliasConflict(RankingError):
    """An alias moved since it was last read; nothing was changed."""


class RegistryUnavailable(RankingError):
    """The registry cannot be reached or read; nothing was changed, and a retry may succeed."""
