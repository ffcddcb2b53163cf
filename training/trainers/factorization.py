"""LightFM with WARP loss: factors of users, activities and tags; the only importer of LightFM.

An activity is the sum of its own vector and its tags' (Kula 2015), so an activity that comes later
is scored by its tags. One thread: two race on the same vectors, and no seed repeats that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from feeds.counters import counted_tags
from feeds.events import Engagement, Posted
from feeds.model import ActivityId, position_of
from ranking.scorers.factorization import Embeddings, FactorTable
from training.config import FactorizationConfig
from training.event_log import EventLog, read_event_log
from training.trainers.base import Stopwatch, Trained

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["FactorizationTrainer", "Interactions", "factorize", "interactions_until"]

Name = TypeVar("Name", str, bytes)

FACTORS_FILE = "factors.npz"


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


@dataclass(frozen=True, slots=True)
class FactorizationTrainer:
    """Learns from the engagements of an export that are earlier than `until_us`."""

    tenant: str
    until_us: int
    config: FactorizationConfig
    kinds: tuple[str, ...]
    seed: int

    @property
    def name(self) -> str:
        """The model's name."""
        return "factorization"

    def train(self, source: Path, out: Path) -> Trained:
        """Read the export at `source`, write `factors.npz`; an empty file where there are too few.

        `figures` has `interactions`, `users`, `activities`, `seconds`.
        """
        watch = Stopwatch()
        found = interactions_until(read_event_log(source, self.tenant), self.until_us, self.kinds)
        path = out / FACTORS_FILE
        enough = len(found) >= self.config.engagements_min
        path.write_bytes(factorize(found, self.config, self.seed).pack() if enough else b"")
        figures = {
            "interactions": float(len(found)),
            "users": float(len(found.users)),
            "activities": float(len(found.activities)),
            "seconds": watch.seconds,
        }
        return Trained(self.name, path, ("factor_dot", "factor_bias"), figures)


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


def factorize(found: Interactions, config: FactorizationConfig, seed: int) -> FactorTable:
    """The factors; equal inputs and seed give equal bytes."""
    from lightfm import LightFM  # noqa: PLC0415 - only workers pay for it
    from scipy import sparse  # noqa: PLC0415

    users, activities = (np.array(side, np.int32) for side in zip(*found.pairs, strict=True))
    shape = (len(found.users), len(found.activities))
    ones = np.ones(len(found), np.float32)
    features = _activity_features(found)
    model = LightFM(
        no_components=config.dimensions,
        loss="warp",
        learning_rate=config.learning_rate,
        item_alpha=config.item_alpha,
        user_alpha=config.user_alpha,
        random_state=seed,
    )
    model.fit(
        sparse.coo_matrix((ones, (users, activities)), shape=shape, dtype=np.float32),
        item_features=features,
        epochs=config.epochs,
        num_threads=1,
    )
    user_biases, user_factors = model.get_user_representations()
    biases, factors = model.get_item_representations(features)
    own = len(found.activities)
    return FactorTable(
        users=_embeddings(found.users, user_factors, user_biases),
        activities=_embeddings([position_of(a) for a in found.activities], factors, biases),
        tags=_embeddings(found.tags, model.item_embeddings[own:], model.item_biases[own:]),
    )


def _activity_features(found: Interactions) -> "sparse.csr_matrix":
    """float32[activities, activities + tags]: an activity is itself and each of its tags."""
    from scipy import sparse  # noqa: PLC0415

    own = len(found.activities)
    cells = [(number, number) for number in range(own)]
    cells += [(n, own + tag) for n, tags in enumerate(found.tags_of) for tag in tags]
    rows, columns = zip(*cells, strict=True)
    ones = np.ones(len(cells), np.float32)
    return sparse.csr_matrix(
        (ones, (rows, columns)), shape=(own, own + len(found.tags)), dtype=np.float32
    )


def _embeddings(
    names: Sequence[Name], factors: npt.NDArray[np.float32], biases: npt.NDArray[np.float32]
) -> Embeddings[Name]:
    return Embeddings(names, factors.astype(np.float32), biases.astype(np.float32))
