"""From a ranking config to what it names: sources, filters and ranker; and its description as data.

Serving and training build from here, so that a model is trained on what is served.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from ranking.candidates import FeedKind
from ranking.config import FeedOptions, RankingConfig
from ranking.config_options import (
    PINS_MAX,
    PROMOTED_MAX,
    ExplorationOptions,
    FiltersOptions,
    Options,
    QuotasOptions,
)
from ranking.exploration import EpsilonExplorer, Explorer, NoExplorer
from ranking.features import Factors
from ranking.filters import (
    AgeFilter,
    EngagedFilter,
    ExcludedFilter,
    Filter,
    HiddenFilter,
    MutedAuthorFilter,
    MutedTagFilter,
    OwnFilter,
    RemovedFilter,
    ServedFilter,
    ShowLessFilter,
)
from ranking.ranker import Ranker
from ranking.scorers.base import Scorer
from ranking.selectors import AuthorSpread, TopKSelector
from ranking.sources import (
    CANDIDATES_MAX,
    ActiveSource,
    CandidateSource,
    FollowingSource,
    FreshSource,
    TrendingSource,
)

__all__ = ["build_filters", "build_ranker", "build_sources", "describe"]

Description = dict[str, Any]  # Any: JSON


def build_sources(config: RankingConfig, kind: FeedKind) -> tuple[CandidateSource, ...]:
    """The sources of a feed that are on, in the order in which they are asked."""
    feed = config.feed(kind)
    return tuple(_SOURCES[name](feed) for name in feed.asked())


def build_filters(config: RankingConfig, kind: FeedKind) -> tuple[Filter, ...]:
    """What is removed before anything is scored, in the order in which it is looked for."""
    feed = config.feed(kind)
    less = feed.adjustments.show_less
    by_feedback = (ShowLessFilter(less.removed_days),) if less.on else ()
    return (RemovedFilter(), *_filters(feed.filters), *by_feedback)


def build_ranker(
    config: RankingConfig,
    kind: FeedKind,
    scorer: Scorer,
    *,
    factors: Factors | None = None,
    model_version: str | None = None,
) -> Ranker:
    """The ranker of a feed, in serving and in training. Cost: some 20 us."""
    feed = config.feed(kind)
    return Ranker(
        scorer=scorer,
        filters=build_filters(config, kind),
        selector=_selector(feed),
        explorer=_explorer(feed.exploration),
        factors=factors,
        model_version=model_version,
    )


_SOURCES: Final[Mapping[str, Callable[[FeedOptions], CandidateSource]]] = MappingProxyType(
    {
        "following": lambda feed: FollowingSource(feed.sources.following.quota),
        "active": lambda feed: ActiveSource(
            feed.sources.active.quota, feed.sources.active.days, feed.sources.active.outside
        ),
        "trending": lambda feed: TrendingSource(
            feed.sources.trending.quota,
            feed.sources.trending.half_life_days,
            feed.sources.trending.outside,
        ),
        "fresh": lambda feed: FreshSource(feed.sources.fresh.quota, feed.sources.fresh.outside),
    }
)


def _filters(options: FiltersOptions) -> tuple[Filter, ...]:
    made: Mapping[str, Filter] = {
        "own": OwnFilter(),
        "hidden": HiddenFilter(),
        "engaged": EngagedFilter(),
        "muted_author": MutedAuthorFilter(),
        "muted_tag": MutedTagFilter(),
        "excluded": ExcludedFilter(),
        "served": ServedFilter(),
        "age": AgeFilter(options.age.days_max),
    }
    return tuple(made[name] for name, each in options.named().items() if each.on)


def _selector(feed: FeedOptions) -> TopKSelector:
    spread = feed.adjustments.author_spread
    return TopKSelector(AuthorSpread(spread.decay, spread.floor) if spread.on else None)


def _explorer(options: ExplorationOptions) -> Explorer:
    return EpsilonExplorer(options.rate) if options.policy == "epsilon" else NoExplorer()


def describe(config: RankingConfig, kind: FeedKind) -> Description:
    """The pipeline of a feed as data: its stages in order, their components, what is on, limits."""
    feed = config.feed(kind)
    asked = feed.asked()
    caps, quotas = feed.caps, feed.quotas
    capped = caps.model_dump(exclude={"page_size"}, exclude_none=True)
    return {
        "kind": kind,
        "stages": [
            _stage("sources", _parts(feed.sources, on=asked.keys())),
            _stage("filters", [_always("removed"), *_parts(feed.filters)]),
            _stage("score", [_component("value", feed.value, on=True)]),
            _stage("adjustments", _parts(feed.adjustments)),
            _stage(
                "select",
                [
                    _component("diversity", feed.diversity, on=feed.diversity.on),
                    _component("caps", caps, on=bool(capped)),
                    _component("quotas", quotas, on=quotas != QuotasOptions()),
                    _listed("pins", feed.pins),
                ],
            ),
            _stage(
                "explore",
                [_component("exploration", feed.exploration, on=feed.exploration.policy != "none")],
            ),
            _stage("post_filters", _parts(feed.post_filters)),
        ],
        "limits": {
            "candidates_max": CANDIDATES_MAX,
            "slate_size": feed.slate_size,
            "deadline_ms": feed.deadline_ms,
            "pins_max": PINS_MAX,
            "promoted_max": PROMOTED_MAX,
        },
        "fallback": feed.fallback or "recency",
        "log_sample_rate": feed.log_sample_rate,
    }


def _stage(name: str, components: list[Description]) -> Description:
    return {"name": name, "components": components}


def _parts(options: Options, on: Collection[str] | None = None) -> list[Description]:
    """Each field of a part as a component; `on` names those that are on, where it is given."""
    parts = {name: getattr(options, name) for name in type(options).model_fields}
    return [
        _component(name, part, on=part.on if on is None else name in on)
        for name, part in parts.items()
    ]


def _component(name: str, options: Options, *, on: bool) -> Description:
    return {"name": name, "on": on, **options.model_dump(mode="json", exclude={"on"})}


def _always(name: str) -> Description:
    return {"name": name, "on": True}


def _listed(name: str, listed: Sequence[Options]) -> Description:
    places = [each.model_dump(mode="json") for each in listed]
    return {"name": name, "on": bool(listed), name: places}
