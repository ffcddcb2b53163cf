"""P4: Open Bandit: what one policy earned, estimated from the log of the other.

Two policies recommended clothes in the same shop at the same time: every item alike, and Bernoulli
Thompson sampling. What each earned is known; IPS, SNIPS and DR estimate it from the other's log,
and their intervals must hold what was earned. Both ways and all campaigns are shown; what a log
cannot tell is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ranking.metrics import bootstrap_interval
from training.evaluation.counterfactual import (
    CounterfactualConfig,
    CounterfactualReport,
    LoggedPlaces,
    estimate,
    folds_of,
)
from training.protocols.base import Check, Figure, ProtocolOptions, ProtocolReport
from training.sources.base import Progress
from training.sources.open_bandit import (
    CAMPAIGNS,
    BanditLog,
    Campaign,
    Policy,
    fetch_wheel,
    read_log,
    read_priors,
)

__all__ = ["TITLE", "run", "thompson_probabilities"]

TITLE = "Open Bandit samples: one policy's value from the other's log"

POSITIONS = 3
"""Items that were shown side by side."""

WAYS: tuple[tuple[Policy, Policy], ...] = (("random", "bts"), ("bts", "random"))
"""Whose log, and whose value."""

_GRID = 20_000

CONVENTIONS = (
    "The value of a policy is clicks per recommendation; earned is what it had in its own log.",
    (
        "Thompson sampling (bts) is taken as it began: Beta priors of the shop, whose probability "
        "of an item in a position is integrated exactly. In its own log it went on learning."
    ),
    (
        "DR's reward model is a logistic regression of item, position and user features, learnt on "
        "four fifths of the log for the last fifth, in turn."
    ),
    "Intervals are 95 %, from a bootstrap of recommendations: the log has no users.",
)


@dataclass(frozen=True, slots=True)
class _Case:
    """One estimate of one value."""

    campaign: Campaign
    log: Policy
    target: Policy
    truth: Figure
    report: CounterfactualReport

    @property
    def title(self) -> str:
        return f"{self.campaign}, {self.target} from {self.log}"


def run(options: ProtocolOptions, progress: Progress) -> ProtocolReport:
    """Estimate each policy's value from the other's log, in every campaign."""
    progress("looking for the Open Bandit samples", 0, None)
    wheel = fetch_wheel(options.cache)
    campaigns = CAMPAIGNS[:1] if options.short else CAMPAIGNS
    cases = list(_cases(wheel, campaigns, options, progress))
    spoken = [case for case in cases if case.report.refusal is None]
    return ProtocolReport(
        protocol="p4",
        title=TITLE,
        unit="clicks",
        beside="earned",
        figures=tuple(figure for case in spoken for figure in _figures(case)),
        verdicts=tuple(_verdict(case) for case in cases),
        checks=tuple(_check(case) for case in spoken),
        conventions=CONVENTIONS,
        counts={
            "estimated": len(spoken),
            "refused": len(cases) - len(spoken),
            "recommendations a log": max(case.report.places for case in cases),
        },
    )


def thompson_probabilities(priors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The probability of each item in each of 3 positions, float64[items, 3]; a column adds to 1.

    Items draw from Beta(alpha, beta), `priors` float64[items, 2], and stand in falling order. An
    item is in position k if exactly k others draw more: the integral, over what it draws, of a
    Poisson binomial, whose first three terms are elementary symmetric sums of odds.
    """
    from scipy.stats import beta  # noqa: PLC0415 - only who runs the protocol pays for it

    drawn = np.linspace(-16, 16, _GRID)  # log odds of a click rate
    rates = 1 / (1 + np.exp(-drawn))
    below = np.clip(beta.cdf(rates, priors[:, :1], priors[:, 1:]), 1e-15, 1)
    mass = np.diff(below, axis=1)
    middle = (below[:, 1:] + below[:, :-1]) / 2
    odds = (1 - middle) / middle
    none = np.log(middle).sum(axis=0) - np.log(middle)
    one = odds.sum(axis=0) - odds
    two = (one**2 - ((odds**2).sum(axis=0) - odds**2)) / 2
    terms = [np.exp(none) * term for term in (np.ones_like(one), one, two)]
    found = np.stack([(mass * term).sum(axis=1) for term in terms], axis=1)
    shares: npt.NDArray[np.float64] = found / found.sum(axis=0)
    return shares


def _cases(
    wheel: Path, campaigns: tuple[Campaign, ...], options: ProtocolOptions, progress: Progress
) -> Iterator[_Case]:
    config = CounterfactualConfig(draws=options.draws)
    for number, campaign in enumerate(campaigns):
        priors = read_priors(wheel, campaign)
        policies: dict[Policy, npt.NDArray[np.float64]] = {
            "random": np.full((len(priors), POSITIONS), 1 / len(priors)),
            "bts": thompson_probabilities(priors),
        }
        logs: dict[Policy, BanditLog] = {
            policy: read_log(wheel, policy, campaign) for policy in policies
        }
        for place, (source, target) in enumerate(WAYS):
            done = number * len(WAYS) + place
            progress(f"{campaign}, {target} from {source}", done, len(WAYS) * len(campaigns))
            places = _places(logs[source], policies[target], config, options.seed)
            report = estimate(places, config, options.seed)
            truth = _truth(logs[target], options)
            yield _Case(campaign, source, target, truth, report)


def _truth(log: BanditLog, options: ProtocolOptions) -> Figure:
    """What a policy earned on its own."""
    earned = bootstrap_interval(log.clicks, options.seed, draws=options.draws)
    return Figure(name="on policy", value=earned.mean, interval=(earned.low, earned.high))


def _places(
    log: BanditLog,
    policy: npt.NDArray[np.float64],
    config: CounterfactualConfig,
    seed: int,
) -> LoggedPlaces:
    """The log as places of slates of one, with the other policy's probabilities."""
    rows = np.arange(len(log))
    rewards = _rewards(log, len(policy), folds_of(rows, config.folds, seed))
    return LoggedPlaces(
        rewards=log.clicks.astype(np.float64),
        propensities=log.propensities,
        targets=policy[log.items, log.positions],
        slates=rows,
        users=rows,
        predicted=rewards[rows, log.items],
        expected=(rewards * policy[:, log.positions].T).sum(axis=1),
    )


def _rewards(log: BanditLog, items: int, folds: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The expected click of each item in each recommendation's place, float64[n, items]."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - a second

    about = np.concatenate(
        [np.eye(POSITIONS)[log.positions], *(_one_hot(column) for column in log.contexts.T)],
        axis=1,
    )
    inputs = np.concatenate([np.eye(items)[log.items], about], axis=1)
    rewards = np.empty((len(log), items))
    for fold in range(int(folds.max()) + 1):
        held_out = folds == fold
        model = LogisticRegression(C=0.1).fit(inputs[~held_out], log.clicks[~held_out])
        weights, bias = model.coef_[0], model.intercept_[0]
        rest = about[held_out] @ weights[items:] + bias
        rewards[held_out] = 1 / (1 + np.exp(-(rest[:, None] + weights[:items])))
    return rewards


def _one_hot(column: npt.NDArray[np.str_]) -> npt.NDArray[np.float64]:
    names, number = np.unique(column, return_inverse=True)
    found: npt.NDArray[np.float64] = np.eye(len(names))[number]
    return found


def _figures(case: _Case) -> Iterator[Figure]:
    for each in case.report.estimates:
        yield Figure(
            name=f"{case.title}: {each.name}",
            value=each.value,
            interval=each.interval,
            published=case.truth.value,
        )


def _verdict(case: _Case) -> str:
    low, high = case.truth.interval or (0.0, 0.0)
    earned = f"earned {case.truth.value:.4f} [{low:.4f}, {high:.4f}]"
    report = case.report
    basis = f"{report.effective_places:.0f} of {report.places} recommendations in effect"
    if report.refusal is not None:
        return f"{case.title}: {report.refusal} It {earned}."
    values = ", ".join(
        f"{each.name} {each.value:.4f} [{each.interval[0]:.4f}, {each.interval[1]:.4f}]"
        for each in report.estimates
    )
    return f"{case.title}: {values}; {earned}; {basis}."


def _check(case: _Case) -> Check:
    outside = [
        each.name
        for each in case.report.estimates
        if not each.interval[0] <= case.truth.value <= each.interval[1]
    ]
    said = f"outside of {', '.join(outside)}" if outside else "inside IPS, SNIPS and DR"
    return Check(not outside, f"{case.title}: what it earned lies {said}")
