from dataclasses import replace

import numpy as np
import pytest
from distributed import Client, LocalCluster

from training.config import BoostedConfig, BoostedVariant
from training.errors import TrainingError
from training.testing_trainers import TRUTH, served, shown_slates
from training.trainers.boosted import BoostedTrainer
from training.trainers.distributed import Partition, check_aligned, fit_distributed

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


def test_a_cluster_learns_what_one_process_learns() -> None:
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
        scorer = fit_distributed(client, partitions(), TRAINER, trees=30, seed=1).scorer
    data = shown_slates(7, missing=0)
    truth = data.values @ np.array(list(TRUTH.values()))
    ranks = [each.argsort().argsort() for each in (truth, scorer.score(served(scorer, data)))]
    assert np.corrcoef(*ranks)[0, 1] > 0.85
