"""The factors of a tenant: who engaged with what, as matrices for a trainer, and back as a table.

An activity is the sum of its own vector and its tags' (Kula 2015), so an activity that comes later
is scored by its tags. One thread: two race on the same vectors, and no seed repeats that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from feeds.counters import counted_tags
from feeds.events import Engagement, Posted
from feeds.model import ActivityId, position_of
from ranking.scorers.factorization import Embeddings, FactorTable
from training.config import TrainingConfig
from training.events.log import EventLog
from training.trainers.als import AlsTrainer
from training.trainers.base import Embedded, FactorModel, MatrixModel, MatrixTrainer, OnEpoch
from training.trainers.ease import EaseTrainer
from training.trainers.factorization import FactorizationTrainer

if TYPE_CHECKING:
    from scipy import sparse

__all__ = [
    "Interactions",
    "fit_factors",
    "interactions_until",
    "matrix_trainers",
    "named_factors",
    "table_of",
]

Name = TypeVar("Name", str, bytes)


@dataclass(frozen=True, slots=True)
class Interactions:
    """Who engaged with what, each pair once; activities with their tags. Names are sorted."""

    users: list[str]
    activities: list[ActivityId]
    tags: list[str]
    pairs: list[tuple[int, int]]
    tags_of: list[tuple[int, ...]]

    def __len__(self) -> int:
        """How many distinct pairs there are."""
        return len(self.pairs)

    def save(self, path: Path) -> Path:
        """Write them as an `.npz` file without pickle; returns the path."""
        tags = [tag for tags in self.tags_of for tag in tags]
        with path.open("wb") as stream:
            np.savez(
                stream,
                allow_pickle=False,
                users=np.array(self.users, np.str_),
                activities=np.array(self.activities, np.str_),
                tags=np.array(self.tags, np.str_),
                pairs=np.array(self.pairs, np.int64).reshape(-1, 2),
                tags_of=np.array(tags, np.int64),
                tags_each=np.array([len(tags) for tags in self.tags_of], np.int64),
            )
        return path

    @classmethod
    def load(cls, path: Path) -> "Interactions":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            tags = iter(arrays["tags_of"].tolist())
            return cls(
                users=arrays["users"].tolist(),
                activities=arrays["activities"].tolist(),
                tags=arrays["tags"].tolist(),
                pairs=[(user, activity) for user, activity in arrays["pairs"].tolist()],
                tags_of=[tuple(islice(tags, count)) for count in arrays["tags_each"].tolist()],
            )

    def matrix(self) -> "sparse.csr_matrix":
        """float32[users, activities], 1 for each pair."""
        return _ones(self.pairs, (len(self.users), len(self.activities)))

    def tag_matrix(self) -> "sparse.csr_matrix":
        """float32[activities, tags], 1 for each tag of an activity."""
        cells = [(number, tag) for number, tags in enumerate(self.tags_of) for tag in tags]
        return _ones(cells, (len(self.activities), len(self.tags)))


def interactions_until(log: EventLog, until_us: int, kinds: Iterable[str]) -> Interactions:
    """The distinct engagements of these kinds with known activities, earlier than a time."""
    wanted = frozenset(kinds)
    tags: dict[ActivityId, tuple[str, ...]] = {}
    pairs: set[tuple[str, ActivityId]] = set()
    for event in log.events:
        if event.time_us >= until_us:
            continue
        if isinstance(event, Posted):
            tags[event.activity_id] = counted_tags(event.tags)
        elif isinstance(event, Engagement) and event.kind in wanted and event.activity_id in tags:
            pairs.add((event.user, event.activity_id))
    users = sorted({user for user, _ in pairs})
    activities = sorted({activity for _, activity in pairs})
    names = sorted({tag for activity in activities for tag in tags[activity]})
    user_number = {user: number for number, user in enumerate(users)}
    number_of = {activity: number for number, activity in enumerate(activities)}
    tag_number = {tag: number for number, tag in enumerate(names)}
    return Interactions(
        users=users,
        activities=activities,
        tags=names,
        pairs=sorted((user_number[user], number_of[activity]) for user, activity in pairs),
        tags_of=[tuple(tag_number[tag] for tag in tags[activity]) for activity in activities],
    )


def matrix_trainers(config: TrainingConfig) -> tuple[MatrixTrainer, ...]:
    """The trainers of factors that take part, in the order that settles ties."""
    warp, als, ease = config.factorization, config.als, config.ease
    every: dict[str, MatrixTrainer] = {
        "warp": FactorizationTrainer(
            loss="warp",
            dimensions=warp.dimensions,
            epochs=warp.epochs,
            learning_rate=warp.learning_rate,
            user_l2=warp.user_alpha,
            activity_l2=warp.item_alpha,
        ),
        "als": AlsTrainer(als.dimensions, als.l2, als.alpha, als.epochs),
        "ease": EaseTrainer(ease.l2, ease.activities_max),
    }
    return tuple(trainer for name, trainer in every.items() if name in config.trainers)


def fit_factors(
    trainer: MatrixTrainer,
    found: Interactions,
    dimensions_max: int,
    seed: int,
    on_epoch: OnEpoch | None = None,
) -> FactorTable:
    """The factors of a trainer; equal inputs and seed give equal bytes.

    What has no vectors of its own is given the nearest of `dimensions_max`.
    """
    model = trainer.fit(
        found.matrix(), activity_features=found.tag_matrix(), seed=seed, on_epoch=on_epoch
    )
    return table_of(model, found, dimensions_max)


def table_of(model: MatrixModel, found: Interactions, dimensions_max: int) -> FactorTable:
    """What serves a model."""
    vectors = model.factors(dimensions_max)
    tags = () if vectors.features is None else found.tags
    return named_factors(vectors, found.users, [position_of(a) for a in found.activities], tags)


def named_factors(
    model: FactorModel, users: Sequence[str], positions: Sequence[bytes], tags: Sequence[str] = ()
) -> FactorTable:
    """The vectors of a model under the names of its users, activities and activity features."""
    none = np.zeros((0, model.users.vectors.shape[1]), np.float32)
    return FactorTable(
        users=_embeddings(users, model.users),
        activities=_embeddings(positions, model.activities),
        tags=_embeddings(tags, model.features or Embedded.without_biases(none)),
    )


def _embeddings(names: Sequence[Name], embedded: Embedded) -> Embeddings[Name]:
    return Embeddings(names, embedded.vectors, embedded.biases)


def _ones(pairs: Sequence[tuple[int, int]], shape: tuple[int, int]) -> "sparse.csr_matrix":
    from scipy import sparse  # noqa: PLC0415 - only workers pay for it

    rows, columns = np.array(pairs, np.int32).reshape(-1, 2).T
    ones = np.ones(len(pairs), np.float32)
    return sparse.csr_matrix((ones, (rows, columns)), shape=shape, dtype=np.float32)
