"""From a ranking config to what it names: sources, filters and ranker; and its description as data.

Serving and training build from here, so that a model is trained on what is served.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from feeds.model import position_of
from ranking.adjustments import (
    Adjustment,
    OutOfNetworkMultiplier,
    ShowLessMultiplier,
    ShowMoreMultiplier,
)
from ranking.arrangements import (
    Arrangement,
    Diversity,
    NewAuthorLift,
    PageRules,
    PinnedActivity,
    Pins,
)
from ranking.candidates import FeedKind
from ranking.config import FeedOptions, RankingConfig
from ranking.config_options import (
    PINS_MAX,
    PROMOTED_MAX,
    AdjustmentsOptions,
    ExplorationOptions,
    FactorsOptions,
    FiltersOptions,
    Options,
    SimilarOptions,
    SourceOptions,
    SpreadOptions,
)
from ranking.exploration import EpsilonExplorer, Explorer, NoExplorer, ThompsonExplorer
from ranking.features import Factors
from ranking.filters import (
    ENGAGED,
    EXCLUDED,
    HIDDEN,
    SERVED,
    AgeFilter,
    DuplicateFilter,
    Filter,
    MutedAuthorFilter,
    MutedTagFilter,
    OwnFilter,
    RemovedFilter,
    ShowLessFilter,
)
from ranking.personal_sources import (
    EditorialSource,
    FactorsSource,
    SecondDegreeSource,
    SimilarSource,
    SimilarVectorsSource,
    TopicsSource,
)
from ranking.ranker import Ranker
from ranking.scorers.base import Scorer
from ranking.scorers.value import ValueScorer
from ranking.selectors import AuthorSpread, TopKSelector
from ranking.sources import (
    CANDIDATES_MAX,
    NEWEST,
    ActiveSource,
    CandidateSource,
    FollowingSource,
    FreshSource,
    TrendingSource,
)
from ranking.vectors import vectors_of

__all__ = [
    "build_feedback_filters",
    "build_filters",
    "build_ranker",
    "build_sources",
    "describe",
    "weighed",
]

Description = dict[str, Any]  # Any: JSON


def build_sources(
    config: RankingConfig, kind: FeedKind, factors: Factors | None = None
) -> tuple[CandidateSource, ...]:
    """The sources of a feed that are on, in the order in which they are asked.

    Without the model's `factors`, those that need them are left out.
    """
    feed = config.feed(kind)
    made = (_SOURCES[name](feed, factors) for name in feed.asked())
    return tuple(source for source in made if source is not None)


def build_filters(config: RankingConfig, kind: FeedKind) -> tuple[Filter, ...]:
    """What is removed before anything is scored, in the order in which it is looked for."""
    feed = config.feed(kind)
    less = feed.adjustments.show_less
    by_feedback = (ShowLessFilter(less.removed_days),) if less.on else ()
    return (RemovedFilter(), *_filters(feed.filters), *by_feedback)


def build_feedback_filters(config: RankingConfig, kind: FeedKind) -> tuple[Filter, ...]:
    """Those filters of a feed by which a user, or a request, takes back what a slate holds."""
    every = (*build_filters(config, kind), *_filters(config.feed(kind).post_filters))
    return tuple(each for each in every if each.name in _BY_FEEDBACK)


_BY_FEEDBACK: Final = ("hidden", "muted_author", "muted_tag", "show_less", "excluded")


def build_ranker(
    config: RankingConfig,
    kind: FeedKind,
    scorer: Scorer,
    *,
    factors: Factors | None = None,
    model_version: str | None = None,
) -> Ranker:
    """The ranker of a feed, in serving and in training. Cost: some 20 us.

    A value model is given the weights of the config; another scorer's scores are taken as they are.
    """
    feed = config.feed(kind)
    return Ranker(
        scorer=weighed(config, kind, scorer),
        filters=build_filters(config, kind),
        adjustments=_adjustments(feed.adjustments),
        selector=_selector(feed.adjustments.author_spread),
        arrangements=_arrangements(feed, factors),
        explorer=_explorer(feed.exploration),
        post_filters=_filters(feed.post_filters),
        factors=factors,
        model_version=model_version,
    )


def weighed(config: RankingConfig, kind: FeedKind, scorer: Scorer) -> Scorer:
    """A value model's scorer with the weights of the config; another as it is."""
    if isinstance(scorer, ValueScorer):
        return scorer.weighed(config.feed(kind).value.weights())
    return scorer


def _editorial(feed: FeedOptions) -> EditorialSource:
    """Every pin is a candidate, whatever the quota."""
    quota = max(feed.sources.editorial.quota, len(feed.pins))
    return EditorialSource(tuple(position_of(one) for one in feed.promoted()), quota)


def _similar(options: SimilarOptions, factors: Factors | None) -> CandidateSource | None:
    given = options.quota, options.seeds, options.days
    if options.by == "co_engagement":
        return SimilarSource(*given, outside=options.outside)
    vectors = vectors_of(factors)
    if vectors is None:
        return None
    return SimilarVectorsSource(vectors, *given, outside=options.outside)


def _by_factors(options: FactorsOptions, factors: Factors | None) -> CandidateSource | None:
    if factors is None:
        return None
    return FactorsSource(factors, options.quota, options.scanned, options.outside)


_Maker = Callable[[FeedOptions, Factors | None], CandidateSource | None]

_SOURCES: Final[Mapping[str, _Maker]] = MappingProxyType(
    {
        "editorial": lambda feed, _: _editorial(feed),
        "following": lambda feed, _: FollowingSource(feed.sources.following.quota),
        "second_degree": lambda feed, _: SecondDegreeSource(**_given(feed.sources.second_degree)),
        "topics": lambda feed, _: TopicsSource(**_given(feed.sources.topics)),
        "similar": lambda feed, factors: _similar(feed.sources.similar, factors),
        "factors": lambda feed, factors: _by_factors(feed.sources.factors, factors),
        "active": lambda feed, _: ActiveSource(**_given(feed.sources.active)),
        "trending": lambda feed, _: TrendingSource(**_given(feed.sources.trending)),
        "fresh": lambda feed, _: FreshSource(**_given(feed.sources.fresh)),
        "newest": lambda feed, _: FreshSource(feed.sources.newest.quota, name=NEWEST),
    }
)


def _given(options: SourceOptions) -> dict[str, Any]:  # Any: each field has a type of its own
    """What a source is told: the fields of its options but those of whoever asks it."""
    return {name: value for name, value in options if name not in ("on", "timeout_ms")}


def _filters(options: FiltersOptions) -> tuple[Filter, ...]:
    made: Mapping[str, Filter] = {
        "own": OwnFilter(),
        "hidden": HIDDEN,
        "engaged": ENGAGED,
        "muted_author": MutedAuthorFilter(),
        "muted_tag": MutedTagFilter(),
        "excluded": EXCLUDED,
        "served": SERVED,
        "age": AgeFilter(options.age.days_max),
        "duplicate": DuplicateFilter(),
    }
    return tuple(made[name] for name, each in options.named().items() if each.on)


def _adjustments(options: AdjustmentsOptions) -> tuple[Adjustment, ...]:
    outside, less, more = options.out_of_network, options.show_less, options.show_more
    made: list[Adjustment] = []
    if outside.on:
        made.append(OutOfNetworkMultiplier(outside.multiplier))
    if less.on:
        made.append(ShowLessMultiplier(less.removed_days, less.recovery_days, less.floor))
    if more.on:
        made.append(ShowMoreMultiplier(more.multiplier, more.days))
    return tuple(made)


def _arrangements(feed: FeedOptions, factors: Factors | None) -> tuple[Arrangement, ...]:
    """Diversity first, then the rules of a page, then places of one's own, so that these hold."""
    new = feed.adjustments.new_author
    made: list[Arrangement] = []
    if feed.diversity.on and (vectors := vectors_of(factors)) is not None:
        made.append(Diversity(feed.diversity.relevance, vectors))
    if feed.caps.any() or feed.quotas.any():
        made.append(PageRules(**feed.caps.model_dump(), **feed.quotas.model_dump()))
    if new.on:
        made.append(NewAuthorLift(new.position, new.places, new.impressions_max))
    if feed.pins:
        pins = [PinnedActivity(position_of(pin.id), pin.position) for pin in feed.pins]
        made.append(Pins(tuple(pins)))
    return tuple(made)


def _selector(spread: SpreadOptions) -> TopKSelector:
    return TopKSelector(AuthorSpread(spread.decay, spread.floor) if spread.on else None)


def _explorer(options: ExplorationOptions) -> Explorer:
    if options.policy == "epsilon":
        return EpsilonExplorer(options.rate)
    return ThompsonExplorer(options.rate) if options.policy == "thompson" else NoExplorer()


def describe(config: RankingConfig, kind: FeedKind) -> Description:
    """The pipeline of a feed as data: its stages in order, their components, what is on, limits."""
    feed = config.feed(kind)
    asked = feed.asked()
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
                    _component("caps", feed.caps, on=feed.caps.any()),
                    _component("quotas", feed.quotas, on=feed.quotas.any()),
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
