"""P2: MovieLens 100K, split at one moment: what came later judges, ratings of 4 or more count.

The same data as P1 without a look at the future. Few users rated both before and after, and for
those no method can be told from popularity: an evaluation that finds a winner here finds noise.
"""

import numpy as np

from training.protocols.base import Check, ProtocolOptions, ProtocolReport
from training.protocols.matrices import FAMILIES, Ratings, Split, load_ratings, run_contest
from training.sources.base import Progress

__all__ = ["TITLE", "run"]

TITLE = "MovieLens 100K, the last 20 % of time, ratings of 4 or more, known users"

TRAIN_SHARE = 0.8
RATING_MIN = 4.0
BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "popularity": (0.1168, None),
    "EASE": (0.1225, None),
    "LightFM WARP": (0.1201, None),
}
"""What was measured before on this protocol."""

CONVENTIONS = (
    "Ratings of 4 or more alone, in order of time: the first 80 % teach, the last 20 % judge.",
    (
        "NDCG@10, the mean over users who have ratings in both parts. Candidates are all movies "
        "that the user did not rate well in training; no negatives are sampled."
    ),
    "Hyperparameters are chosen on the last 20 % of the training ratings.",
    "Intervals are 95 %, from a bootstrap of users; differences are over the same users.",
)


def run(options: ProtocolOptions, progress: Progress) -> ProtocolReport:
    """Judge what P1 judges, by time, and say that nothing is distinguishable from popularity."""
    progress("looking for the MovieLens data", 0, None)
    ratings = load_ratings(options.cache)
    split = _split(ratings, np.flatnonzero(ratings.heights >= RATING_MIN))
    tuning = _split(ratings, np.flatnonzero(split.train))
    contest = run_contest(ratings, tuning, split, options, progress, bounds=BOUNDS)
    models = {name: contest.differences[name] for name in FAMILIES}
    told_apart = [name for name, each in models.items() if each.verdict() != "level"]
    summary = (
        f"Not level with popularity: {', '.join(told_apart)}"
        if told_apart
        else "No method is distinguishable from popularity"
    )
    return ProtocolReport(
        protocol="p2",
        title=TITLE,
        unit="NDCG@10",
        figures=contest.figures,
        verdicts=(f"{summary}.", *contest.verdicts),
        checks=(Check(not told_apart, f"{summary}, of {', '.join(models)}"),),
        conventions=CONVENTIONS,
        counts={
            "known users": contest.users,
            "train ratings": int(split.train.sum()),
            "test ratings": int(split.test.sum()),
        },
    )


def _split(ratings: Ratings, places: np.ndarray) -> Split:
    """Of the ratings at `places`, in order of time, the first 80 % teach; the others judge.

    Ratings of users who are not known by then judge nothing.
    """
    cut = int(TRAIN_SHARE * len(places))
    train, test = (np.zeros(len(ratings.users), np.bool_) for _ in range(2))
    train[places[:cut]] = True
    known = np.unique(ratings.users[places[:cut]])
    later = places[cut:]
    test[later[np.isin(ratings.users[later], known)]] = True
    return Split(train, test)
