"""Two rankings of the same requests: which is better, by how much, and for whom.

Both order the candidates of the same moments. A request counts where either of them could have
shown something that was touched; what was no candidate of a ranking is a miss of it, not a gap.
NDCG among all candidates leans to the order that served: where it is known what was shown, they are
compared by that as well (`training.evaluation.shown`), and that is what decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from ranking.bundle import ModelBundle
from ranking.metrics import RELATION, mean_by_user, paired_difference
from training.config import EvaluationConfig, TrainingConfig
from training.errors import TooFewEvents
from training.evaluation.bootstrap import clustered_interval
from training.evaluation.rankings import CHRONOLOGICAL, Scores, request_ndcg
from training.evaluation.shown import can_judge, examination_power, shown_share
from training.events.log import EventLog
from training.sets.dataset import TrainingSet
from training.sets.splits import PartName, split_by_time
from training.steps import answered_requests, replayed_sets

__all__ = [
    "BANDS",
    "ActivityBand",
    "ComparisonReport",
    "Played",
    "ShownAnswers",
    "ShownReport",
    "chronological",
    "compare",
    "play",
    "scored",
]

BANDS = (1, 2, 5, 20)
"""Where bands of user activity begin, in requests of the judged part."""


@dataclass(frozen=True, slots=True)
class ShownAnswers:
    """The requests of a test part that were answered, with what was shown, and a ranking's scores.

    `scores` are float32[n], of the set's candidates.
    """

    data: TrainingSet
    scores: Scores


@dataclass(frozen=True, slots=True)
class Played:
    """A ranking on the q requests of a test part: `ndcg` is float64[q], NaN where undefined.

    `answers` is None where it is not known what was shown.
    """

    name: str
    test: TrainingSet
    ndcg: npt.NDArray[np.float64]
    answers: ShownAnswers | None = None


class ActivityBand(msgspec.Struct, frozen=True):
    """Users with so many requests: the difference among them alone, and its 95 % interval."""

    name: str
    users: int
    difference: float
    interval: tuple[float, float]
    verdict: str


class ShownReport(msgspec.Struct, frozen=True, kw_only=True):
    """The first ranking against the second by what was shown: what share was engaged with.

    Each counts as if all stood first, more where the ranking puts it higher. The difference has a
    95 % interval from a bootstrap that draws users.
    """

    first: str
    second: str
    requests: int
    users: int
    first_share: float
    second_share: float
    difference: float
    interval: tuple[float, float]
    verdict: str
    bands: tuple[ActivityBand, ...]

    @property
    def sentence(self) -> str:
        """The whole of it in a sentence."""
        low, high = self.interval
        return (
            f"{self.first} is {RELATION[self.verdict]} {self.second} by what was shown: of it "
            f"{self.first_share:.3f} to {self.second_share:.3f} was engaged with, "
            f"{self.difference:+.3f} [{low:+.3f}, {high:+.3f}] over {self.requests} requests of "
            f"{self.users} users"
        )


class ComparisonReport(msgspec.Struct, frozen=True, kw_only=True):
    """The first ranking against the second: mean NDCG@k of each, and their difference.

    Differences are over requests, with a 95 % interval from a bootstrap that draws users; `by_user`
    counts every user alike. Verdicts are `better`, `level` or `worse`, said of the first. `shown`
    compares them by what was shown, where that is known: then that is what decides.
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
    shown: ShownReport | None = None

    @property
    def sentence(self) -> str:
        """The whole of it in a sentence."""
        low, high = self.interval
        return (
            f"{self.first} is {RELATION[self.verdict]} {self.second}: NDCG@{self.k} "
            f"{self.first_ndcg:.3f} to {self.second_ndcg:.3f}, {self.difference:+.3f} "
            f"[{low:+.3f}, {high:+.3f}] over {self.requests} requests of {self.users} users"
        )


def play(
    log: EventLog, export: Path, bundle: ModelBundle, config: TrainingConfig, name: str
) -> Played:
    """A bundle on the test part of a log, with factors and feature parameters of its own."""
    split = split_by_time(log.events, config.check().split)
    limits: dict[PartName, int] = {"test": config.requests.test_requests_max}
    parameters = bundle.spec.parameters
    answered = answered_requests(log, export, split, "test", config)
    sets = replayed_sets(
        log, config, split, limits, bundle.factors(), parameters, answered=answered
    )
    return scored(bundle, sets["test"], sets["answered test"], config, name)


def scored(
    bundle: ModelBundle, test: TrainingSet, answered: TrainingSet, config: TrainingConfig, name: str
) -> Played:
    """A bundle on sets with its factors and feature parameters."""
    scorer, names = bundle.scorer(), bundle.spec.names
    ndcg = request_ndcg(test, scorer.score(test.columns(names)), config.evaluation.k)
    answers = ShownAnswers(answered, scorer.score(answered.columns(names)))
    return Played(name, test, ndcg, answers)


def chronological(beside: Played, config: TrainingConfig) -> Played:
    """What a tenant without a model is served, on the same requests."""
    answers = beside.answers and ShownAnswers(beside.answers.data, _newest(beside.answers.data))
    ndcg = request_ndcg(beside.test, _newest(beside.test), config.evaluation.k)
    return Played(CHRONOLOGICAL, beside.test, ndcg, answers)


def _newest(data: TrainingSet) -> Scores:
    return -data.matrix.column("age_h")


def compare(first: Played, second: Played, config: EvaluationConfig, seed: int) -> ComparisonReport:
    """Set one ranking against another, on the same requests.

    Raises `ValueError` for other requests, and `TooFewEvents` where none can be judged.
    """
    users = first.test.users
    _check_same(first.test, second.test)
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
        bands=_bands(who, lambda rows: (ours - theirs)[rows], config, seed),
        shown=_by_shown(first, second, config, seed),
    )


def _check_same(first: TrainingSet, second: TrainingSet) -> None:
    same_times = np.array_equal(first.times_us, second.times_us)
    if first.users != second.users or not same_times:
        raise ValueError("rankings are compared on the same requests")


def _by_shown(
    first: Played, second: Played, config: EvaluationConfig, seed: int
) -> ShownReport | None:
    """By what was shown; None where nothing was, or where it cannot be told."""
    if first.answers is None or second.answers is None or not can_judge(first.answers.data):
        return None
    _check_same(first.answers.data, second.answers.data)
    power = examination_power(first.answers.data)
    ours, theirs = (
        shown_share(answers.data, answers.scores, power)
        for answers in (first.answers, second.answers)
    )
    judged = np.flatnonzero(ours.possible > 0)
    ours, theirs = ours.of(judged), theirs.of(judged)
    users = [first.answers.data.users[request] for request in judged.tolist()]

    def difference(rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
        return ours.of(rows).by_request() - theirs.of(rows).by_request()

    interval = clustered_interval(users, difference(np.arange(len(users))), seed, config.draws)
    return ShownReport(
        first=first.name,
        second=second.name,
        requests=len(users),
        users=interval.users,
        first_share=ours.whole,
        second_share=theirs.whole,
        difference=interval.mean,
        interval=(interval.low, interval.high),
        verdict=interval.verdict(),
        bands=_bands(users, difference, config, seed),
    )


def _bands(
    users: Sequence[str],
    difference: Callable[[npt.NDArray[np.integer]], npt.NDArray[np.float64]],
    config: EvaluationConfig,
    seed: int,
) -> tuple[ActivityBand, ...]:
    """The difference in each band; `difference` gives that of some requests, one by one."""
    names, user, requests = np.unique(np.array(users), return_inverse=True, return_counts=True)
    del names
    band_of_row = np.searchsorted(BANDS, requests, side="right")[user] - 1
    found = []
    for band in np.unique(band_of_row).tolist():
        rows = np.flatnonzero(band_of_row == band)
        of_band = [users[row] for row in rows.tolist()]
        interval = clustered_interval(of_band, difference(rows), seed, config.draws)
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
