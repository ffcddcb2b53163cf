from dataclasses import replace

import numpy as np
import pytest
import xgboost
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ranking.scorers.boosted import BoostedScorer
from ranking.scorers.calibration import Isotonic, Platt
from ranking.scorers.linear import LinearScorer
from ranking.scorers.value import Head, ValueScorer
from training.config import BoostedConfig, BoostedVariant
from training.errors import TooFewEvents, TrainingError
from training.testing_trainers import RowTrainerContract, served, shown_slates
from training.trainers.boosted import BoostedTrainer
from training.trainers.heads import HeadsTrainer
from training.trainers.logistic import LogisticTrainer
from training.trainers.rows import Examples, RowTrainer, user_weights

BOOSTED = BoostedConfig(trees_max=40, stop_rounds=10)


class TestBoosted(RowTrainerContract):
    def trainer(self) -> RowTrainer:
        return BoostedTrainer(BoostedVariant("small", 3), BOOSTED)

    def test_validation_without_an_engagement_is_told(self) -> None:
        quiet = replace(shown_slates(6), relevance=np.zeros(3_600, np.int8))
        with pytest.raises(TooFewEvents, match="nothing says when to stop"):
            self.trainer().fit(shown_slates(5), quiet)

    def test_the_library_predicts_the_same_bits(self) -> None:
        scorer = self.fitted().scorer
        assert isinstance(scorer, BoostedScorer)
        features = served(scorer, shown_slates(7))
        booster = xgboost.Booster(model_file=bytearray(scorer.content))
        matrix = xgboost.DMatrix(features.values, feature_names=list(features.names))
        expected = booster.predict(matrix, output_margin=True)
        assert scorer.score(features).tobytes() == expected.tobytes()


class TestLogistic(RowTrainerContract):
    def trainer(self) -> RowTrainer:
        return LogisticTrainer()

    def test_folded_weights_are_the_pipeline_of_scikit_learn(self) -> None:
        data = shown_slates(5)
        values = data.matrix(data.taught(data.names)).values.astype(np.float64)
        weights = user_weights(data.users, 0.5)[data.request_of_row]
        # Missing flags are not scaled in ours: they are put beside the scaled columns.
        pipeline = make_pipeline(StandardScaler(), SimpleImputer(strategy="constant", fill_value=0))
        scaled = pipeline.fit_transform(values)
        flags = np.isnan(data.values)
        model = LogisticRegression(max_iter=500).fit(
            np.hstack([scaled, flags]), data.relevance > 0, weights
        )
        scorer = LogisticTrainer().fit(data, data).scorer
        assert isinstance(scorer, LinearScorer)
        expected = model.decision_function(np.hstack([scaled, flags]))
        found = scorer.score(data.matrix(scorer.spec.names))
        np.testing.assert_allclose(found, expected, atol=1e-4)

    def test_a_column_that_says_nothing_gets_no_weight(self) -> None:
        data = shown_slates(5)
        flat = data.values.copy()
        flat[:, 2] = np.where(np.isnan(flat[:, 2]), np.nan, 7.0)
        flat[:, 1] = np.nan
        scorer = LogisticTrainer().fit(replace(data, values=flat), data).scorer
        assert isinstance(scorer, LinearScorer)
        assert scorer.coefficients[1:3].tolist() == [0, 0]

    def test_more_rows_than_allowed_are_thinned_out(self) -> None:
        small = LogisticTrainer(rows_max=500).fit(shown_slates(5), shown_slates(6)).scorer
        assert isinstance(small, LinearScorer)
        assert -2 < small.coefficients[0] < -0.5


class TestHeadsOfTrees(RowTrainerContract):
    def trainer(self) -> HeadsTrainer:
        return HeadsTrainer(kinds=("click",), depth=3, boosted=BOOSTED)


class TestLinearHeads(RowTrainerContract):
    def trainer(self) -> HeadsTrainer:
        return HeadsTrainer(kinds=("click",), classifier="linear", calibration="isotonic")

    def test_place_and_worth_are_told_apart(self) -> None:
        (head,) = heads_of(self.trainer(), shown_slates(5, missing=0))
        assert isinstance(head.scorer, LinearScorer)
        names = head.scorer.spec.names
        found = dict(zip(names, head.scorer.coefficients.tolist(), strict=True))
        assert found["position"] == pytest.approx(-0.25, abs=0.05)
        assert found["age_h"] == pytest.approx(-1.0, abs=0.15)

    def test_without_places_what_stood_high_seems_worth_more(self) -> None:
        (head,) = heads_of(self.trainer(), replace(shown_slates(5), shown_at=None))
        assert isinstance(head.scorer, LinearScorer)
        assert head.scorer.coefficients[0] < -1.4


def heads_of(trainer: HeadsTrainer, data: Examples) -> tuple[Head, ...]:
    held = shown_slates(6) if data.known_places else replace(shown_slates(6), shown_at=None)
    scorer = trainer.fit(data, held).scorer
    assert isinstance(scorer, ValueScorer)
    return scorer.heads


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_each_kind_gets_a_calibrated_head(method: str) -> None:
    trainer = HeadsTrainer(depth=3, boosted=BOOSTED, calibration=method)
    fitted = trainer.fit(shown_slates(5), shown_slates(6))
    scorer = fitted.scorer
    assert isinstance(scorer, ValueScorer)
    assert [head.kind for head in scorer.heads] == ["click", "hide"]
    assert {type(head.calibration) for head in scorer.heads} == {
        {"platt": Platt, "isotonic": Isotonic}[method]
    }
    assert fitted.figures["click_ece"] < 0.05
    assert fitted.figures["hide_ece"] < 0.05
    new = shown_slates(9)
    likely = scorer.probabilities(new.matrix(scorer.spec.names))
    for kind, happened in new.engaged.items():
        assert likely[kind].mean() == pytest.approx(happened.mean(), abs=0.02)


def test_kinds_that_are_rare_get_no_head_and_a_sentence() -> None:
    trainer = HeadsTrainer(kinds=("click", "share"), depth=3, boosted=BOOSTED)
    fitted = trainer.fit(shown_slates(5), shown_slates(6))
    assert fitted.notes[0].startswith("There is no head for share: training has 0 of them")
    assert "as if it stood first" in fitted.notes[1]


def test_only_what_was_shown_teaches_a_head() -> None:
    data = shown_slates(5)
    shown = np.where(np.arange(len(data)) % 12 < 8, data.shown_at, -1)
    trainer = HeadsTrainer(kinds=("click",), classifier="linear")
    some = trainer.fit(replace(data, shown_at=shown), shown_slates(6))
    assert some.figures["click_positives"] == data.engaged["click"][shown >= 0].sum()


def test_what_is_too_early_to_say_teaches_no_head() -> None:
    data = shown_slates(5)
    late = np.arange(len(data)) >= 2_400
    early = np.where(late, -1, data.engaged["click"]).astype(np.int8)
    trainer = HeadsTrainer(kinds=("click",), classifier="linear")
    some = trainer.fit(replace(data, engaged={"click": early}), shown_slates(6))
    assert some.figures["click_positives"] == data.engaged["click"][:2_400].sum()


def test_a_kind_that_no_head_is_for_is_refused() -> None:
    with pytest.raises(TrainingError, match="no head is for clack: kinds are click"):
        HeadsTrainer(kinds=("clack",)).fit(shown_slates(5), shown_slates(6))


def test_requests_weigh_less_the_more_a_user_has() -> None:
    weights = user_weights(np.array(["ann", "ann", "ann", "ann", "bob"]), 0.5)
    np.testing.assert_allclose(weights / weights[-1], [0.5, 0.5, 0.5, 0.5, 1.0])
    assert weights.mean() == pytest.approx(1.0)
    np.testing.assert_allclose(user_weights(np.array(["ann", "ann", "bob"]), 0), 1.0)
