"""P1: MovieLens 100K, a quarter of each user's ratings held out at random, all ratings positive.

The protocol of the comparisons of algorithms by Recommenders and Cornac: what was rated in training
is no candidate, everything else is, k is 10.
"""

import numpy as np
import numpy.typing as npt

from training.protocols.base import Check, Figure, ProtocolOptions, ProtocolReport
from training.protocols.matrices import Ratings, Split, load_ratings, run_contest
from training.sources.base import Progress

__all__ = ["TITLE", "run"]

TITLE = "MovieLens 100K, 75/25 of each user's ratings, all positive"

TRAIN_SHARE = 0.75
BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "popularity": (0.245, None),
    "EASE": (0.475, 0.465),
    "ALS": (0.470, 0.465),
    "LightFM WARP": (0.448, 0.440),
}
"""What was measured before on this protocol, and the least to reach."""

PUBLISHED = {"BiVAE": 0.4751, "BPR": 0.4420, "LightGCN": 0.4198, "NCF": 0.3961}
"""NDCG@10 that others published."""

CONVENTIONS = (
    "NDCG@10, the mean over users, gain 1 for each held out movie; who has none is left out.",
    "Candidates are all movies that the user did not rate in training; no negatives are sampled.",
    (
        "Hyperparameters are chosen on a validation part, 25 % of each user's training ratings, "
        "from a grid around what a search found on such a part; the test part is looked at once. "
        "A random split lets the future teach the past: P2 does "
        "not."
    ),
    "Intervals are 95 %, from a bootstrap of users; differences are over the same users.",
)


def run(options: ProtocolOptions, progress: Progress) -> ProtocolReport:
    """Tune EASE, ALS and LightFM on validation and judge them beside the baselines."""
    progress("looking for the MovieLens data", 0, None)
    ratings = load_ratings(options.cache)
    split = _split(ratings, np.ones(len(ratings.users), np.bool_), options.seed)
    tuning = _split(ratings, split.train, options.seed + 1)
    contest = run_contest(ratings, tuning, split, options, progress, bounds=BOUNDS)
    checks = tuple(
        Check(
            figure.value >= figure.least,
            f"{figure.name} has NDCG@10 {figure.value:.4f}, at least {figure.least:.3f}",
        )
        for figure in contest.figures
        if figure.least is not None
    )
    return ProtocolReport(
        protocol="p1",
        title=TITLE,
        unit="NDCG@10",
        figures=contest.figures,
        published=tuple(
            Figure(name=name, value=value, published=value) for name, value in PUBLISHED.items()
        ),
        verdicts=contest.verdicts,
        checks=checks,
        conventions=CONVENTIONS,
        counts={
            "users": contest.users,
            "movies": ratings.shape[1],
            "train ratings": int(split.train.sum()),
            "test ratings": int(split.test.sum()),
        },
    )


def _split(ratings: Ratings, rows: npt.NDArray[np.bool_], seed: int) -> Split:
    """Three quarters of each user's ratings among `rows` teach, the others judge."""
    places = np.flatnonzero(rows)
    users = ratings.users[places]
    order = np.lexsort((np.random.default_rng(seed).random(len(users)), users))
    counts = np.bincount(users, minlength=ratings.shape[0])
    rank = np.empty(len(users), np.int64)
    rank[order] = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    taught = rank < np.round(TRAIN_SHARE * counts[users])
    train, test = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    train[places[taught]] = True
    test[places[~taught]] = True
    return Split(train, test)
