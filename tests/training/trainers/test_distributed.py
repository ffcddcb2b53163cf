from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

from ranking.scorers.base import Scorer
from training.config import BoostedConfig, BoostedVariant
from training.errors import ClusterError, TrainingError
from training.testing_trainers import TRUTH, served, shown_slates
from training.trainers.boosted import BoostedTrainer
from training.trainers.distributed import (
    DistributedTrainer,
    Partition,
    check_aligned,
    fit_distributed,
    partitions_of,
)
from training.trainers.rows import Examples

TRAINER = BoostedTrainer(BoostedVariant("large", 3), BoostedConfig())


def partitions() -> list[Partition]:
    return [Partition.cut(shown_slates(5)), Partition.cut(shown_slates(6), first=300)]


def test_aligned_partitions_pass() -> None:
    check_aligned(partitions())


def test_a_request_in_two_partitions_is_refused() -> None:
    first, second = partitions()
    with pytest.raises(TrainingError, match="request 299 of partition 1 is in an earlier one"):
        check_aligned([first, replace(second, requests=second.requests - 1)])
    with pytest.raises(TrainingError, match="comes after a later one"):
        check_aligned([second, first])


def test_unsorted_rows_are_refused() -> None:
    first, _ = partitions()
    with pytest.raises(TrainingError, match="partition 0 is not sorted by request"):
        check_aligned([replace(first, requests=first.requests[::-1].copy())])
    with pytest.raises(TrainingError, match="has 2 request numbers for 3600 rows"):
        check_aligned([replace(first, requests=first.requests[:2])])


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=30).filter(any),
    st.integers(1, 6),
)
def test_partitions_are_aligned_and_hold_every_row_once(sizes: list[int], count: int) -> None:
    total = sum(sizes)
    data = Examples(
        names=("age_h",),
        values=np.arange(total, dtype=np.float32)[:, None],
        relevance=np.zeros(total, np.int8),
        sizes=np.array(sizes, np.int64),
        users=np.array([f"u{n}" for n in range(len(sizes))], np.str_),
    )
    parts = partitions_of(data, count)
    check_aligned(parts)
    assert 1 <= len(parts) <= count
    assert all(len(part.examples) for part in parts)
    values = np.concatenate([part.examples.values for part in parts])
    assert values.tolist() == data.values.tolist()
    requests = np.concatenate([part.requests for part in parts])
    assert requests.tolist() == data.request_of_row.tolist()


def test_trees_on_all_workers_need_a_worker() -> None:
    data = shown_slates(5)
    with pytest.raises(ClusterError, match="must be a step on one of them"):
        DistributedTrainer(TRAINER).fit(data, data)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=False,
            dashboard_address=None,
            silence_logs=40,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def agreement(scorer: Scorer) -> float:
    """How far the order that a scorer gives to new slates is the true one: 1 is all."""
    data = shown_slates(7, missing=0)
    truth = data.values @ np.array(list(TRUTH.values()))
    first, second = (
        each.argsort().argsort() for each in (truth, scorer.score(served(scorer, data)))
    )
    return float(np.corrcoef(first, second)[0, 1])


def test_a_cluster_learns_what_one_process_learns(client: Client) -> None:
    scorer = fit_distributed(client, partitions(), TRAINER, trees=30, seed=1).scorer
    assert agreement(scorer) > 0.85


def test_a_step_of_a_worker_grows_on_all_and_is_as_good_as_one_process(client: Client) -> None:
    """What `headwater train` does where rows are many: validation stops it, and both refit."""
    data, held = shown_slates(5), shown_slates(6)
    config = replace(TRAINER.config, user_weight_power=0.0, trees_max=60)
    alone = replace(TRAINER, config=config)
    spread = DistributedTrainer(alone)
    here = alone.fit(data, held, seed=1)
    there = client.submit(spread.fit, data, held, seed=1).result()
    assert spread.name == alone.name
    assert there.notes == ("large grew on 2 workers.",)
    assert 1 <= there.figures["trees"] <= 60
    assert there.figures["validation_score"] == pytest.approx(
        here.figures["validation_score"], abs=0.02
    )
    assert agreement(there.scorer) == pytest.approx(agreement(here.scorer), abs=0.05)
    trees = int(there.figures["trees"])
    again = client.submit(spread.refit, data, trees, seed=1).result()
    assert again.figures["trees"] == trees
    assert agreement(again.scorer) == pytest.approx(agreement(here.scorer), abs=0.05)
