"""One large tenant: XGBoost over all workers of a cluster, on partitions aligned by request.

XGBoost takes requests that are unsorted, or cut in two by a partition, without a word, and ranks
nonsense. So partitions are checked before anything is trained: the rows of a request together,
requests ascending, none in two partitions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ranking.scorers.boosted import BoostedScorer
from training.cluster import client_of_worker
from training.errors import TooFewEvents, TrainingError
from training.trainers.base import Stopwatch
from training.trainers.boosted import BoostedTrainer, features_of
from training.trainers.rows import Examples, Fitted, OnRound, check_teaching

__all__ = ["DistributedTrainer", "Partition", "check_aligned", "fit_distributed", "partitions_of"]


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


def partitions_of(examples: Examples, count: int) -> list[Partition]:
    """The examples in so many partitions of about as many rows, cut between requests.

    Fewer where there are not requests enough; none is empty, and nothing is copied.
    """
    ends = np.cumsum(examples.sizes)
    total = int(ends[-1]) if len(ends) else 0
    wanted = [total * number // count for number in range(1, count + 1)]
    cuts = np.unique(np.searchsorted(ends, wanted, side="left") + 1).tolist()
    found, first = [], 0
    for last in cuts:
        part = _requests(examples, first, last)
        if len(part):
            found.append(Partition.cut(part, first))
        first = last
    return found


def _requests(examples: Examples, first: int, last: int) -> Examples:
    """The requests from `first` to before `last`, as views."""
    starts = np.concatenate([[0], np.cumsum(examples.sizes)])
    rows = slice(int(starts[first]), int(starts[last]))
    return replace(
        examples,
        values=examples.values[rows],
        relevance=examples.relevance[rows],
        sizes=examples.sizes[first:last],
        users=examples.users[first:last],
        engaged={kind: column[rows] for kind, column in examples.engaged.items()},
        shown_at=None if examples.shown_at is None else examples.shown_at[rows],
    )


@dataclass(frozen=True, slots=True)
class DistributedTrainer:
    """Grows the trees of a trainer over all workers of the cluster on which its step runs.

    What is fitted is as `BoostedTrainer` fits it, but for two things that XGBoost does not have
    there: requests weigh alike whoever their user is, and validation is looked at after each tree.
    `fit` and `refit` must run in a worker. The rows must fit in the memory of that worker, which
    hands them out.
    """

    trainer: BoostedTrainer

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.trainer.name

    def fit(
        self,
        train: Examples,
        validation: Examples,
        *,
        seed: int = 0,
        on_round: OnRound | None = None,
    ) -> Fitted:
        """See `RowTrainer.fit`; `on_round` hears of the best round, when all are over."""
        check_teaching(train, train.relevance > 0, self.name)
        with client_of_worker() as client:
            count = len(client.nthreads())
            fitted = fit_distributed(
                client,
                partitions_of(train, count),
                self.trainer,
                self.trainer.config.trees_max,
                seed=seed,
                validation=partitions_of(validation, count),
            )
        if on_round is not None:
            on_round(int(fitted.figures["trees"]), fitted.figures["validation_score"])
        return replace(fitted, notes=(f"{self.name} grew on {count} workers.",))

    def refit(self, data: Examples, trees: int, *, seed: int = 0) -> Fitted:
        """Train on all of the data with the number of trees that validation chose."""
        check_teaching(data, data.relevance > 0, self.name)
        with client_of_worker() as client:
            parts = partitions_of(data, len(client.nthreads()))
            return fit_distributed(client, parts, self.trainer, trees, seed=seed)


def fit_distributed(
    client: Any,  # Any: a client of `distributed`, which has no types
    partitions: Sequence[Partition],
    trainer: BoostedTrainer,
    trees: int,
    *,
    seed: int = 0,
    validation: Sequence[Partition] = (),
) -> Fitted:
    """Grow so many trees on all partitions together, which are dealt out to the workers in turn.

    With `validation`, as many as were best on it, ending as the trainer's config says; `figures`
    has its `validation_score` then. Requests weigh alike. Raises `TrainingError` where partitions
    are not aligned, and `TooFewEvents` where no row was engaged with.
    """
    from xgboost import dask as xgboost_dask  # noqa: PLC0415 - only who trains on a cluster pays

    watch = Stopwatch()
    check_aligned(partitions)
    check_aligned(validation)
    if not any((partition.examples.relevance > 0).any() for partition in partitions):
        raise TooFewEvents("no candidate of any partition was engaged with: record more")
    first = partitions[0].examples
    names = first.taught(features_of(trainer.variant, first.names))
    matrix = _matrix(client, partitions, names)
    held_out = [(_matrix(client, validation, names, matrix), "validation")] if validation else []
    found = xgboost_dask.train(
        client,
        trainer.parameters(names, seed),
        matrix,
        num_boost_round=trees,
        evals=held_out,
        early_stopping_rounds=trainer.config.stop_rounds if validation else None,
        verbose_eval=False,
    )
    booster, figures = found["booster"], {}
    if validation:
        figures["validation_score"] = float(booster.best_score)
        booster = booster[: booster.best_iteration + 1]
    scorer = BoostedScorer(first.spec(names), bytes(booster.save_raw("ubj")))
    grown = float(booster.num_boosted_rounds())
    return Fitted(scorer, figures | {"trees": grown, "seconds": watch.seconds})


def _matrix(
    client: Any, partitions: Sequence[Partition], names: tuple[str, ...], like: Any = None
) -> Any:
    """The partitions as XGBoost takes them, each on a worker; `like` lends its bins.

    Any: neither Dask nor XGBoost has types.
    """
    from dask import array as da  # noqa: PLC0415 - only who trains on a cluster pays for it
    from dask import delayed  # noqa: PLC0415
    from xgboost import dask as xgboost_dask  # noqa: PLC0415

    workers = sorted(client.nthreads())

    def dealt(columns: Sequence[npt.NDArray[Any]]) -> Any:
        blocks = []
        for number, column in enumerate(columns):
            # A key of its own: equal data of an earlier fit may be on their way out.
            worker = workers[number % len(workers)]
            (held,) = client.scatter([column], workers=[worker], hash=False)
            blocks.append(da.from_delayed(delayed(held), column.shape, column.dtype))
        return da.concatenate(blocks)

    return xgboost_dask.DaskQuantileDMatrix(
        client,
        dealt([partition.examples.matrix(names).values for partition in partitions]),
        dealt([partition.examples.relevance.astype(np.float32) for partition in partitions]),
        qid=dealt([partition.requests for partition in partitions]),
        feature_names=list(names),
        ref=like,
    )
