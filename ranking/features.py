"""The registry of features, the spec that a model is trained on, and the matrix it reads.

One code for training and serving: `compute` is the only way to a feature matrix.
"""

import difflib
import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from ranking.candidates import Candidates, Query
from ranking.errors import InvalidFeatureSpec, UnknownFeature
from ranking.extractors import affinity, content, context, factors, popularity, recency, social
from ranking.extractors.base import Factors, Feature, FeatureParameters, Inputs
from ranking.extractors.caller import caller_feature
from ranking.extractors.served import ServedInputs
from ranking.table import ActivityTable

__all__ = [
    "COUNTS",
    "FEATURES",
    "FEATURES_VERSION",
    "OPTIONAL_FAMILIES",
    "Factors",
    "Feature",
    "FeatureMatrix",
    "FeatureParameters",
    "FeatureSpec",
    "build",
    "compute",
]

FEATURES_VERSION: Final = 1
"""Rises when a feature of the same name is computed otherwise: models must then be trained anew."""

FEATURES: Final[Mapping[str, Feature]] = MappingProxyType(
    {
        feature.name: feature
        for family in (recency, popularity, affinity, social, content, factors, context)
        for feature in family.FEATURES
    }
)
"""Every feature by name, in the order of the default spec."""

COUNTS: Final[Mapping[str, Feature]] = MappingProxyType(
    {feature.name: feature for feature in popularity.COUNTS}
)
"""Plain counts that ranking expressions read: a spec may name them, the default one does not."""

OPTIONAL_FAMILIES: Final = ("factors", "social")
"""Families that a read in a hurry may do without: their cost grows with follows and candidates."""

_REGISTRY: Final = {**FEATURES, **COUNTS}


class FeatureSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which features a model reads, in which order, and the numbers they are computed with.

    Raises `UnknownFeature` for a name the registry lacks, and `InvalidFeatureSpec` for a name given
    twice, no names, another version of the features, or parameters out of range.
    """

    names: tuple[str, ...] = tuple(FEATURES)
    version: int = FEATURES_VERSION
    parameters: FeatureParameters = FeatureParameters()

    def __post_init__(self) -> None:
        """Refuse what `build` could not honour."""
        for name in self.names:
            _feature(name)
        if problem := self._problem():
            raise InvalidFeatureSpec(problem)

    def _problem(self) -> str | None:
        prior, weight = self.parameters.rate_prior, self.parameters.rate_weight
        if not self.names:
            return "the feature spec names no feature: name at least one"
        if len(set(self.names)) < len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            return f"the feature spec names {', '.join(twice)} more than once: name each once"
        if self.version != FEATURES_VERSION:
            return (
                f"the feature spec is of version {self.version}, this code computes version "
                f"{FEATURES_VERSION}: train the model again"
            )
        if not 0 <= prior <= 1:
            return f"rate_prior is {prior}: give engagements per impression, 0 to 1"
        if not (weight > 0 and math.isfinite(weight)):
            return f"rate_weight is {weight}: give a number of impressions above 0"
        return None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the JSON form, 64 hex digits: equal for equal specs alone."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """The spec as JSON, the same bytes for the same spec."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def from_json(cls, text: bytes | str) -> "FeatureSpec":
        """Read what `to_json` wrote; raises `InvalidFeatureSpec` saying what is wrong."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidFeatureSpec(f"this is not a feature spec: {error}") from error


@dataclass(frozen=True, slots=True)
class FeatureMatrix:
    """The features of a query's candidates: a row each, float32[n, len(names)], C-contiguous.

    A missing value is NaN, never 0.
    """

    names: tuple[str, ...]
    values: npt.NDArray[np.float32]

    def __len__(self) -> int:
        """How many candidates there are."""
        return len(self.values)

    def column(self, name: str) -> npt.NDArray[np.float32]:
        """One feature, float32[n]; raises `UnknownFeature` if the matrix lacks it."""
        if name not in self.names:
            raise UnknownFeature(
                f"the feature matrix has no column {name!r}: add it to the feature spec"
            )
        return self.values[:, self.names.index(name)]

    def take(self, places: npt.NDArray[np.integer]) -> "FeatureMatrix":
        """The rows at these places, in their order."""
        return FeatureMatrix(self.names, self.values[places])


def build(
    spec: FeatureSpec,
    query: Query,
    candidates: Candidates,
    table: ActivityTable,
    factors: Factors | None = None,
    *,
    shown_at: npt.NDArray[np.integer] | None = None,
    missing: Collection[str] = (),
) -> FeatureMatrix:
    """The features that `spec` names, of each candidate, as of `query.now_us`.

    `shown_at` is int[n], the place of each impression in training (-1 unknown). Only what is named
    is computed, and the families in `missing` are missing. Cost: about 0.4 ms for all features of
    500 candidates.
    """
    inputs = ServedInputs(query, candidates, table, spec.parameters, factors, shown_at=shown_at)
    return compute(spec, inputs, missing)


def compute(spec: FeatureSpec, inputs: Inputs, missing: Collection[str] = ()) -> FeatureMatrix:
    """The features that `spec` names, of inputs that were made with its parameters.

    The families in `missing` are not computed: their columns are NaN.
    """
    columns = np.empty((len(spec.names), len(inputs)), dtype=np.float32)
    for place, feature in enumerate(_features(spec.names)):
        columns[place] = np.nan if feature.family in missing else feature.compute(inputs)
    return FeatureMatrix(spec.names, np.ascontiguousarray(columns.T))


@lru_cache(maxsize=1_024)
def _features(names: tuple[str, ...]) -> tuple[Feature, ...]:
    return tuple(map(_feature, names))


def _feature(name: str) -> Feature:
    """The feature of a name; raises `UnknownFeature`."""
    feature = _REGISTRY.get(name) or caller_feature(name)
    if feature is None:
        raise _unknown(name)
    return feature


def _unknown(name: str) -> UnknownFeature:
    near = difflib.get_close_matches(name, _REGISTRY, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "docs/features lists them all"
    return UnknownFeature(f"there is no feature {name!r}: {hint}")
