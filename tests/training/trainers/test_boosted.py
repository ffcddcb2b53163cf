import pytest

from ranking.features import FeatureSpec
from training.config import (
    BoostedConfig,
    BoostedVariant,
    RequestConfig,
)
from training.evaluation.rankings import mean_ndcg
from training.events.log import EventLog
from training.sets.dataset import TrainingSet, collect
from training.sets.replay import replay
from training.sets.requests import find_requests
from training.steps import FEATURE_NAMES
from training.testing import community, events_of, log_of
from training.trainers.boosted import BoostedTrainer, features_of
from training.trainers.rows import Examples

Sets = tuple[TrainingSet, TrainingSet]


@pytest.fixture(scope="module")
def log() -> EventLog:
    return log_of(events_of(community(seed=3, users=24, days=16)))


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
