"""The expression scorer keeps the contract of scorers, and is bound to a request."""

import math
from dataclasses import replace

import numpy as np
import pytest

from feeds.counters import DAY_US
from ranking.candidates import Query
from ranking.errors import FeatureSpecMismatch, InvalidExpression, InvalidRankingVars
from ranking.expressions import VARIABLES, Variable
from ranking.features import FeatureMatrix, FeatureSpec, build
from ranking.ranker import Ranker
from ranking.scorers.base import Scorer
from ranking.scorers.expression import ExpressionScorer
from ranking.testing import (
    T0_US,
    ScorerContract,
    all_candidates,
    engaged,
    feature_matrix,
    posted,
    query,
    table_of,
)

OLD = posted("old", T0_US)
NEW = posted("new", T0_US + 2 * DAY_US)
EVENTS = [
    OLD,
    NEW,
    engaged(OLD, "bob", T0_US + 1, "like"),
    engaged(OLD, "cat", T0_US + 2, "comment"),
    engaged(OLD, "dan", T0_US + 3, "share"),
    engaged(OLD, "eve", T0_US + 4, "bookmark"),
    engaged(OLD, "fay", T0_US + 5, "click"),
    engaged(OLD, "gus", T0_US + 6, "hide"),
]


class TestFormula(ScorerContract):
    def scorer(self) -> Scorer:
        return ExpressionScorer.of(
            {"score": "decay_gauss(time) * (1 + popularity) ^ 0.5 + ln(engagement_rate)"}
        )


class TestDraws(ScorerContract):
    def scorer(self) -> Scorer:
        return ExpressionScorer.of({"score": "rand() + rand_normal(0, 1, 1, 0.5)"})


class TestConstant(ScorerContract):
    def scorer(self) -> Scorer:
        return ExpressionScorer.of({"score": "2"})


class TestNothing(ScorerContract):
    def scorer(self) -> Scorer:
        return ExpressionScorer.of({"score": "1 / 0"})


class TestTooLarge(ScorerContract):
    def scorer(self) -> Scorer:
        return ExpressionScorer.of({"score": "age_h * 1e300"})


def scored(score: str, asked: Query, **parts: object) -> dict[str, float]:
    """Each activity's score in a request, the older first."""
    scorer = ExpressionScorer.of({"score": score, **parts}).for_query(asked)
    table = table_of(EVENTS)
    candidates = all_candidates(table)
    scores = scorer.score(build(scorer.spec, asked, candidates, table))
    names = {OLD.activity_id: "old", NEW.activity_id: "new"}
    ids = table.ids(candidates.rows)
    return {names[one]: number for one, number in zip(ids, scores.tolist(), strict=True)}


NOW = query(T0_US + 2 * DAY_US)


@pytest.mark.parametrize(
    ("score", "old", "new"),
    [
        ("popularity", 1 + 2 + 3 + 3, 0),
        ("reaction_count + 10 * comment_count + 100 * share_count", 111, 0),
        ("bookmark_count + 10 * click_count + 100 * hide_count", 111, 0),
        ("reaction_counts.like + reaction_counts.comment", 2, 0),
        ("engagements_total", 5, 0),
        ("(now - time) / 86400", 2, 0),
        ("time == to_unix_timestamp('2018-03-14')", 0, 1),
        ("decay_linear(time)", 0.8, 1),
    ],
)
def test_variables_are_what_the_table_counted(score: str, old: float, new: float) -> None:
    assert scored(score, NOW) == pytest.approx({"old": old, "new": new})


def test_without_a_request_decays_by_time_are_the_same() -> None:
    scorer = ExpressionScorer.of({"score": "decay_gauss(time)"})
    features = feature_matrix(scorer.spec, 50, 1)
    bound = scorer.for_query(NOW).score(features)
    np.testing.assert_allclose(scorer.score(features), bound, rtol=1e-4)


def test_request_brings_its_numbers() -> None:
    document = {"score": "external.w", "defaults": {"external": {"w": 1}}}
    scorer = ExpressionScorer.of(document)
    features = feature_matrix(scorer.spec, 2, 1)
    assert scorer.score(features).tolist() == [1, 1]
    assert scorer.for_query(NOW, {"w": 42}).score(features).tolist() == [42, 42]
    assert scorer.for_query(NOW).score(features).tolist() == [1, 1]
    with pytest.raises(InvalidRankingVars, match="no number for w"):
        scorer.for_query(NOW, {"w": "42"})


def test_same_request_draws_the_same_and_another_does_not() -> None:
    assert scored("rand()", NOW) == scored("rand()", NOW)
    assert scored("rand()", NOW) != scored("rand()", replace(NOW, seed=8))
    drawn = scored("rand()", NOW)
    assert drawn["old"] != drawn["new"]
    assert scored("rand()", replace(NOW, seed=-1)) != drawn


def test_score_vars_are_what_was_read() -> None:
    document = {
        "score": "likes_total * external.w",
        "defaults": {"likes_total": 9, "external": {"w": 1}},
    }
    scorer = ExpressionScorer.of(document).for_query(NOW, {"w": 3})
    matrix = FeatureMatrix(("likes_total",), np.array([[2], [math.nan]], np.float32))
    read = {name: column.tolist() for name, column in scorer.score_vars(matrix).items()}
    assert read == {"likes_total": [2, 9], "external.w": [3, 3]}
    assert scorer.score(matrix).tolist() == [6, 27]


def test_missing_and_infinite_scores_stand_last_in_a_slate() -> None:
    scorer = ExpressionScorer.of({"score": "1 / popularity"}).for_query(NOW)
    table = table_of(EVENTS)
    slate = Ranker(scorer=scorer).rank(NOW, all_candidates(table), table, explain=True)
    assert [one.activity_id for one in slate.ranked] == [OLD.activity_id, NEW.activity_id]
    assert slate.ranked[0].score == pytest.approx(1 / 9)
    assert math.isnan(slate.ranked[1].score)
    assert slate.explanation is not None
    first = slate.explanation.activities[0]
    assert first.features["likes_total"] == 1
    assert first.contributions == dict.fromkeys(first.features, 0.0)
    assert first.bias == slate.ranked[0].score


def test_explained_draw_is_the_one_that_was_served() -> None:
    scorer = ExpressionScorer.of({"score": "rand()"}).for_query(NOW)
    table = table_of(EVENTS)
    slate = Ranker(scorer=scorer).rank(NOW, all_candidates(table), table, explain=True)
    assert slate.explanation is not None
    explained = [one.bias for one in slate.explanation.activities]
    assert explained == [one.score for one in slate.ranked]


def test_wider_matrix_is_explained_over_all_its_columns() -> None:
    scorer = ExpressionScorer.of({"score": "likes_total"})
    spec = FeatureSpec(("tag_count", "likes_total", "age_h"))
    features = feature_matrix(spec, 5, 1)
    assert scorer.contributions(features).shape == (5, 4)
    np.testing.assert_array_equal(features.values[:, 1], scorer.score(features))


def test_matrix_without_the_column_is_refused() -> None:
    scorer = ExpressionScorer.of({"score": "likes_total"})
    with pytest.raises(FeatureSpecMismatch, match="expression reads likes_total"):
        scorer.score(feature_matrix(FeatureSpec(("age_h",)), 2, 1))


def test_wrong_document_is_refused_with_all_its_mistakes() -> None:
    with pytest.raises(InvalidExpression, match=r"(?s)defaults\.x: .*score, character 1: "):
        ExpressionScorer.of({"score": "nope", "defaults": {"x": 1}})


def test_variables_of_an_application_are_added_by_name() -> None:
    doubled = Variable(
        "custom.tags", ("tag_count",), "", lambda columns, _: 2 * columns["tag_count"]
    )
    scorer = ExpressionScorer.of(
        {"score": "custom.tags + custom.tags"},
        variables={**VARIABLES, doubled.name: doubled},
    )
    matrix = FeatureMatrix(("tag_count",), np.array([[1], [3]], np.float32))
    assert scorer.score(matrix).tolist() == [4, 12]


def test_no_rows_no_scores() -> None:
    scorer = ExpressionScorer.of({"score": "rand() * age_h"})
    assert scorer.score(feature_matrix(scorer.spec, 0, 1)).shape == (0,)
