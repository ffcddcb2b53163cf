"""What ranks without a model: by time, or by an expression of the config's own."""

import numpy as np

from ranking.config import RankingConfig, problems
from ranking.expressions import problems as expression_problems
from ranking.fallback import bound, fallback_problems, fallback_scorer
from ranking.pipeline import build_ranker, describe
from ranking.scorers.expression import ExpressionScorer
from ranking.scorers.recency import RecencyScorer
from ranking.testing import T0_US, all_candidates, engaged, posted, query, table_of

POPULAR = {"score": "popularity"}


def test_null_and_recency_are_newest_first() -> None:
    for document in (None, "recency"):
        assert fallback_problems(document) == []
        assert isinstance(fallback_scorer(document), RecencyScorer)


def test_an_expression_ranks_where_no_model_does() -> None:
    old, new = posted("old", T0_US), posted("new", T0_US + 1_000_000)
    table = table_of([old, new, engaged(old, "eve", T0_US + 2_000_000)])
    config = RankingConfig.parse({"personalized": {"fallback": POPULAR}})
    asked = query(T0_US + 3_000_000)
    orders = {}
    for name, made in (("by it", config), ("by time", RankingConfig.default())):
        scorer = bound(fallback_scorer(made.personalized.fallback), asked)
        ranker = build_ranker(made, "personalized", scorer)
        slate = ranker.rank(asked, all_candidates(table), table)
        orders[name] = [place.activity_id for place in slate.ranked]

    assert orders["by it"] == [old.activity_id, new.activity_id]
    assert orders["by time"] == [new.activity_id, old.activity_id]


def test_an_expression_reads_the_moment_of_the_request() -> None:
    scorer = fallback_scorer({"score": "now"})
    later = bound(scorer, query(T0_US))
    assert isinstance(later, ExpressionScorer)
    assert later.now_s == T0_US / 1e6
    assert bound(RecencyScorer(), query(T0_US)).name == "recency"


def test_mistakes_of_an_expression_are_the_configs_own() -> None:
    wrong = {"score": "poplarity * (1 +", "defaults": {"x": "y"}}
    told = expression_problems(wrong)
    assert len(told) > 1
    assert problems({"explore": {"fallback": wrong}}) == [
        f"explore.fallback: {sentence}" for sentence in told
    ]


def test_what_divides_by_zero_comes_last_and_raises_nothing() -> None:
    liked, plain = posted("liked", T0_US), posted("plain", T0_US + 1)
    table = table_of([plain, liked, engaged(liked, "eve", T0_US + 2)])
    asked = query(T0_US + 3)
    scorer = bound(fallback_scorer({"score": "1 / popularity"}), asked)
    config = RankingConfig.default()
    slate = build_ranker(config, "personalized", scorer).rank(asked, all_candidates(table), table)
    assert [place.activity_id for place in slate.ranked] == [liked.activity_id, plain.activity_id]
    assert np.isnan(slate.ranked[1].score)


def test_the_pipeline_describes_the_expression() -> None:
    config = RankingConfig.parse({"personalized": {"fallback": POPULAR}})
    assert describe(config, "personalized")["fallback"] == POPULAR
    assert RankingConfig.parse(config.to_document()) == config
