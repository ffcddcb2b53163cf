from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from feeds.model import UserId
from ranking.features import FeatureSpec
from training.config import (
    BoostedConfig,
    BoostedVariant,
    FactorizationConfig,
    RequestConfig,
    TrainingConfig,
)
from training.evaluation.rankings import mean_ndcg
from training.events.log import EventLog
from training.factors import factorize, interactions_until
from training.sets.dataset import TrainingSet, collect
from training.sets.replay import replay
from training.sets.requests import find_requests
from training.steps import FEATURE_NAMES, factor_table, plan_run, train_factors
from training.testing import community, events_of, log_of, write_export
from training.trainers.boosted import BoostedTrainer, features_of
from training.trainers.rows import Examples

NEVER = 2**62
KINDS = ("like",)
Sets = tuple[TrainingSet, TrainingSet]
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


@pytest.mark.parametrize(("least", "found"), [(10_000, False), (10, True)])
def test_factors_are_learnt_where_there_are_enough_engagements(
    log: EventLog, tmp_path: Path, least: int, found: bool
) -> None:
    config = replace(TrainingConfig(), factorization=replace(CONFIG, engagements_min=least))
    plan = plan_run(write_export(log, tmp_path / "export"), "acme", tmp_path / "run", config)
    trained = train_factors(plan)
    table = factor_table(trained.path)
    assert (None if table is None else table.dimensions) == (8 if found else None)
    assert trained.figures["interactions"] > 100


@pytest.fixture(scope="module")
def sets(log: EventLog) -> Sets:
    config = RequestConfig()
    requests = find_requests(log.events, config)
    half = len(requests) // 2
    train, validation = (
        collect(replay(log, part, FeatureSpec(FEATURE_NAMES), config), FEATURE_NAMES)
        for part in (requests[:half], requests[half:])
    )
    return train, validation


def trainer(families: tuple[str, ...] | None = None) -> BoostedTrainer:
    config = BoostedConfig(trees_max=20, stop_rounds=5)
    return BoostedTrainer(BoostedVariant("small", 3, families), config)


def test_trees_rank_better_than_time_on_a_known_truth(sets: Sets) -> None:
    train, held = sets
    scorer = trainer().fit(Examples.of(train), Examples.of(held), seed=1).scorer
    learnt = mean_ndcg(held, scorer.score(held.columns(scorer.spec.names)), 10)
    assert learnt > mean_ndcg(held, -held.matrix.column("age_h"), 10) + 0.1


def test_a_variant_reads_its_families_alone(sets: Sets) -> None:
    names = trainer(("recency",)).fit(*map(Examples.of, sets)).scorer.spec.names
    assert names == ("age_h", "hours_since_engagement", "hours_since_active")
    assert features_of(BoostedVariant("all", 3), FEATURE_NAMES) == FEATURE_NAMES


def test_refitting_keeps_the_number_of_trees(sets: Sets) -> None:
    assert trainer().refit(Examples.of(sets[0]), 7).figures["trees"] == 7
