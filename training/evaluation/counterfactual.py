"""What another policy would have earned on logged slates: IPS, SNIPS and DR. Numpy alone.

A log holds, for each place that was shown, what came of it (the reward), and the probability with
which the served policy put that activity there, given those above it (the propensity). A candidate
policy is known by its probability of the same activity in the same place (the target). The ratio of
the two is the place's importance weight.

What a slate's places have to do with each other is an assumption, and each estimate names its own:

* `independent` (item-position model; Li et al., 2018, "Offline Evaluation of Ranking Policies with
  Click Models"): what comes of a place depends on its activity and position alone. Weights are per
  place. Where propensities are given what stands above, as in the slate log, the candidate is
  judged place by place, below what was served.
* `cascade` (reward interaction; McInerney et al., 2020, "Counterfactual Evaluation of Slate
  Recommendations with Sequential Reward Interactions"): it depends on those above as well. The
  weight of a place is the product of its ratio and all above it: less assumed, far more variance.

Nothing is said where the log cannot tell: see `CounterfactualReport.refusal`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from ranking.metrics import RELATION, Interval
from training.errors import TrainingError

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

__all__ = [
    "Assumption",
    "CounterfactualConfig",
    "CounterfactualReport",
    "LoggedPlaces",
    "OffPolicyEstimate",
    "estimate",
    "folds_of",
    "importance_weights",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

Assumption = Literal["independent", "cascade"]

IPS, SNIPS, DR = "IPS", "SNIPS", "DR"
_TINY = np.finfo(np.float64).tiny
_BLOCK = 1_000_000
"""Draws held at once while bootstrapping: 8 MB."""


@dataclass(frozen=True, slots=True)
class CounterfactualConfig:
    """How estimates are made, and when none is."""

    assumption: Assumption = "independent"
    """What a place's reward depends on."""
    weight_max: float = 1_000.0
    """Importance weights above it are cut to it (Ionides, 2008): less variance, some bias."""
    effective_min: float = 50.0
    """Effective places (Kish, 1965) below which nothing is said."""
    support_min: float = 0.8
    """Share of what the candidate would show that the served policy could have shown, below which
    nothing is said."""
    rewarded_min: int = 10
    """Rewarded places with a weight above 0 below which nothing is said."""
    draws: int = 2_000
    """Bootstrap draws of users."""
    level: float = 0.95
    """Probability with which an interval holds the truth."""
    folds: int = 5
    """Parts of the users in turn left out while the reward model of DR learns."""
    places_max: int = 10
    """Places of a slate that count, from the top."""
    rows_max: int = 5_000_000
    """Rows of an export of slates that are read: 0.6 GB with 30 features."""

    def check(self) -> "CounterfactualConfig":
        """Itself; raises `TrainingError` with every mistake at once."""
        found = [
            f"{name} is {value}: give a number above 0"
            for name, value in (
                ("weight_max", self.weight_max),
                ("draws", self.draws),
                ("places_max", self.places_max),
                ("rows_max", self.rows_max),
            )
            if not value > 0
        ]
        if not 0 < self.level < 1:
            found.append(f"level is {self.level}: give a probability between 0 and 1")
        if self.folds < 2:  # noqa: PLR2004 - one part to learn from, one to predict
            found.append(f"folds is {self.folds}: give 2 at least")
        if found:
            raise TrainingError("; ".join(found))
        return self


@dataclass(frozen=True, slots=True)
class LoggedPlaces:
    """Places that were shown, a row each, those of a slate together and from the top.

    `rewards`, `propensities` (above 0, to 1) and `targets` (0 to 1) are float64[n], `slates` and
    `users` int64[n]. A reward model's opinion is `predicted` of what was shown, and `expected` over
    what the candidate would show there, float64[n] each; without them there is no DR.
    """

    rewards: Floats
    propensities: Floats
    targets: Floats
    slates: Integers
    users: Integers
    predicted: Floats | None = None
    expected: Floats | None = None

    def __post_init__(self) -> None:
        """Refuse columns that do not fit together, and probabilities that are none."""
        columns = [self.rewards, self.propensities, self.targets, self.slates, self.users]
        columns += [column for column in (self.predicted, self.expected) if column is not None]
        if any(len(column) != len(self.rewards) for column in columns):
            raise TrainingError(
                "logged places have columns of different lengths: give one row each"
            )
        if not ((self.propensities > 0) & (self.propensities <= 1)).all():
            raise TrainingError(
                "a place was shown with a propensity that is not above 0 and at most 1: leave such "
                "slates out, what was shown cannot have been impossible"
            )
        if not ((self.targets >= 0) & (self.targets <= 1)).all():
            raise TrainingError("a target is no probability, 0 to 1: mend the candidate policy")
        if (np.diff(self.slates) != 0).sum() + 1 > max(len(np.unique(self.slates)), 1):
            raise TrainingError("the places of a slate do not lie together: sort them by slate")

    def __len__(self) -> int:
        """How many places there are."""
        return len(self.rewards)

    @property
    def first_of_slate(self) -> npt.NDArray[np.bool_]:
        """bool[n]: where a slate begins."""
        return np.concatenate([np.ones(min(len(self), 1), np.bool_), np.diff(self.slates) != 0])


class OffPolicyEstimate(msgspec.Struct, frozen=True):
    """One estimate: reward per slate, its interval, and the difference to what was served.

    `verdict` is `better` or `worse` than served, or `level` where the difference's interval has 0.
    """

    name: str
    value: float
    interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]
    verdict: str


class CounterfactualReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a candidate would have earned, or why nothing can be said.

    `effective_places` is Kish's effective sample size `(sum w)^2 / sum w^2`; `support` the mean
    weight, which is 1 but for chance where the served policy could have shown all that the
    candidate would; `cut_share` the share of places whose weight was cut.
    """

    assumption: Assumption
    slates: int
    places: int
    users: int
    rewarded: int
    served: float
    served_interval: tuple[float, float]
    effective_places: float
    support: float
    support_interval: tuple[float, float]
    weight_max: float
    cut_share: float
    estimates: tuple[OffPolicyEstimate, ...] = ()
    refusal: str | None = None
    """Why there are no estimates: a sentence with what to do; None where there are."""
    verdict: str
    """The report in a sentence."""

    def table(self) -> "Table":
        """For the terminal, 80 columns wide."""
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - only where a table is shown
        from rich.table import Table  # noqa: PLC0415

        title = (
            f"{self.slates:,} slates of {self.users:,} users, {self.places:,} places, "
            f"{self.effective_places:,.0f} in effect"
        )
        table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
        table.add_column("estimate", no_wrap=True)
        for heading in ("reward a slate", "95 % interval", "to served", "95 % interval"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_row("served", f"{self.served:.4f}", _bounds(self.served_interval), "", "")
        for one in self.estimates:
            table.add_row(
                one.name,
                f"{one.value:.4f}",
                _bounds(one.interval),
                f"{one.difference:+.4f}",
                _bounds(one.difference_interval),
            )
        return table

    def to_frame(self) -> "pd.DataFrame":
        """One row an estimate, by `estimator`: reward a slate, and its difference to the served.

        Each has its interval, `low` and `high`; without rows where the log cannot tell.
        """
        import pandas as pd  # noqa: PLC0415 - half a second that only notebooks pay

        numbers = ["value", "low", "high", "difference", "difference_low", "difference_high"]
        types = dict.fromkeys(numbers, "float64") | {"verdict": "str"}
        rows = [
            {"estimator": one.name, "value": one.value, "low": one.interval[0]}
            | {"high": one.interval[1], "difference": one.difference, "verdict": one.verdict}
            | dict(zip(numbers[-2:], one.difference_interval, strict=True))
            for one in self.estimates
        ]
        frame = pd.DataFrame(rows, columns=["estimator", *types])
        return frame.set_index("estimator").astype(types)

    def of(self, name: str) -> OffPolicyEstimate:
        """One estimate by its name; raises `KeyError`."""
        for each in self.estimates:
            if each.name == name:
                return each
        raise KeyError(f"there is no estimate {name}: {self.refusal or 'use IPS, SNIPS or DR'}")


def _bounds(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.4f} {interval[1]:.4f}"


@dataclass(frozen=True, slots=True)
class _Totals:
    """Sums over places, of each user or of each draw of users: float64[n] each, a row's own."""

    slates: Floats
    places: Floats
    reward: Floats
    weight: Floats
    weighted_reward: Floats
    corrected: Floats | None
    """Of the reward model's expectation and its correction; None without a reward model."""

    @property
    def served(self) -> Floats:
        """Reward per slate of what was served."""
        return self.reward / self.slates

    @property
    def support(self) -> Floats:
        """The mean weight of a place."""
        return self.weight / self.places

    def estimates(self) -> dict[str, Floats]:
        """Reward per slate by each estimator; SNIPS is NaN where all weights are 0."""
        ips = self.weighted_reward / self.slates
        with np.errstate(invalid="ignore", divide="ignore"):
            found = {IPS: ips, SNIPS: ips / self.support}
        if self.corrected is not None:
            found[DR] = self.corrected / self.slates
        return found


def importance_weights(places: LoggedPlaces, assumption: Assumption) -> Floats:
    """The weight of each place, float64[n], uncut."""
    ratios = places.targets / places.propensities
    if assumption == "independent":
        return ratios
    # exp of a running sum would turn the log of 0 into NaN: multiply within each slate.
    weights = ratios.copy()
    ends = np.append(np.flatnonzero(places.first_of_slate), len(ratios))
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        np.cumprod(weights[start:end], out=weights[start:end])
    return weights


def estimate(places: LoggedPlaces, config: CounterfactualConfig, seed: int) -> CounterfactualReport:
    """The candidate's reward per slate by IPS, SNIPS and (with a reward model) DR.

    IPS (Horvitz and Thompson, 1952) is the mean of weight x reward, SNIPS (Swaminathan and
    Joachims, 2015) divides by the mean weight, DR (Dudik et al., 2011; below a cascade as Kiyohara
    et al., 2022) corrects a reward model's expectation. Intervals are percentiles of a bootstrap
    that draws users with all their slates, the same draws for each estimate. Where the log holds
    too little of what the candidate would do, there are no estimates but a refusal.
    """
    config = config.check()
    if not len(places):
        raise TrainingError(
            "there are no logged places to estimate from: export slates of the time in question, "
            "and the events after them"
        )
    uncut = importance_weights(places, config.assumption)
    weights = np.minimum(uncut, config.weight_max)
    by_user = _by_user(places, weights, config.assumption)
    all_of = _totals(by_user.sum(axis=0, keepdims=True))
    drawn = _totals(_drawn(by_user, config.draws, seed))
    served = _around(all_of.served, drawn.served, len(by_user), config.level)
    support = _around(all_of.support, drawn.support, len(by_user), config.level)
    effective = float(weights.sum() ** 2 / max(float((weights**2).sum()), _TINY))
    rewarded = int(((weights > 0) & (places.rewards != 0)).sum())
    refusal = _refusal(support, effective, rewarded, config)
    estimates = () if refusal else tuple(_estimates(all_of, drawn, len(by_user), config.level))
    return CounterfactualReport(
        assumption=config.assumption,
        slates=int(all_of.slates[0]),
        places=len(places),
        users=len(by_user),
        rewarded=rewarded,
        served=served.mean,
        served_interval=(served.low, served.high),
        effective_places=effective,
        support=support.mean,
        support_interval=(support.low, support.high),
        weight_max=float(uncut.max()),
        cut_share=float((uncut > config.weight_max).mean()),
        estimates=estimates,
        refusal=refusal,
        verdict=refusal or _verdict(estimates, served.mean, config.assumption),
    )


def folds_of(users: Integers, folds: int, seed: int) -> Integers:
    """A part for each place, int64[n], 0 to `folds` - 1: all places of a user are in one.

    A reward model that judges a part learns from the others (cross-fitting; Chernozhukov et al.,
    2018), so that what it says of a user was not learnt from that user.
    """
    names, user = np.unique(users, return_inverse=True)
    part = np.random.default_rng(seed).permutation(len(names)) % folds
    found: Integers = part.astype(np.int64)[user]
    return found


def _by_user(places: LoggedPlaces, weights: Floats, assumption: Assumption) -> Floats:
    """The sums of each user, float64[users, 5 or 6], columns as in `_Totals`."""
    _, user = np.unique(places.users, return_inverse=True)
    columns = [
        places.first_of_slate.astype(np.float64),
        np.ones(len(places)),
        places.rewards,
        weights,
        weights * places.rewards,
    ]
    if places.predicted is not None and places.expected is not None:
        above = _above(places, weights) if assumption == "cascade" else 1.0
        columns.append(above * places.expected + weights * (places.rewards - places.predicted))
    return np.stack([np.bincount(user, weights=column) for column in columns], axis=1)


def _totals(sums: Floats) -> _Totals:
    slates, shown, reward, weight, weighted, *corrected = sums.T
    return _Totals(slates, shown, reward, weight, weighted, corrected[0] if corrected else None)


def _above(places: LoggedPlaces, weights: Floats) -> Floats:
    """The weight of what stands above each place: 1 at the top of a slate."""
    above = np.roll(weights, 1)
    above[places.first_of_slate] = 1.0
    return above


def _drawn(by_user: Floats, draws: int, seed: int) -> Floats:
    """The sums of each draw of as many users as there are, with replacement: float64[draws, c]."""
    random = np.random.default_rng(seed)
    users = len(by_user)
    rows = max(1, _BLOCK // users)
    sums = []
    for done in range(0, draws, rows):
        block = min(rows, draws - done)
        taken = random.integers(0, users, (block, users)) + np.arange(block)[:, None] * users
        counts = np.bincount(taken.ravel(), minlength=block * users).reshape(block, users)
        sums.append(counts @ by_user)
    return np.concatenate(sums)


def _around(value: Floats, drawn: Floats, users: int, level: float) -> Interval:
    """A value of all users, and the percentile interval of its draws (Efron, 1979)."""
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.nanquantile(drawn, ends) if not np.isnan(drawn).all() else (np.nan, np.nan)
    return Interval(float(value[0]), float(low), float(high), level, users)


def _estimates(
    all_of: _Totals, drawn: _Totals, users: int, level: float
) -> Iterator[OffPolicyEstimate]:
    values, drawn_values = all_of.estimates(), drawn.estimates()
    for name, value in values.items():
        interval = _around(value, drawn_values[name], users, level)
        difference = _around(value - all_of.served, drawn_values[name] - drawn.served, users, level)
        yield OffPolicyEstimate(
            name=name,
            value=interval.mean,
            interval=(interval.low, interval.high),
            difference=difference.mean,
            difference_interval=(difference.low, difference.high),
            verdict=difference.verdict(),
        )


def _refusal(
    support: Interval, effective: float, rewarded: int, config: CounterfactualConfig
) -> str | None:
    """Why nothing can be said, with what to do; None where something can."""
    explore = "explore more (`exploration` of the ranking config), and log candidates"
    if support.high < config.support_min:
        return (
            f"Nothing can be said: of what the candidate would show, the served policy could have "
            f"shown {support.mean:.0%} (at least {config.support_min:.0%} is needed), so that "
            f"most of it was never tried; {explore}."
        )
    if effective < config.effective_min:
        return (
            f"Nothing can be said: what the candidate would show was shown {effective:.1f} times "
            f"in effect (at least {config.effective_min:.0f} is needed); record more slates, or "
            f"{explore}."
        )
    if rewarded < config.rewarded_min:
        return (
            f"Nothing can be said: {rewarded} places that the candidate would show as well were "
            f"engaged with (at least {config.rewarded_min} are needed); record more slates."
        )
    return None


_ASSUMED = {
    "independent": "what comes of a place depends on its activity and position alone",
    "cascade": "what comes of a place depends on it and on those above it",
}


def _verdict(estimates: Sequence[OffPolicyEstimate], served: float, assumed: Assumption) -> str:
    """The last estimate (DR, or else SNIPS) against what was served, and whether all agree."""
    one = estimates[-1]
    low, high = one.difference_interval
    others = [f"{each.name} {each.difference:+.4f}" for each in estimates[:-1]]
    agreed = all(each.verdict == one.verdict for each in estimates)
    return (
        f"The candidate is {RELATION[one.verdict]} what was served: {one.name} {one.value:.4f} "
        f"a slate to {served:.4f}, {one.difference:+.4f} [{low:+.4f}, {high:+.4f}]; "
        f"{', '.join(others)}{'' if agreed else ', whose verdicts differ'}; assuming that "
        f"{_ASSUMED[assumed]}."
    )
