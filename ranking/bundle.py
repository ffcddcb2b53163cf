"""A trained model as a directory of data: manifest.json, native files, a golden slate. No code.

manifest.json   what the model is, and size and SHA-256 of every other file
golden.npz      features of some candidates and the scores they must get, bit for bit
ranker.ubj      the trees of a boosted scorer (XGBoost's binary JSON)
ranker.npz      the coefficients of a linear scorer
head-like.ubj   trees, or head-like.npz coefficients, of one head of a value model; its calibration
                stands in the manifest
factors.npz     the vectors of a factorization
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

import msgspec
import numpy as np
import numpy.typing as npt

from feeds.errors import InvalidInput
from feeds.model import TenantId, check_tenant_id, format_time, parse_time
from ranking.arrays import ArrayShape, pack_arrays, unpack_arrays
from ranking.errors import BundleDamaged, RankingError
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.files import whole_directory
from ranking.manifest import (
    CURE,
    FACTORS,
    FORMAT_VERSION,
    GOLDEN,
    LIMITS,
    MANIFEST,
    BundleLimits,
    FileEntry,
    Manifest,
    ModelKind,
    read_files,
    read_manifest,
)
from ranking.scorer_files import (
    head_entries,
    kind_of,
    pack_scorer,
    parameters_of,
    restore_scorer,
)
from ranking.scorers.base import Scorer
from ranking.scorers.factorization import FactorTable
from ranking.scorers.value import ValueScorer

__all__ = ["BundleLimits", "ModelBundle", "ModelKind"]

_GOLDEN_SHAPES: Final = {"features": ArrayShape("<f4", 2), "scores": ArrayShape("<f4", 1)}
_PROBABILITIES: Final = {"probabilities": ArrayShape("<f4", 2)}
"""What the golden slate of a value model holds besides: float32[n, heads]."""


class ModelBundle:
    """A tenant's model: its scorer, its factors if it has any, and how to tell that it is sound.

    `golden` are features of some candidates, built by the scorer's spec, whose scores travel with
    the model. `trained_us` is microseconds since the epoch, `training_fingerprint` identifies the
    training set, `metrics` are finite numbers by name. Immutable. Raises `RankingError` for what
    could not be loaded again.
    """

    def __init__(
        self,
        tenant: TenantId,
        scorer: Scorer,
        golden: FeatureMatrix,
        *,
        factors: FactorTable | None = None,
        trained_us: int,
        training_fingerprint: str,
        metrics: Mapping[str, float],
        limits: BundleLimits = LIMITS,
    ) -> None:
        self.tenant = tenant
        self.golden = golden
        self.trained_us = trained_us
        self.training_fingerprint = training_fingerprint
        self.metrics: Mapping[str, float] = MappingProxyType(dict(metrics))
        self._scorer = scorer
        self._factors = factors
        self._limits = limits
        if problems := list(self._problems()):
            raise RankingError(f"this model cannot be bundled: {'; '.join(problems)}")
        self._scored = _scored(scorer, golden)

    @property
    def kind(self) -> ModelKind:
        """Which scorer the bundle holds."""
        return kind_of(self._scorer)

    @property
    def spec(self) -> FeatureSpec:
        """The features that the scorer reads."""
        return self._scorer.spec

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest, 64 hex digits: names this very bundle, every byte of it."""
        return hashlib.sha256(self._pack()[MANIFEST]).hexdigest()

    @cached_property
    def file_bytes(self) -> int:
        """Bytes of all its files but the manifest."""
        return sum(len(content) for name, content in self._pack().items() if name != MANIFEST)

    def scorer(self) -> Scorer:
        """The scorer; safe to use from several threads."""
        return self._scorer

    def factors(self) -> FactorTable | None:
        """The factorization behind `factor_dot` and `factor_bias`, if the model has one."""
        return self._factors

    def save(self, directory: Path) -> Path:
        """Write the bundle as a new directory, which appears whole or not at all.

        Raises `FileExistsError` where it exists.
        """
        contents = self._pack()
        for name, content in contents.items():
            if len(content) > self._limits.file_bytes_max:
                raise RankingError(
                    f"{name} would have {len(content)} bytes, more than file_bytes_max "
                    f"({self._limits.file_bytes_max}): train with fewer factors or trees"
                )
        with whole_directory(directory) as draft:
            for name, content in contents.items():
                (draft / name).write_bytes(content)
        return directory

    @classmethod
    def load(
        cls, directory: Path, limits: BundleLimits = LIMITS, *, digest: str | None = None
    ) -> Self:
        """Read a bundle, check every byte of it, and score its golden slate.

        With `digest`, it must be that very bundle. Raises `BundleDamaged` naming the file, what is
        wrong and what to do.
        """
        manifest, found = read_manifest(directory, limits)
        if digest not in {None, found}:
            raise BundleDamaged(f"{MANIFEST} is not the one that was published; {CURE}")
        contents = read_files(directory, manifest, limits)
        try:
            bundle = cls._restore(manifest, contents, limits)
        except BundleDamaged:
            raise
        except (RankingError, InvalidInput) as error:
            raise BundleDamaged(f"{MANIFEST} does not fit the files: {error}; {CURE}") from error
        # As they were written, not as we would write them.
        bundle.__dict__["digest"] = found
        bundle.__dict__["file_bytes"] = manifest.file_bytes
        return bundle

    @classmethod
    def _restore(
        cls, manifest: Manifest, contents: Mapping[str, bytes], limits: BundleLimits
    ) -> Self:
        shapes = _GOLDEN_SHAPES | (_PROBABILITIES if manifest.kind == "value" else {})
        golden = unpack_arrays(contents[GOLDEN], GOLDEN, shapes)
        packed = contents.get(FACTORS)
        bundle = cls(
            check_tenant_id(manifest.tenant),
            restore_scorer(manifest, contents),
            FeatureMatrix(manifest.spec.names, golden["features"]),
            factors=None if packed is None else FactorTable.parse(packed),
            trained_us=parse_time(manifest.trained_at),
            training_fingerprint=manifest.training_fingerprint,
            metrics=manifest.metrics,
            limits=limits,
        )
        scored = bundle._scored
        if any(scored[name].tobytes() != golden[name].tobytes() for name in scored):
            raise BundleDamaged(
                f"{GOLDEN}: the scorer gives the golden slate other scores than it had in "
                "training: train the model with the numpy and xgboost that serve it"
            )
        return bundle

    def _problems(self) -> Iterator[str]:
        """Why the parts cannot be one bundle, as ends of sentences."""
        golden, rows_max = self.golden, self._limits.golden_rows_max
        if golden.names != self.spec.names or golden.values.shape[1:] != (len(golden.names),):
            yield "the golden slate has other columns than the scorer's spec"
        if golden.values.dtype != np.float32 or not golden.values.flags.c_contiguous:
            yield "the golden slate is not float32 in C order"
        if not 1 <= len(golden) <= rows_max:
            yield f"the golden slate has {len(golden)} rows; golden_rows_max is {rows_max}"
        if self.kind == "factorization" and self._factors is None:
            yield "a factorization needs its factors"
        try:
            head_entries(self._scorer)
        except RankingError as error:
            yield str(error)
        dimensions_max = self._limits.dimensions_max
        if self._factors is not None and self._factors.dimensions > dimensions_max:
            yield f"factors of {self._factors.dimensions}; dimensions_max is {dimensions_max}"
        if endless := [name for name, value in self.metrics.items() if not math.isfinite(value)]:
            yield f"metrics must be finite, leave out {', '.join(endless)}"

    def _pack(self) -> dict[str, bytes]:
        """The files' content by name, manifest last."""
        arrays = {"features": self.golden.values, **self._scored}
        files = {GOLDEN: pack_arrays(arrays), **pack_scorer(self._scorer)}
        if self._factors is not None:
            files[FACTORS] = self._factors.pack()
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            kind=self.kind,
            tenant=self.tenant,
            spec=self.spec,
            parameters=parameters_of(self._scorer),
            trained_at=format_time(self.trained_us),
            training_fingerprint=self.training_fingerprint,
            metrics=dict(self.metrics),
            files={
                name: FileEntry(len(content), hashlib.sha256(content).hexdigest())
                for name, content in files.items()
            },
            heads=head_entries(self._scorer),
        )
        encoded = msgspec.json.encode(manifest, order="deterministic")
        return {**files, MANIFEST: msgspec.json.format(encoded, indent=2)}


def _scored(scorer: Scorer, golden: FeatureMatrix) -> dict[str, npt.NDArray[np.float32]]:
    """What the golden slate must give: the scores, and the probabilities of each head."""
    scored = {"scores": _canonical(scorer.score(golden))}
    if isinstance(scorer, ValueScorer):
        likely = scorer.probabilities(golden)
        scored["probabilities"] = _canonical(np.column_stack(list(likely.values())))
    return scored


def _canonical(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The scores with one and the same NaN, so that equal bytes mean equal scores."""
    return np.where(np.isnan(scores), np.float32(np.nan), scores)
