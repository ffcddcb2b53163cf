"""Two rankings of the same requests: which is better, by how much, and for whom.

Both order the candidates of the same moments. A request counts where either of them could have
shown something that was touched; what was no candidate of a ranking is a miss of it, not a gap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from ranking.bundle import ModelBundle
from ranking.metrics import RELATION, mean_by_user, paired_difference
from training.config import EvaluationConfig, TrainingConfig
from training.errors import TooFewEvents
from training.evaluation.bootstrap import clustered_interval
from training.evaluation.rankings import CHRONOLOGICAL, request_ndcg
from training.events.log import EventLog
from training.sets.dataset import TrainingSet
from training.sets.splits import PartName, split_by_time
from training.steps import replayed_sets

__all__ = [
    "BANDS",
    "ActivityBand",
    "ComparisonReport",
    "Played",
    "chronological",
    "compare",
    "play",
]

BANDS = (1, 2, 5, 20)
"""Where bands of user activity begin, in requests of the judged part."""


@dataclass(frozen=True)
class Played:
    """A ranking on the q requests of a test part: `ndcg` is float64[q], NaN where undefined."""

    name: str
    test: TrainingSet
    ndcg: npt.NDArray[np.float64]


class ActivityBand(msgspec.Struct, frozen=True):
    """Users with so many requests: the difference among them alone, and its 95 % interval."""

    name: str
    users: int
    difference: float
    interval: tuple[float, float]
    verdict: str


class ComparisonReport(msgspec.Struct, frozen=True, kw_only=True):
    """The first ranking against the second: mean NDCG@k of each, and their difference.

    Differences are over requests, with a 95 % interval from a bootstrap that draws users; `by_user`
    counts every user alike. Verdicts are `better`, `level` or `worse`, said of the first.
    """

    first: str
    second: str
    k: int
    requests: int
    users: int
    first_ndcg: float
    second_ndcg: float
    difference: float
    interval: tuple[float, float]
    verdict: str
    by_user: float
    by_user_interval: tuple[float, float]
    by_user_verdict: str
    bands: tuple[ActivityBand, ...]

    @property
    def sentence(self) -> str:
        """The whole of it in a sentence."""
        low, high = self.interval
        return (
            f"{self.first} is {RELATION[self.verdict]} {self.second}: NDCG@{self.k} "
            f"{self.first_ndcg:.3f} to {self.second_ndcg:.3f}, {self.difference:+.3f} "
            f"[{low:+.3f}, {high:+.3f}] over {self.requests} requests of {self.users} users"
        )


def play(log: EventLog, bundle: ModelBundle, config: TrainingConfig, name: str) -> Played:
    """A bundle on the test part of a log, with factors and feature parameters of its own."""
    split = split_by_time(log.events, config.check().split)
    limits: dict[PartName, int] = {"test": config.requests.test_requests_max}
    parameters = bundle.spec.parameters
    sets = replayed_sets(log, config, split, limits, bundle.factors(), parameters)
    test = sets["test"]
    scores = bundle.scorer().score(test.columns(bundle.spec.names))
    return Played(name, test, request_ndcg(test, scores, config.evaluation.k))


def chronological(test: TrainingSet, config: TrainingConfig) -> Played:
    """What a tenant without a model is served, on the same requests."""
    scores = -test.matrix.column("age_h")
    return Played(CHRONOLOGICAL, test, request_ndcg(test, scores, config.evaluation.k))


def compare(first: Played, second: Played, config: EvaluationConfig, seed: int) -> ComparisonReport:
    """Set one ranking against another, on the same requests.

    Raises `ValueError` for other requests, and `TooFewEvents` where none can be judged.
    """
    users = first.test.users
    same_times = np.array_equal(first.test.times_us, second.test.times_us)
    if users != second.test.users or not same_times:
        raise ValueError("rankings are compared on the same requests")
    judged = ~(np.isnan(first.ndcg) & np.isnan(second.ndcg))
    if not judged.any():
        raise TooFewEvents(
            f"none of the {len(users)} test requests has a candidate that the user then touched: "
            "there is nothing to compare by; record more engagements, or widen the test share"
        )
    ours, theirs = np.nan_to_num(first.ndcg[judged]), np.nan_to_num(second.ndcg[judged])
    who = [user for user, counts in zip(users, judged.tolist(), strict=True) if counts]
    interval = clustered_interval(who, ours - theirs, seed, config.draws)
    by_user = paired_difference(
        mean_by_user(who, ours)[1], mean_by_user(who, theirs)[1], seed, draws=config.draws
    )
    return ComparisonReport(
        first=first.name,
        second=second.name,
        k=config.k,
        requests=len(who),
        users=interval.users,
        first_ndcg=float(ours.mean()),
        second_ndcg=float(theirs.mean()),
        difference=interval.mean,
        interval=(interval.low, interval.high),
        verdict=interval.verdict(),
        by_user=by_user.mean,
        by_user_interval=(by_user.low, by_user.high),
        by_user_verdict=by_user.verdict(),
        bands=_bands(who, ours - theirs, config, seed),
    )


def _bands(
    users: Sequence[str], differences: npt.NDArray[np.float64], config: EvaluationConfig, seed: int
) -> tuple[ActivityBand, ...]:
    names, user, requests = np.unique(np.array(users), return_inverse=True, return_counts=True)
    del names
    band_of_row = np.searchsorted(BANDS, requests, side="right")[user] - 1
    found = []
    for band in np.unique(band_of_row).tolist():
        rows = np.flatnonzero(band_of_row == band)
        of_band = [users[row] for row in rows.tolist()]
        interval = clustered_interval(of_band, differences[rows], seed, config.draws)
        found.append(
            ActivityBand(
                _band_name(band),
                interval.users,
                interval.mean,
                (interval.low, interval.high),
                interval.verdict(),
            )
        )
    return tuple(found)


def _band_name(band: int) -> str:
    low = BANDS[band]
    if band + 1 == len(BANDS):
        return f"{low} or more requests"
    high = BANDS[band + 1] - 1
    return f"{low} request" if high == low == 1 else f"{low} to {high} requests"
