"""What is made of a config is made once, is bounded, and holds no model."""

import gc
import weakref

from ranking.arrangements import Diversity
from ranking.config import RankingConfig
from ranking.exploration import NoExplorer
from ranking.features import OPTIONAL_FAMILIES
from ranking.pipeline import build_ranker, build_sources
from ranking.scorers.popularity import PopularityScorer
from ranking.selectors import TopKSelector
from ranking.testing import T0_US, query
from ranking.testing_models import factor_table
from serving.quality import Plan
from serving.rankers import HeldRankers
from serving.testing import HeldModel

CONFIG = RankingConfig.default()
DIVERSE = RankingConfig.parse({"personalized": {"diversity": {"on": True}}})
BY_FACTORS = RankingConfig.parse({"personalized": {"sources": {"factors": {"on": True}}}})
QUERY = query(T0_US)


def test_what_is_held_is_what_would_be_built() -> None:
    held, model = HeldRankers(), HeldModel("7", PopularityScorer(), factor_table())
    for config in (CONFIG, DIVERSE):
        for _ in range(2):
            assert held.sources(config, "explore") == build_sources(config, "explore")
            assert held.live(config, QUERY, model, Plan()) == build_ranker(
                config, "personalized", model.scorer, factors=model.factors, model_version="7"
            )


def test_sources_by_factors_are_made_of_the_model_that_is_live_and_not_held() -> None:
    held, first, second = HeldRankers(), factor_table(), factor_table()
    for factors in (first, None, second):
        made = held.sources(BY_FACTORS, "personalized", factors)
        assert made == build_sources(BY_FACTORS, "personalized", factors)
    gone = weakref.ref(first)
    del first, factors, made
    gc.collect()
    assert gone() is None


def test_a_plan_takes_diversity_and_optional_features_away() -> None:
    held, model = HeldRankers(), HeldModel("7", PopularityScorer(), factor_table())
    whole = held.live(DIVERSE, QUERY, model, Plan())
    cheap = held.live(DIVERSE, QUERY, model, Plan().without("diversity", "features"))
    assert [type(each) for each in whole.arrangements] == [Diversity]
    assert (cheap.arrangements, cheap.missing) == ((), OPTIONAL_FAMILIES)
    assert whole.missing == ()


def test_the_cheapest_keeps_filters_and_leaves_spread_and_chance_out() -> None:
    held = HeldRankers()
    newest, cheapest = held.newest(CONFIG, "explore"), held.cheapest(CONFIG, "explore")
    assert (cheapest.filters, cheapest.post_filters) == (newest.filters, newest.post_filters)
    assert (cheapest.adjustments, cheapest.arrangements) == (
        newest.adjustments,
        newest.arrangements,
    )
    assert (cheapest.selector, cheapest.explorer) == (TopKSelector(), NoExplorer())
    assert held.cheapest(CONFIG, "explore") is cheapest


def test_it_is_made_once_for_a_config_and_bounded() -> None:
    held = HeldRankers(held_max=2)
    first = held.newest(CONFIG, "explore")
    assert held.newest(CONFIG, "explore") is first
    held.newest(CONFIG, "personalized")
    held.fallback(CONFIG, QUERY)
    assert len(held) == 2
    assert held.newest(CONFIG, "explore") is not first


def test_a_fallback_expression_is_compiled_once() -> None:
    config = RankingConfig.parse({"personalized": {"fallback": {"score": "age_h"}}})
    held = HeldRankers()
    first, second = (held.fallback(config, QUERY).scorer for _ in range(2))
    assert first.expression is second.expression


def test_a_model_that_was_let_go_is_not_kept() -> None:
    held, scorer = HeldRankers(), PopularityScorer()
    gone = weakref.ref(scorer)
    held.live(CONFIG, QUERY, HeldModel("1", scorer), Plan())
    del scorer
    gc.collect()
    assert gone() is None
