from pathlib import Path

import numpy as np
import pytest

from feeds.model import UserId
from ranking.features import FeatureSpec
from ranking.scorers.boosted import BoostedScorer
from ranking.scorers.factorization import FactorTable
from training.config import BoostedConfig, BoostedVariant, FactorizationConfig, RequestConfig
from training.dataset import TrainingSet, collect
from training.evaluation import mean_ndcg
from training.event_log import EventLog
from training.factors import (
    FactorsTrainer,
    factorize,
    interactions_until,
)
from training.replay import replay
from training.requests import find_requests
from training.steps import FEATURE_NAMES, factor_table
from training.testing import community, events_of, log_of, write_export
from training.trainers.boosted import BoostedTrainer, features_of, user_weights

NEVER = 2**62
KINDS = ("like",)
CONFIG = FactorizationConfig(dimensions=8, epochs=10, engagements_min=10)


@pytest.fixture(scope="module")
def log() -> EventLog:
    return log_of(events_of(community(seed=3, users=24, days=16)))


def test_interactions_are_distinct_and_earlier(log: EventLog) -> None:
    found = interactions_until(log, NEVER, KINDS)
    assert len(found) == len(set(found.pairs)) == 24 * 16
    assert found.tags == ["t0", "t1", "t2", "t3"]
    assert len(interactions_until(log, log.events[0].time_us, KINDS)) == 0


def test_factors_repeat_bit_for_bit_and_know_a_users_taste(log: EventLog) -> None:
    found = interactions_until(log, NEVER, KINDS)
    table = factorize(found, CONFIG, seed=5)
    assert table.pack() == factorize(found, CONFIG, seed=5).pack()
    tags = np.array([[0], [1], [2], [3]], np.int32)
    dots, _ = table.dot(UserId("u2"), [b"0" * 16] * 4, tags, found.tags)
    assert int(dots.argmax()) == 2  # u2 likes topic t2, and these activities are new


def test_too_few_engagements_leave_no_factors(log: EventLog, tmp_path: Path) -> None:
    config = FactorizationConfig(engagements_min=10_000)
    trainer = FactorsTrainer("acme", NEVER, config, KINDS, seed=1)
    trained = trainer.train(write_export(log, tmp_path / "export"), tmp_path)
    assert factor_table(trained.path) is None
    assert trained.figures["interactions"] == 24 * 16


def test_factors_are_read_back_as_written(log: EventLog, tmp_path: Path) -> None:
    trainer = FactorsTrainer("acme", NEVER, CONFIG, KINDS, seed=1)
    trained = trainer.train(write_export(log, tmp_path / "export"), tmp_path)
    assert FactorTable.parse(trained.path.read_bytes()).dimensions == 8


@pytest.fixture(scope="module")
def sets(log: EventLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sets")

    config = RequestConfig()
    requests = find_requests(log.events, config)
    half = len(requests) // 2
    for name, part in (("ranker", requests[:half]), ("validation", requests[half:])):
        answers = replay(log, part, FeatureSpec(FEATURE_NAMES), config)
        collect(answers, FEATURE_NAMES).save(directory / f"{name}.npz")
    return directory


def trainer(families: tuple[str, ...] | None = None) -> BoostedTrainer:
    config = BoostedConfig(trees_max=20, stop_rounds=5)
    return BoostedTrainer(BoostedVariant("small", 3, families), config, k=10, seed=1)


def test_trees_repeat_bit_for_bit(sets: Path, tmp_path: Path) -> None:
    one = trainer().train(sets, tmp_path).path.read_bytes()
    assert one == trainer().train(sets, tmp_path).path.read_bytes()


def test_trees_rank_better_than_time_on_a_known_truth(sets: Path, tmp_path: Path) -> None:
    trained = trainer().train(sets, tmp_path)
    scorer = BoostedScorer(FeatureSpec(trained.features), trained.path.read_bytes())
    data = TrainingSet.load(sets / "validation.npz")
    learnt = mean_ndcg(data, scorer.score(data.columns(trained.features)), 10)
    assert learnt > mean_ndcg(data, -data.matrix.column("age_h"), 10) + 0.1


def test_a_variant_reads_its_families_alone(sets: Path, tmp_path: Path) -> None:
    trained = trainer(("recency",)).train(sets, tmp_path)
    assert trained.features == ("age_h", "hours_since_engagement", "hours_since_active")
    assert features_of(BoostedVariant("all", 3), FEATURE_NAMES) == FEATURE_NAMES


def test_refitting_keeps_the_number_of_trees(sets: Path, tmp_path: Path) -> None:
    assert trainer().refit(sets, tmp_path, 7).figures["trees"] == 7


def test_requests_weigh_less_the_more_a_user_has() -> None:
    weights = user_weights(np.array(["ann", "ann", "ann", "ann", "bob"]), 0.5)
    np.testing.assert_allclose(weights / weights[-1], [0.5, 0.5, 0.5, 0.5, 1.0])
    assert weights.mean() == pytest.approx(1.0)
    np.testing.assert_allclose(user_weights(np.array(["ann", "ann", "bob"]), 0), 1.0)
