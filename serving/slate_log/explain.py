"""A logged slate explained: scored again from the logged features by the versions that served it.

A model's version says what scores; the ranking config's says what a value model's engagements are
worth, and which expression orders a feed where no model does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feeds.counters import UserRecord
from feeds.errors import NotFound
from feeds.model import TenantId, UserId, format_time
from ranking.bundle import ModelBundle
from ranking.candidates import Query
from ranking.config import FeedOptions, RankingConfig
from ranking.errors import InvalidRankingConfig, RankingError
from ranking.explain import head_explanations
from ranking.extractors.caller import CALLER
from ranking.fallback import bound, fallback_scorer
from ranking.features import FeatureMatrix
from ranking.scorers.base import ExplainingScorer, Scorer
from ranking.scorers.recency import RecencyScorer
from ranking.scorers.value import ValueScorer
from ranking.slates import HeadExplanation
from serving.handover import is_bundle_name
from serving.rankers import LiveModel
from serving.slate_log.record import LoggedSlate

__all__ = ["ModelVersions", "Recomputed", "explain", "explanation_of", "recompute"]

_LOGGED: Final = "the values are those that were logged"


class _NotAtHand(Exception):
    """Why a slate cannot be scored again, as a sentence."""


@dataclass(frozen=True, slots=True)
class ModelVersions:
    """The versions that are at hand: the live model, bundles handed over before, and configs."""

    live_model: Callable[[TenantId], LiveModel | None]
    """The tenant's model that ranks at present."""
    directory: Path
    """Where the loader hands models over."""
    config: Callable[[TenantId, int], RankingConfig]
    """A version of the tenant's ranking config; raises `NotFound` or `InvalidRankingConfig`."""

    def live(self, tenant: TenantId, version: str | None) -> Scorer | None:
        """The scorer of the version where that is live; to be asked on the event loop."""
        model = self.live_model(tenant)
        return model.scorer if model is not None and str(model.version) == version else None

    def find(self, slate: LoggedSlate, live: Scorer | None) -> Scorer | str:
        """What scored the slate, loaded where it is not `live`; or a sentence why it is not there.

        May take as long as loading a model.
        """
        try:
            if slate.model_version is None:
                return self._fallback(slate)
            return self._model(slate, slate.model_version, live)
        except _NotAtHand as problem:
            return f"{problem}; {_LOGGED}"

    def _fallback(self, slate: LoggedSlate) -> Scorer:
        if slate.scorer == RecencyScorer.name:
            return RecencyScorer()
        made = bound(fallback_scorer(self._feed(slate).fallback), _query(slate))
        if (made.name, made.spec.fingerprint) != (slate.scorer, slate.spec_fingerprint):
            raise _NotAtHand(
                f"no model took part, and the scorer {slate.scorer!r} is not the fallback of "
                f"version {slate.config_version} of the ranking config"
            )
        return made

    def _model(self, slate: LoggedSlate, version: str, live: Scorer | None) -> Scorer:
        found = live or self._bundled(slate.tenant, version)
        if found is None:
            raise _NotAtHand(f"version {version} of the model is no longer at hand")
        if found.spec.fingerprint != slate.spec_fingerprint:
            raise _NotAtHand(
                f"version {version} of the model that is at hand reads other features than the one "
                "that served this slate"
            )
        if isinstance(found, ValueScorer):
            return found.weighed(self._feed(slate).value.weights())
        return found

    def _feed(self, slate: LoggedSlate) -> FeedOptions:
        """The part of the config that ranked the slate."""
        try:
            config = self.config(TenantId(slate.tenant), slate.config_version)
        except (NotFound, InvalidRankingConfig) as error:
            raise _NotAtHand(
                f"version {slate.config_version} of the ranking config is not at hand ({error})"
            ) from None
        return config.feed(slate.kind)

    def _bundled(self, tenant: str, version: str) -> Scorer | None:
        home = self.directory / tenant
        for path in sorted(home.glob(f"{version}-*")) if version.isdecimal() else ():
            if is_bundle_name(path.name):
                try:
                    bundle = ModelBundle.load(path)
                except (RankingError, OSError):
                    continue
                if bundle.tenant == tenant:
                    return bundle.scorer()
        return None


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What scoring a logged slate again gave.

    `bit_identical` is None where it could not be done, and `problem` then says why.
    `contributions`, float32[n, F + 1] with the bias last, add up to the score of each place within
    1e-5 of the larger of it and 1; None where the scorer cannot tell. `heads` are those of a value
    model, by place.
    """

    bit_identical: bool | None
    different: int = 0
    problem: str | None = None
    contributions: npt.NDArray[np.float32] | None = None
    heads: Sequence[Sequence[HeadExplanation]] | None = None


def recompute(slate: LoggedSlate, scorer: Scorer | str) -> Recomputed:
    """Score the places of a slate again, and say whether the very same scores come out."""
    if isinstance(scorer, str):
        return Recomputed(None, problem=scorer)
    features = slate.features_of(slate.places)
    try:
        scores = _scores(scorer, features)
        added = scorer.contributions(features) if isinstance(scorer, ExplainingScorer) else None
        heads = head_explanations(scorer, features)
    except Exception as error:  # noqa: BLE001 - whatever a model does, what was logged can be shown
        return Recomputed(
            None,
            problem=f"the scorer failed ({type(error).__name__}); the values are those that were "
            "logged",
        )
    different = int((_bits(scores) != _bits(slate.places.score_values())).sum())
    return Recomputed(different == 0, different, contributions=added, heads=heads)


def explain(slate: LoggedSlate, versions: ModelVersions, live: Scorer | None) -> dict[str, Any]:
    """The explanation of a logged slate as JSON; may load a model."""  # Any: JSON
    return explanation_of(slate, recompute(slate, versions.find(slate, live)))


def explanation_of(slate: LoggedSlate, again: Recomputed) -> dict[str, Any]:
    """The slate and what scoring it again gave, as JSON; Any: whatever JSON holds."""
    return {
        "slate_id": slate.slate_id,
        "user": slate.user,
        "kind": slate.kind,
        "time": format_time(slate.time_us),
        "seed": str(slate.seed),
        "scorer": slate.scorer,
        "model_version": slate.model_version,
        "config_version": slate.config_version,
        "spec_fingerprint": slate.spec_fingerprint,
        "degraded": slate.degraded,
        "recomputed": {
            "bit_identical": again.bit_identical,
            "different": again.different,
            "problem": again.problem,
        },
        "stages": slate.stages,
        "removed": [
            {"filter": each.filter, "reason": each.reason, "count": each.count}
            for each in slate.removed
        ],
        "activities": _activities(slate, again),
    }


def _activities(slate: LoggedSlate, again: Recomputed) -> list[dict[str, Any]]:  # Any: JSON
    names, scores = slate.feature_names, slate.places.score_values()
    values = slate.features_of(slate.places).values.tolist()
    added = again.contributions
    contributions = [None] * len(scores) if added is None else added.tolist()
    heads_of = [None] * len(scores) if again.heads is None else list(again.heads)
    rows = zip(
        slate.places.activity_ids(),
        np.where(np.isfinite(scores), scores, np.nan).tolist(),
        slate.source_names(slate.places),
        slate.reason_texts(),
        slate.numbers(slate.propensities).tolist(),
        _by_place(slate),
        slate.explored_places().tolist(),
        values,
        contributions,
        heads_of,
        strict=True,
    )
    return [
        {
            "activity_id": activity,
            "position": position,
            "score": score,
            "source": source,
            "reason": reason,
            "propensity": propensity,
            "explored": explored,
            "placed": slate.placed.get(position),
            "multipliers": multipliers,
            "features": dict(zip(names, row, strict=True)),
            "contributions": None if parts is None else dict(zip(names, parts[:-1], strict=True)),
            "bias": None if parts is None else parts[-1],
            "heads": heads,
        }
        for position, (
            activity,
            score,
            source,
            reason,
            propensity,
            multipliers,
            explored,
            row,
            parts,
            heads,
        ) in enumerate(rows)
    ]


def _by_place(slate: LoggedSlate) -> list[dict[str, float]]:
    """The multipliers of each place by their names."""
    columns = {name: slate.numbers(packed).tolist() for name, packed in slate.multipliers.items()}
    return [
        {name: column[place] for name, column in columns.items()}
        for place in range(len(slate.places))
    ]


def _query(slate: LoggedSlate) -> Query:
    """What a fallback reads of the request that was served: its time, seed and caller's names."""
    brought = [name for name in slate.feature_names if name.startswith(CALLER)]
    return Query(
        tenant=TenantId(slate.tenant),
        user=UserId(slate.user),
        kind=slate.kind,
        now_us=slate.time_us,
        limit=len(slate.places),
        request_id=slate.slate_id,
        seed=slate.seed,
        record=UserRecord.empty(),
        follows={},
        caller={name.removeprefix(CALLER): {} for name in brought},
    )


def _scores(scorer: Scorer, features: FeatureMatrix) -> npt.NDArray[np.float32]:
    return scorer.score(features) if len(features) else np.zeros(0, np.float32)


def _bits(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """The scores' bits, with one and the same NaN."""
    canonical = np.where(np.isnan(scores), np.float32(np.nan), scores).astype("<f4")
    return canonical.view(np.uint32)
