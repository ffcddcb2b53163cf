"""`headwater bench train`: trainers beside the libraries they call, on the same matrices.

Each training has a process of its own, so that its peak memory is its own; trainer and library take
turns, so that whatever else the machine does falls on both.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from training.bench.direct import MODELS, Model, Side, Taken, measured, save_data
from training.cli.options import CACHE
from training.sources.movielens import fetch_wheel, read_ratings

__all__ = ["train"]

ROUNDS_MIN = 3
ROUNDS_MAX = 15
_USERS_SHARE = 50
_ACTIVITIES_SHARE = 200


Next = tuple[str, float]
"""What is done next, and the share that is done."""

Told = dict[str, str | float]
"""A figure in the words of `serving.bench`: rates of trainings, and their details."""


def train(work: Path, seconds: float) -> Iterator[Next | Told]:
    """LightFM, ALS and XGBoost: on MovieLens 100K, and on a million made-up engagements.

    Rounds go on for about `seconds` for each, three at least. Below a second it is one round of a
    few engagements, and no MovieLens, which is downloaded once where it is not in the cache.
    """
    short = seconds < 1
    events = 3_000 if short else 1_000_000
    data = {f"{events:,} made-up engagements": _made_up(events, work / "made-up.npz")}
    if not short:
        data = {"MovieLens 100K": _movielens(work / "movielens.npz")} | data
    cases = [(name, path, model) for name, path in data.items() for model in MODELS]
    for place, (name, path, model) in enumerate(cases):
        yield f"{model} on {name}", place / len(cases)
        yield _compared(model, name, path, seconds, 1 if short else ROUNDS_MIN)


def _compared(model: Model, name: str, path: Path, seconds: float, rounds_min: int) -> Told:
    ours: list[Taken] = []
    theirs: list[Taken] = []
    while len(ours) < rounds_min or (
        len(ours) < ROUNDS_MAX and sum(taken.seconds for taken in [*ours, *theirs]) < seconds
    ):
        ours.append(_alone(path, model, "trainer"))
        theirs.append(_alone(path, model, "library"))
    our_s, their_s = (median(taken.seconds for taken in each) for each in (ours, theirs))
    return {
        "what": f"{model}: trainings a second by the trainer, on {name}",
        "per_s": 1 / our_s,
        "reference": f"{model}: the library called directly",
        "reference_per_s": 1 / their_s,
        "goal": "above 0.87 (15 % more time)",
        "seconds": our_s,
        "reference_s": their_s,
        "least_s": min(taken.seconds for taken in ours),
        "reference_least_s": min(taken.seconds for taken in theirs),
        "peak_bytes": float(max(taken.peak_bytes for taken in ours)),
        "reference_peak_bytes": float(max(taken.peak_bytes for taken in theirs)),
        "rounds": float(len(ours)),
    }


def _alone(path: Path, model: Model, side: Side) -> Taken:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measured, path, model, side).result()


def _made_up(events: int, path: Path) -> Path:
    """Engagements as unequal as they are in life: users and activities by a falling power."""
    random = np.random.default_rng(1)
    users = _unequal(random, events, max(20, events // _USERS_SHARE))
    activities = _unequal(random, events, max(20, events // _ACTIVITIES_SHARE))
    return save_data(users, activities, path)


def _unequal(random: np.random.Generator, draws: int, names: int) -> npt.NDArray[np.int64]:
    weights = 1 / np.arange(1, names + 1) ** 0.7
    return random.choice(names, draws, p=weights / weights.sum()).astype(np.int64)


def _movielens(path: Path) -> Path:
    ratings = list(read_ratings(fetch_wheel(CACHE)))
    users, movies = (
        np.unique([getattr(rating, name) for rating in ratings], return_inverse=True)[1]
        for name in ("user", "movie")
    )
    return save_data(users.astype(np.int64), movies.astype(np.int64), path)
