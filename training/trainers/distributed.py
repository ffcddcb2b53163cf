"""One large tenant: XGBoost over all workers of a cluster, on partitions aligned by request.

XGBoost takes requests that are unsorted, or cut in two by a partition, without a word, and ranks
nonsense. So partitions are checked before anything is trained: the rows of a request together,
requests ascending, none in two partitions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ranking.scorers.boosted import BoostedScorer
from training.errors import TooFewEvents, TrainingError
from training.trainers.base import Stopwatch
from training.trainers.boosted import BoostedTrainer
from training.trainers.rows import Examples, Fitted

__all__ = ["Partition", "check_aligned", "fit_distributed"]


@dataclass(frozen=True, slots=True)
class Partition:
    """Some requests, whole: `requests` int64[n] numbers the request of each row, ascending."""

    examples: Examples
    requests: npt.NDArray[np.int64]

    @classmethod
    def cut(cls, examples: Examples, first: int = 0) -> "Partition":
        """The examples as a partition whose requests count from `first`."""
        return cls(examples, examples.request_of_row + first)


def check_aligned(partitions: Sequence[Partition]) -> None:
    """Raise `TrainingError` for requests that are unsorted, or that lie in two partitions."""
    last = -1
    for number, partition in enumerate(partitions):
        requests = partition.requests
        if len(requests) != len(partition.examples):
            raise TrainingError(
                f"partition {number} has {len(requests)} request numbers for "
                f"{len(partition.examples)} rows: give one for each"
            )
        if (np.diff(requests) < 0).any():
            raise TrainingError(
                f"partition {number} is not sorted by request: sort it, or XGBoost ranks nonsense"
            )
        if len(requests) and requests[0] <= last:
            raise TrainingError(
                f"request {requests[0]} of partition {number} is in an earlier one too, or comes "
                "after a later one: cut partitions between requests, in their order"
            )
        last = int(requests[-1]) if len(requests) else last


def fit_distributed(
    client: Any,  # Any: a client of `distributed`, which has no types
    partitions: Sequence[Partition],
    trainer: BoostedTrainer,
    trees: int,
    *,
    seed: int = 0,
) -> Fitted:
    """Grow so many trees on all partitions together, one at least a worker; the scorer serves.

    Requests weigh alike. Raises `TrainingError` where partitions are not aligned, and
    `TooFewEvents` where no row was engaged with.
    """
    from dask import array as da  # noqa: PLC0415 - only who trains on a cluster pays for it
    from xgboost import dask as xgboost_dask  # noqa: PLC0415

    watch = Stopwatch()
    check_aligned(partitions)
    if not any((partition.examples.relevance > 0).any() for partition in partitions):
        raise TooFewEvents("no candidate of any partition was engaged with: record more")
    first = partitions[0].examples
    names = first.taught(first.names)

    def joined(columns: Sequence[npt.NDArray[Any]]) -> Any:  # Any: dask has no types
        return da.concatenate([da.from_array(each, chunks=each.shape) for each in columns])

    matrix = xgboost_dask.DaskQuantileDMatrix(
        client,
        joined([partition.examples.matrix(names).values for partition in partitions]),
        joined([partition.examples.relevance.astype(np.float32) for partition in partitions]),
        qid=joined([partition.requests for partition in partitions]),
        feature_names=list(names),
    )
    found = xgboost_dask.train(
        client, trainer.parameters(names, seed), matrix, num_boost_round=trees
    )
    scorer = BoostedScorer(first.spec(names), bytes(found["booster"].save_raw("ubj")))
    return Fitted(scorer, {"trees": float(trees), "seconds": watch.seconds})
