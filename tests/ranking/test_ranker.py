import itertools
import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from ranking.buckets import ENGAGEMENT
from ranking.config import RankingConfig
from ranking.errors import InvalidScores
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.pipeline import build_ranker, build_sources
from ranking.ranker import Ranker
from ranking.scorers.recency import RecencyScorer
from ranking.selectors import AuthorSpread, TopKSelector
from ranking.slates import Slate
from ranking.sources import propose
from ranking.table import ActivityTable
from ranking.testing import (
    T0_US,
    Recorded,
    all_candidates,
    engaged,
    follows,
    posted,
    query,
    table_of,
)

DEFAULT = RankingConfig.default()

OLD, LIKED, MINE, NEW = (
    posted(name, T0_US + hour * 3_600_000_000, actor=actor, feed=feed)
    for hour, (name, actor, feed) in enumerate(
        [
            ("old", "user:ann", "topic:qubit"),
            ("liked", "user:ann", "topic:qubit"),
            ("mine", "user:me", "user:me"),
            ("new", "user:bob", "user:bob"),
        ]
    )
)
EVENTS = [OLD, LIKED, MINE, NEW, engaged(LIKED, "me", T0_US), engaged(OLD, "x", T0_US)]


class SumScorer:
    """Adds up two features; what it adds is what it says."""

    name = "sum"
    spec = FeatureSpec(("engagements_total", "age_h"))

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        scores: npt.NDArray[np.float32] = features.values.sum(axis=1) + np.float32(2)
        return scores

    def contributions(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        bias = np.full((len(features), 1), 2, dtype=np.float32)
        return np.hstack([features.values, bias])


class FixedScorer:
    """Gives the scores it was made with, whatever the candidates."""

    name = "fixed"
    spec = FeatureSpec(("age_h",))

    def __init__(self, *scores: float) -> None:
        self.scores = np.array(scores, dtype=np.float32)

    def score(
        self,
        features: FeatureMatrix,  # noqa: ARG002 - a scorer's signature
    ) -> npt.NDArray[np.float32]:
        return self.scores


def rank(ranker: Ranker, *, explain: bool = False, limit: int = 25, seed: int = 7) -> Slate:
    table = table_of(EVENTS)
    asked = query(
        T0_US + 4 * 3_600_000_000,
        limit=limit,
        seed=seed,
        record=Recorded.of(EVENTS).users["me"],
        follows=follows("topic:qubit"),
    )
    return ranker.rank(asked, all_candidates(table), table, explain)


def test_a_slate_says_what_stands_where_and_why() -> None:
    slate = rank(build_ranker(DEFAULT, "personalized", RecencyScorer(), model_version="3"))
    assert [(each.activity_id, each.position, each.score) for each in slate.ranked] == [
        (NEW.activity_id, 0, -1),
        (OLD.activity_id, 1, -4),
    ]
    assert [each.source for each in slate.ranked] == ["test", "test"]
    assert [each.reason for each in slate.ranked] == ["from test", "because you follow topic:qubit"]
    assert [each.propensity for each in slate.ranked] == [1, 1]
    assert (slate.scorer, slate.model_version, slate.degraded) == ("recency", "3", None)
    assert (slate.removed, slate.explanation) == ((), None)


def test_a_page_has_no_more_than_its_limit() -> None:
    assert len(rank(build_ranker(DEFAULT, "personalized", RecencyScorer()), limit=1).ranked) == 1


def test_reasons_name_the_source_and_the_followed_author() -> None:
    table = table_of([OLD, NEW, engaged(NEW, "x", T0_US)])
    ranker = Ranker(scorer=RecencyScorer())
    asked = query(T0_US, follows=follows("user:ann"))
    candidates = propose(build_sources(DEFAULT, "personalized"), asked, table)
    slate = ranker.rank(asked, candidates, table)
    assert [each.reason for each in slate.ranked] == ["popular now"]

    by_author = all_candidates(table)
    reasons = {each.reason for each in ranker.rank(asked, by_author, table).ranked}
    assert reasons == {"because you follow user:ann", "from test"}


def test_explain_counts_every_stage_and_times_it() -> None:
    ticks = itertools.count(0, 5_000)
    made = build_ranker(DEFAULT, "personalized", SumScorer())
    slate = rank(replace(made, clock_ns=lambda: next(ticks)), explain=True, limit=1)
    assert slate.explanation is not None
    assert [
        (stage.name, stage.came, stage.left, stage.time_us) for stage in slate.explanation.stages
    ] == [
        ("filter", 4, 2, 5),
        ("features", 2, 2, 5),
        ("score", 2, 2, 5),
        ("adjust", 2, 2, 5),
        ("select", 2, 1, 5),
        ("explore", 1, 1, 5),
        ("post_filter", 1, 1, 5),
    ]
    assert slate.timings_us == {stage.name: 5 for stage in slate.explanation.stages}


def test_explain_names_what_was_removed() -> None:
    slate = rank(build_ranker(DEFAULT, "personalized", SumScorer()), explain=True)
    assert [(each.activity_id, each.filter) for each in slate.removed] == [
        (MINE.activity_id, "own"),
        (LIKED.activity_id, "engaged"),
    ]


def test_contributions_add_up_to_the_score_before_multipliers() -> None:
    ranker = Ranker(scorer=SumScorer(), selector=TopKSelector(AuthorSpread()))
    table = table_of([*(posted(f"a{n}", T0_US + n) for n in range(4)), OLD])
    asked = query(T0_US + 10**10)
    slate = ranker.rank(asked, all_candidates(table), table, explain=True)
    assert slate.explanation is not None
    for ranked, explained in zip(slate.ranked, slate.explanation.activities, strict=True):
        assert explained.activity_id == ranked.activity_id
        assert explained.contributions is not None
        assert explained.bias == 2
        assert set(explained.features) == set(SumScorer.spec.names)
        total = sum(explained.contributions.values()) + explained.bias
        assert total == pytest.approx(ranked.score, abs=1e-5)
    multipliers = [each.multipliers["author_spread"] for each in slate.explanation.activities]
    assert multipliers == [1, 0.625, 0.4375, 0.34375, 0.296875]


def test_a_scorer_that_cannot_explain_gives_features_alone() -> None:
    slate = rank(Ranker(scorer=FixedScorer(4, 3, 2, 1)), explain=True)
    assert slate.explanation is not None
    first = slate.explanation.activities[0]
    assert (first.features, first.contributions, first.bias) == ({"age_h": 1}, None, None)


def test_time_alone_explains_a_score_by_time() -> None:
    slate = rank(Ranker(scorer=RecencyScorer()), explain=True)
    assert slate.explanation is not None
    first = slate.explanation.activities[0]
    assert (first.score, first.contributions, first.bias) == (-1, {"age_h": -1}, 0)


def test_a_slate_keeps_the_numbers_that_it_was_made_from() -> None:
    slate = rank(Ranker(scorer=SumScorer()))
    assert slate.scoring is not None
    scoring, places = slate.scoring, slate.scoring.shown.places
    assert SumScorer.spec == scoring.spec
    assert [place.score for place in slate.ranked] == scoring.scores[places].tolist()
    again = SumScorer().score(scoring.features.take(places))
    assert again.tobytes() == scoring.scores[places].tobytes()
    assert scoring.stages[0].name == "filter"


def test_scores_that_are_no_numbers_come_last_and_are_shown_as_missing() -> None:
    table = table_of(posted(f"a{n}", T0_US - n, actor=f"user:{n}") for n in range(4))
    ranker = build_ranker(DEFAULT, "personalized", FixedScorer(math.nan, math.inf, 1, 2))
    slate = ranker.rank(query(), all_candidates(table), table)
    scores = [each.score for each in slate.ranked]
    assert scores[:2] == [2, 1]
    assert all(math.isnan(score) for score in scores[2:])


@pytest.mark.parametrize("scores", [(), (1.0,), (1.0, 2.0, 3.0)])
def test_a_scorer_that_breaks_its_contract_is_named(scores: tuple[float, ...]) -> None:
    with pytest.raises(InvalidScores, match=r"scorer fixed returned .* for 2 candidates"):
        rank(build_ranker(DEFAULT, "personalized", FixedScorer(*scores)))


def test_no_candidates_give_an_empty_slate() -> None:
    table = ActivityTable(10)
    for kind in ("personalized", "explore"):
        ranker = build_ranker(DEFAULT, kind, FixedScorer(1))
        slate = ranker.rank(query(), all_candidates(table), table, explain=True)
        assert not slate.ranked


def test_explore_is_made_again_from_the_seed_and_says_what_chance_chose() -> None:
    table = table_of(posted(f"a{n}", T0_US - n, actor=f"user:{n}") for n in range(40))
    ranker = build_ranker(DEFAULT, "explore", RecencyScorer())
    slates = [
        ranker.rank(query(seed=seed), all_candidates(table), table, explain=True)
        for seed in (11, 11, 12)
    ]
    assert slates[0].ranked == slates[1].ranked
    assert slates[0].ranked != slates[2].ranked
    for slate in slates:
        assert slate.explanation is not None
        for ranked, explained in zip(slate.ranked, slate.explanation.activities, strict=True):
            by_chance = ranked.reason == "shown to learn whether you like it"
            assert explained.explored == by_chance
            assert 0 < ranked.propensity < 1


def test_feedback_is_seen_by_the_next_rank() -> None:
    table = table_of([OLD, NEW])
    ranker = Ranker(scorer=SumScorer())
    before = ranker.rank(query(T0_US + 10**11), all_candidates(table), table)
    for user in range(100):
        table.apply(9, engaged(NEW, f"u{user}", T0_US))
    after = ranker.rank(query(T0_US + 10**11), all_candidates(table), table)
    assert before.ranked[0].activity_id == OLD.activity_id
    assert after.ranked[0].activity_id == NEW.activity_id
    assert table.counts.totals[:2, ENGAGEMENT].sum() == 100
