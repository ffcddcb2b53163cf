"""Scorers as the parts of a bundle: what the manifest says of each, its file, and back."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ranking.errors import RankingError
from ranking.features import FeatureSpec
from ranking.manifest import (
    HeadEntry,
    Manifest,
    ModelKind,
    ScorerParameters,
    SingleKind,
    scorer_file,
)
from ranking.scorers.base import Scorer
from ranking.scorers.boosted import BoostedScorer
from ranking.scorers.factorization import FactorizationScorer
from ranking.scorers.linear import LinearScorer
from ranking.scorers.popularity import PopularityScorer
from ranking.scorers.recency import RecencyScorer
from ranking.scorers.value import Head, ValueScorer

__all__ = ["head_entries", "kind_of", "pack_scorer", "parameters_of", "restore_scorer"]

_SINGLE: Final[Mapping[type, SingleKind]] = MappingProxyType(
    {
        RecencyScorer: "recency",
        PopularityScorer: "popularity",
        FactorizationScorer: "factorization",
        LinearScorer: "linear",
        BoostedScorer: "boosted",
    }
)


def kind_of(scorer: Scorer) -> ModelKind:
    """What the manifest calls the scorer; raises `RankingError` for what no bundle can hold."""
    return "value" if type(scorer) is ValueScorer else _single_kind(scorer)


def _single_kind(scorer: Scorer) -> SingleKind:
    kind = _SINGLE.get(type(scorer))  # not a subclass: what it adds would be lost
    if kind is None:
        known = ", ".join(each.__name__ for each in (*_SINGLE, ValueScorer))
        raise RankingError(
            f"a scorer of type {type(scorer).__name__} cannot be bundled: use one of {known}"
        )
    return kind


def parameters_of(scorer: Scorer) -> ScorerParameters:
    """What the manifest says of a scorer besides its file."""
    match scorer:
        case BoostedScorer():
            return ScorerParameters(iterations=scorer.iterations)
        case PopularityScorer():
            return ScorerParameters(column=scorer.column)
        case ValueScorer():
            return ScorerParameters(weights=dict(scorer.weights))
    return ScorerParameters()


def head_entries(scorer: Scorer) -> tuple[HeadEntry, ...]:
    """What the manifest says of the heads of a value model, none for other scorers.

    Raises `RankingError` for a head that no bundle can hold.
    """
    if not isinstance(scorer, ValueScorer):
        return ()
    return tuple(_head_entry(head) for head in scorer.heads)


def _head_entry(head: Head) -> HeadEntry:
    if type(head.scorer) is ValueScorer:
        raise RankingError(f"the head for {head.kind} is itself a value model: give one scorer")
    try:
        return HeadEntry(
            kind=head.kind,
            scorer=_single_kind(head.scorer),
            columns=head.scorer.spec.names,
            parameters=parameters_of(head.scorer),
            calibration=head.calibration,
        )
    except ValueError as error:
        raise RankingError(str(error)) from error


def pack_scorer(scorer: Scorer, head: str | None = None) -> dict[str, bytes]:
    """The files of a scorer by name: none where its parameters say all."""
    file = scorer_file(kind_of(scorer), head)
    match scorer:
        case ValueScorer():
            packed = (pack_scorer(each.scorer, each.kind) for each in scorer.heads)
            return {name: content for files in packed for name, content in files.items()}
        case BoostedScorer() if file:
            return {file: scorer.content}
        case LinearScorer() if file:
            return {file: scorer.pack()}
    return {}


def restore_scorer(manifest: Manifest, contents: Mapping[str, bytes]) -> Scorer:
    """The scorer that a manifest and its files describe; raises `RankingError` where they differ.

    `contents` has every file that the manifest must name.
    """
    if manifest.kind != "value":
        return _restored(manifest.kind, manifest.spec, manifest.parameters, contents)
    heads = [_restored_head(entry, manifest.spec, contents) for entry in manifest.heads]
    try:
        return ValueScorer(heads, manifest.parameters.weights)
    except ValueError as error:
        raise RankingError(str(error)) from error


def _restored_head(entry: HeadEntry, spec: FeatureSpec, contents: Mapping[str, bytes]) -> Head:
    own = FeatureSpec(entry.columns, version=spec.version, parameters=spec.parameters)
    scorer = _restored(entry.scorer, own, entry.parameters, contents, entry.kind)
    return Head(entry.kind, scorer, entry.calibration)


def _restored(
    kind: SingleKind,
    spec: FeatureSpec,
    parameters: ScorerParameters,
    contents: Mapping[str, bytes],
    head: str | None = None,
) -> Scorer:
    file = scorer_file(kind, head) or ""
    match kind:
        case "boosted":
            return BoostedScorer(spec, contents[file], parameters.iterations, file=file)
        case "linear":
            return LinearScorer.parse(spec, contents[file], file)
        case "factorization":
            return FactorizationScorer(spec)
        case "popularity":
            return PopularityScorer(spec, parameters.column)
        case "recency":
            return RecencyScorer(spec)
