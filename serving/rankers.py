"""What is made of a ranking config, held between reads: sources and rankers.

A config never changes, so what is made of it is told apart by which object it is; it is kept alive
with it, so that no other gets its identity meanwhile. Models, and what is made of their factors,
are not held here: the models' cache alone decides how long they stay.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol, cast

from ranking.candidates import FeedKind, Query
from ranking.config import RankingConfig
from ranking.exploration import NoExplorer
from ranking.fallback import bound, fallback_scorer
from ranking.features import OPTIONAL_FAMILIES, Factors
from ranking.pipeline import build_ranker, build_sources, weighed
from ranking.ranker import Ranker
from ranking.scorers.base import Scorer
from ranking.scorers.recency import RecencyScorer
from ranking.selectors import TopKSelector
from ranking.sources import CandidateSource
from serving.quality import Plan

__all__ = ["HELD_MAX", "HeldRankers", "LiveModel"]

HELD_MAX: Final = 2_048
"""Rankers, and tuples of sources, that are held at most, some 10 KB each with their config."""


class LiveModel(Protocol):
    """What ranks a tenant's feeds (`serving.models.LoadedModel`). Immutable."""

    @property
    def version(self) -> object:
        """Which version of the model it is."""
        ...

    @property
    def scorer(self) -> Scorer:
        """What scores."""
        ...

    @property
    def factors(self) -> Factors | None:
        """The factors that its features need."""
        ...


class HeldRankers:
    """The rankers and sources of the configs that were used last. To be used on one event loop."""

    def __init__(self, held_max: int = HELD_MAX) -> None:
        self._held_max = held_max
        self._held: OrderedDict[tuple[str, int, FeedKind], tuple[object, RankingConfig]] = (
            OrderedDict()
        )

    def __len__(self) -> int:
        """How much is held."""
        return len(self._held)

    def sources(
        self, config: RankingConfig, kind: FeedKind, factors: Factors | None = None
    ) -> tuple[CandidateSource, ...]:
        """As `build_sources`; those that need the model's factors are made for each read."""

        def make() -> tuple[tuple[CandidateSource, ...], bool]:
            sources = build_sources(config, kind)
            return sources, len(sources) < len(config.feed(kind).asked())

        held = self._once("sources", config, kind, make)
        without, incomplete = cast("tuple[tuple[CandidateSource, ...], bool]", held)
        if incomplete and factors is not None:
            return build_sources(config, kind, factors)
        return without

    def live(self, config: RankingConfig, query: Query, model: LiveModel, plan: Plan) -> Ranker:
        """The feed's ranker with the live model, without what the plan gives up."""
        kind, version = query.kind, str(model.version)
        scorer = bound(model.scorer, query)
        missing = () if plan.allows("features") else OPTIONAL_FAMILIES
        if config.feed(kind).diversity.on and plan.allows("diversity"):
            ranker = build_ranker(
                config, kind, scorer, factors=model.factors, model_version=version
            )
            return replace(ranker, missing=missing) if missing else ranker
        return replace(
            self.newest(config, kind),
            scorer=weighed(config, kind, scorer),
            factors=model.factors,
            model_version=version,
            missing=missing,
        )

    def fallback(self, config: RankingConfig, query: Query) -> Ranker:
        """The feed's ranker with the config's fallback, compiled once, for one request."""
        kind = query.kind
        ranker = cast(
            "Ranker",
            self._once(
                "fallback",
                config,
                kind,
                lambda: build_ranker(config, kind, fallback_scorer(config.feed(kind).fallback)),
            ),
        )
        scorer = bound(ranker.scorer, query)
        return ranker if scorer is ranker.scorer else replace(ranker, scorer=scorer)

    def newest(self, config: RankingConfig, kind: FeedKind) -> Ranker:
        """The feed's ranker by time alone, whatever the config's fallback."""
        made = self._once(
            "newest", config, kind, lambda: build_ranker(config, kind, RecencyScorer())
        )
        return cast("Ranker", made)

    def cheapest(self, config: RankingConfig, kind: FeedKind) -> Ranker:
        """By time alone, without author spread and chance: what is left where there is no time."""
        made = self._once(
            "cheapest",
            config,
            kind,
            lambda: replace(
                build_ranker(config, kind, RecencyScorer()),
                selector=TopKSelector(),
                explorer=NoExplorer(),
            ),
        )
        return cast("Ranker", made)

    def _once(
        self, what: str, config: RankingConfig, kind: FeedKind, make: Callable[[], object]
    ) -> object:
        key = (what, id(config), kind)
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = (make(), config)
            if len(self._held) > self._held_max:
                self._held.popitem(last=False)
        else:
            self._held.move_to_end(key)
        return held[0]
