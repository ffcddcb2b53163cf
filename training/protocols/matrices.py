"""MovieLens 100K as matrices of users by movies, and a contest of trainers on them.

Each family of trainers is tuned on a validation part that is cut out of the train part by the same
rule as the test part; then it is trained on the whole train part, and looks at the test part once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ranking.metrics import (
    RELATION,
    Interval,
    bootstrap_interval,
    mean_by_user,
    ndcg_at_k,
    paired_difference,
)
from training.evaluation.rankings import CHRONOLOGICAL, RANDOM
from training.protocols.base import Figure, ProtocolOptions
from training.sources.base import Progress
from training.sources.movielens import fetch_wheel, read_ratings
from training.trainers.als import AlsTrainer
from training.trainers.base import MatrixTrainer
from training.trainers.ease import EaseTrainer
from training.trainers.factorization import FactorizationTrainer
from training.trainers.popularity import PopularityTrainer

if TYPE_CHECKING:
    from scipy import sparse

__all__ = [
    "FAMILIES",
    "Contest",
    "K",
    "Ratings",
    "Split",
    "load_ratings",
    "ndcg_of_users",
    "run_contest",
]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

K = 10
"""Places that count."""

POPULARITY = "popularity"

FAMILIES: Mapping[str, Sequence[MatrixTrainer]] = {
    "EASE": [EaseTrainer(l2=l2) for l2 in (125.0, 250.0, 500.0, 1_000.0, 2_000.0)],
    "ALS": [
        AlsTrainer(dimensions=dimensions, l2=l2, alpha=alpha)
        for dimensions in (16, 32, 64)
        for l2, alpha in ((20.0, 3.0), (40.0, 6.0), (75.0, 12.5), (150.0, 25.0))
    ],
    "LightFM WARP": [
        FactorizationTrainer(
            dimensions=dimensions,
            epochs=epochs,
            learning_rate=step,
            user_l2=1e-6,
            activity_l2=1e-6,
            tries_max=15,
        )
        for dimensions in (32, 64)
        for step, epochs in ((0.05, 15), (0.03, 30), (0.02, 50))
    ],
}
"""What is tried of each family, the simpler first: around what a search of wide spaces found on a
validation part of P1 alone (docs/recipes.md)."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings in order of time: numbers of users and movies, int64[n] each, when, and how high."""

    users: npt.NDArray[np.int64]
    movies: npt.NDArray[np.int64]
    times_us: npt.NDArray[np.int64]
    heights: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """Users and movies."""
        return int(self.users.max()) + 1, int(self.movies.max()) + 1

    def matrix(self, rows: Mask) -> "sparse.csr_matrix":
        """Some of the ratings as csr [users, movies] of ones."""
        from scipy import sparse  # noqa: PLC0415 - only who runs a protocol pays for it

        cells = (self.users[rows], self.movies[rows])
        return sparse.csr_matrix((np.ones(int(rows.sum()), np.float32), cells), self.shape)

    def newest(self, rows: Mask) -> Floats:
        """A score for each movie, float64[movies]: when it was first rated; -inf if it was not."""
        first = np.full(self.shape[1], np.inf)
        np.minimum.at(first, self.movies[rows], self.times_us[rows].astype(np.float64))
        return np.where(np.isfinite(first), first, -np.inf)


@dataclass(frozen=True, slots=True)
class Split:
    """Which ratings teach and which judge, bool[n] each."""

    train: Mask
    test: Mask


@dataclass(frozen=True, slots=True)
class Contest:
    """NDCG of every ranking, its figure, and how it stands to popularity."""

    figures: tuple[Figure, ...]
    differences: Mapping[str, Interval]
    """To popularity, over the same users; of all but popularity."""
    users: int

    @property
    def verdicts(self) -> tuple[str, ...]:
        """How each ranking stands to popularity, a sentence each."""
        return tuple(
            f"{name} is {RELATION[difference.verdict()]} {POPULARITY}: NDCG@{K} "
            f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}], "
            f"{difference.users} users."
            for name, difference in self.differences.items()
        )


def load_ratings(cache: Path) -> Ratings:
    """The ratings, out of recbole's wheel, downloaded unless it is in `cache`."""
    ratings = sorted(read_ratings(fetch_wheel(cache)), key=lambda rating: rating.time_us)
    return Ratings(
        users=_numbers([rating.user for rating in ratings]),
        movies=_numbers([rating.movie for rating in ratings]),
        times_us=np.array([rating.time_us for rating in ratings], np.int64),
        heights=np.array([rating.rating for rating in ratings], np.float64),
    )


def _numbers(names: list[str]) -> npt.NDArray[np.int64]:
    """A number for each name, int64[n], in order of the names."""
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def ndcg_of_users(
    scores: npt.NDArray[np.floating], seen: "sparse.csr_matrix", wanted: "sparse.csr_matrix"
) -> Floats:
    """NDCG@10 of each user, float64[users]; NaN for those who want nothing.

    All movies that the user has not `seen` are candidates; no negatives are sampled. The ideal
    order has all that is wanted on top.
    """
    values = np.array(scores, dtype=np.float64)
    values[seen.nonzero()] = -np.inf
    best = np.argsort(-values, axis=1, kind="stable")[:, :K]
    relevant = np.zeros(values.shape, np.bool_)
    relevant[wanted.nonzero()] = True
    found = np.take_along_axis(relevant, best, axis=1)
    totals = relevant.sum(axis=1).tolist()
    return np.array(
        [ndcg_at_k(row, K, ideal=[1] * total) for row, total in zip(found, totals, strict=True)]
    )


def run_contest(
    ratings: Ratings,
    tuning: Split,
    split: Split,
    options: ProtocolOptions,
    progress: Progress,
    *,
    bounds: Mapping[str, tuple[float | None, float | None]],
) -> Contest:
    """Tune each family on `tuning`, then judge all on `split`.

    `bounds` has the published figure and the least to reach, by name.
    """
    families = {name: tried[:1] if options.short else tried for name, tried in FAMILIES.items()}
    steps = sum(len(tried) + 1 for tried in families.values())
    values = _baselines(ratings, split, options.seed)
    chosen: dict[str, str] = {}
    done = 0
    for name, tried in families.items():
        validated = []
        for trainer in tried:
            progress(f"{name}: trying {trainer}", done, steps)
            validated.append(float(np.nanmean(_judged(trainer, ratings, tuning, options.seed))))
            done += 1
        best = tried[int(np.argmax(validated))]
        progress(f"{name}: training {best}", done, steps)
        values[name] = _judged(best, ratings, split, options.seed)
        chosen[name] = f"{best} with {max(validated):.4f}"
        done += 1
    progress("intervals", steps, steps)
    return _contest(values, chosen, bounds, options)


def _judged(trainer: MatrixTrainer, ratings: Ratings, split: Split, seed: int) -> Floats:
    train, test = ratings.matrix(split.train), ratings.matrix(split.test)
    scores = trainer.fit(train, seed=seed).scores(np.arange(ratings.shape[0]))
    return ndcg_of_users(scores, train, test)


def _baselines(ratings: Ratings, split: Split, seed: int) -> dict[str, Floats]:
    train, test = ratings.matrix(split.train), ratings.matrix(split.test)
    popular = PopularityTrainer().fit(train).scores(np.arange(ratings.shape[0]))
    scores: dict[str, npt.NDArray[np.floating]] = {
        RANDOM: np.random.default_rng(seed).random(ratings.shape),
        CHRONOLOGICAL: np.broadcast_to(ratings.newest(split.train), ratings.shape),
        POPULARITY: popular,
    }
    return {name: ndcg_of_users(each, train, test) for name, each in scores.items()}


def _contest(
    values: Mapping[str, Floats],
    chosen: Mapping[str, str],
    bounds: Mapping[str, tuple[float | None, float | None]],
    options: ProtocolOptions,
) -> Contest:
    numbers = [f"{user:06}" for user in range(len(values[POPULARITY]))]
    defined = {name: mean_by_user(numbers, each)[1] for name, each in values.items()}
    figures = []
    for name, each in defined.items():
        interval = bootstrap_interval(each, options.seed, draws=options.draws)
        published, least = bounds.get(name, (None, None))
        figures.append(
            Figure(
                name=name,
                value=interval.mean,
                interval=(interval.low, interval.high),
                published=published,
                least=least,
                chosen=chosen.get(name, ""),
            )
        )
    differences = {
        name: paired_difference(each, defined[POPULARITY], options.seed, draws=options.draws)
        for name, each in defined.items()
        if name != POPULARITY
    }
    return Contest(tuple(figures), differences, len(defined[POPULARITY]))
