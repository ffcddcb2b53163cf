import json
from typing import Any, get_args

import pytest

from ranking.candidates import FeedKind
from ranking.config import RankingConfig
from ranking.config_options import SourcesOptions
from ranking.exploration import EpsilonExplorer, NoExplorer
from ranking.filters import EngagedFilter, HiddenFilter, OwnFilter, RemovedFilter
from ranking.pipeline import build_filters, build_ranker, build_sources, describe
from ranking.scorers.recency import RecencyScorer
from ranking.selectors import AuthorSpread, TopKSelector
from ranking.sources import ActiveSource, FollowingSource, FreshSource, TrendingSource

DEFAULT = RankingConfig.default()
KINDS: tuple[FeedKind, ...] = get_args(FeedKind)


def components(config: RankingConfig, kind: FeedKind, stage: str) -> dict[str, dict[str, Any]]:
    stages = {each["name"]: each["components"] for each in describe(config, kind)["stages"]}
    return {each["name"]: each for each in stages[stage]}


def test_the_default_is_the_mix_of_the_first_release() -> None:
    assert build_sources(DEFAULT, "personalized") == (FollowingSource(400), TrendingSource(100))
    assert build_sources(DEFAULT, "explore") == (
        ActiveSource(250, outside=True),
        TrendingSource(150, outside=True),
        FreshSource(100, outside=True),
    )
    for kind, explorer in (("personalized", NoExplorer()), ("explore", EpsilonExplorer(0.1))):
        ranker = build_ranker(DEFAULT, kind, RecencyScorer(), model_version="3")
        assert ranker.filters[:4] == (
            RemovedFilter(),
            OwnFilter(),
            HiddenFilter(),
            EngagedFilter(),
        )
        assert ranker.selector == TopKSelector(AuthorSpread(0.5, 0.25))
        assert ranker.explorer == explorer
        assert ranker.model_version == "3"


def test_what_is_off_is_not_built_and_what_is_removed_always_is() -> None:
    filters = {name: {"on": False} for name in DEFAULT.explore.filters.named()}
    adjustments = {"author_spread": {"on": False}, "show_less": {"on": False}}
    config = RankingConfig.parse({"explore": {"filters": filters, "adjustments": adjustments}})
    assert build_filters(config, "explore") == (RemovedFilter(),)
    assert build_ranker(config, "explore", RecencyScorer()).selector == TopKSelector(None)


@pytest.mark.parametrize("kind", KINDS)
def test_the_description_is_json_and_tells_the_limits(kind: FeedKind) -> None:
    told = json.loads(json.dumps(describe(DEFAULT, kind), allow_nan=False))
    assert told["kind"] == kind
    assert [stage["name"] for stage in told["stages"]] == [
        "sources",
        "filters",
        "score",
        "adjustments",
        "select",
        "explore",
        "post_filters",
    ]
    assert told["limits"]["candidates_max"] == 500
    assert all(
        {"name", "on"} <= set(each) for stage in told["stages"] for each in stage["components"]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_description_says_what_is_built(kind: FeedKind) -> None:
    sources = components(DEFAULT, kind, "sources")
    assert list(sources) == list(SourcesOptions.model_fields)
    built = {source.name: source.quota for source in build_sources(DEFAULT, kind)}
    assert built == {name: each["quota"] for name, each in sources.items() if each["on"]}
    on = [name for name, each in components(DEFAULT, kind, "filters").items() if each["on"]]
    assert on == [each.name for each in build_filters(DEFAULT, kind) if each.name != "show_less"]
