"""Counterfactual estimates from exported slates: a candidate ranking against what was served.

The candidate orders the logged candidates of each slate by the logged features, and fills each
place with the first that is left, or by chance as `explore` says. Its probability of what was
shown, given what stands above, is set against the logged propensity. Slates of which candidates
were not logged tell nothing, since what else could have been shown is not known.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from feeds.events import Engagement, Posted
from feeds.model import ActivityId, UserId, position_of
from ranking.features import FeatureMatrix
from ranking.scorers.base import Scorer
from ranking.scorers.factorization import FactorTable
from training.config import RequestConfig
from training.errors import TrainingError
from training.evaluation.counterfactual import (
    CounterfactualConfig,
    CounterfactualReport,
    LoggedPlaces,
    estimate,
    folds_of,
)
from training.events.log import EventLog, read_event_log
from training.slates.logged import SlateRows, logged_slates

__all__ = ["RewardOf", "compare_with_served", "places_of", "rewards_of", "with_factors"]

Floats = npt.NDArray[np.float64]
RewardOf = Mapping[tuple[str, str], float]
"""What came of an activity in a slate, by the ids of both; 0 where it is not named."""

NO_CANDIDATES = "slates without logged candidates"
NO_FEATURES = "slates without a feature that the candidate reads"
DEGRADED = "slates that were ordered by time for want of time or of a model"

FACTOR_FEATURES = ("factor_dot", "factor_bias")

REWARD_TREES = 40
REWARD_DEPTH = 3


@dataclass(frozen=True, slots=True)
class _Judged:
    """A slate with what the candidate would do: `places` that count, of n activities.

    `rewards`, `propensities`, `targets`, `tops` and `fixed` have one for each place; `tops` are the
    activities that the candidate has first there, of those that are left. `features`, float32[n,
    F], are what the candidate reads; activity k stands in place k: those from k on are left.
    """

    user: int
    rewards: Floats
    propensities: Floats
    targets: Floats
    tops: npt.NDArray[np.intp]
    fixed: npt.NDArray[np.bool_]
    features: npt.NDArray[np.float32]

    @property
    def places(self) -> int:
        """How many places count."""
        return len(self.rewards)


def rewards_of(log: EventLog, labels: Mapping[str, int] | None = None) -> RewardOf:
    """What came of each activity in each slate: the highest label of its engagements there."""
    labels = RequestConfig().labels if labels is None else labels
    found: dict[tuple[str, str], float] = {}
    for event in log.events:
        if isinstance(event, Engagement) and event.slate_id:
            key = (event.slate_id, event.activity_id)
            found[key] = max(found.get(key, 0.0), float(labels.get(event.kind, 0)))
    return found


def compare_with_served(
    slates: Path | str,
    events: Path | str,
    tenant: str,
    candidate: Scorer,
    *,
    factors: FactorTable | None = None,
    explore: float = 0.0,
    config: CounterfactualConfig | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int | None], None] = lambda *_: None,
) -> CounterfactualReport:
    """What a candidate would have earned on a tenant's exported slates, beside what was served.

    `factors` are the candidate's own: its factor features are made anew, since slates hold those of
    the version that served. `explore` is the share of places that it would leave to chance. Raises
    `ExportDamaged`, and `TrainingError` where no slate can be used.
    """
    config = (config or CounterfactualConfig()).check()
    progress("reading events", 0, None)
    log = read_event_log(events, tenant)
    rewards = rewards_of(log)
    progress("reading slates", 0, None)
    found = logged_slates(slates, tenant, config.rows_max)
    if factors is not None:
        tags = {event.activity_id: event.tags for event in log.events if isinstance(event, Posted)}
        found = (with_factors(slate, factors, tags) for slate in found)
    places = places_of(found, candidate, rewards, explore=explore, config=config, seed=seed)
    progress("estimating", 0, None)
    return estimate(places, config, seed)


def places_of(
    slates: Iterable[SlateRows],
    candidate: Scorer,
    rewards: RewardOf,
    *,
    explore: float = 0.0,
    config: CounterfactualConfig,
    seed: int = 0,
) -> LoggedPlaces:
    """The places of the slates with the candidate's probabilities, and a cross-fitted reward model.

    Places that a rule gave away stay as they are: a pin is not the ranking's doing. Raises
    `TrainingError` where no slate can be used, with the reasons, or where `explore` is no share.
    """
    if not 0 <= explore <= 1:
        raise TrainingError(
            f"explore is {explore}: give the share of places left to chance, 0 to 1"
        )
    judged, left_out = list[_Judged](), dict[str, int]()
    users: dict[str, int] = {}
    for slate in slates:
        if reason := _unusable(slate, candidate):
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        user = users.setdefault(slate.user, len(users))
        judged.append(_judge(slate, candidate, explore, config.places_max, rewards, user))
    if not judged:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "none"
        raise TrainingError(
            f"no exported slate can be used ({reasons}): log candidates (`slate_log_candidates`, "
            "or `candidates` of the tenant in `slate_log_tenants`) and export again"
        )
    counts = [slate.places for slate in judged]
    places = LoggedPlaces(
        rewards=np.concatenate([slate.rewards for slate in judged]),
        propensities=np.concatenate([slate.propensities for slate in judged]),
        targets=np.concatenate([slate.targets for slate in judged]),
        slates=np.repeat(np.arange(len(judged)), counts),
        users=np.repeat([slate.user for slate in judged], counts),
    )
    return _with_reward_model(places, judged, explore, config, seed)


def with_factors(
    slate: SlateRows, factors: FactorTable, tags: Mapping[ActivityId, Sequence[str]]
) -> SlateRows:
    """The slate with the factor features that this factorization gives, as serving computes them.

    `tags` by activity stand in for those that the factorization does not know.
    """
    tags_of = [tuple(tags.get(ActivityId(name), ())) for name in slate.activity_ids]
    names = sorted({tag for of_one in tags_of for tag in of_one})
    numbers = {tag: number for number, tag in enumerate(names)}
    padded = np.full((len(slate), max(map(len, tags_of), default=0) or 1), -1, np.int32)
    for row, of_one in enumerate(tags_of):
        padded[row, : len(of_one)] = [numbers[tag] for tag in of_one]
    positions = [bytes(position_of(name)) for name in slate.activity_ids]
    made = dict(
        zip(FACTOR_FEATURES, factors.dot(UserId(slate.user), positions, padded, names), strict=True)
    )
    kept = [place for place, name in enumerate(slate.names) if name not in made]
    return replace(
        slate,
        names=(*(slate.names[place] for place in kept), *made),
        features=np.column_stack([slate.features[:, kept], *made.values()]),
    )


def _unusable(slate: SlateRows, candidate: Scorer) -> str | None:
    if slate.degraded:
        return DEGRADED
    if not set(candidate.spec.names) <= set(slate.names):
        return NO_FEATURES
    if not slate.with_candidates or not slate.shown:
        return NO_CANDIDATES
    return None


def _judge(
    slate: SlateRows,
    candidate: Scorer,
    explore: float,
    places_max: int,
    rewards: RewardOf,
    user: int,
) -> _Judged:
    """At each place, the candidate chooses among what is left; equal scores by id."""
    columns = [slate.names.index(name) for name in candidate.spec.names]
    features = np.ascontiguousarray(slate.features[:, columns])
    scores = candidate.score(FeatureMatrix(candidate.spec.names, features))
    falling = np.where(np.isfinite(scores), -scores, np.inf)
    order = np.lexsort((np.array(slate.activity_ids), falling))
    places = np.arange(min(slate.shown, places_max))
    fixed = slate.placed[places]
    tops = np.array([order[order >= place][0] for place in places.tolist()], np.intp)
    tops = np.where(fixed, places, tops)
    by_chance = explore / (len(slate) - places)
    targets = np.where(fixed, slate.propensities[places], by_chance)
    targets += np.where(fixed, 0.0, (1 - explore) * (tops == places))
    return _Judged(
        user=user,
        rewards=np.array(
            [rewards.get((slate.slate_id, slate.activity_ids[place]), 0.0) for place in places]
        ),
        propensities=slate.propensities[places],
        targets=np.minimum(targets, 1.0),
        tops=tops,
        fixed=fixed,
        features=features,
    )


def _with_reward_model(
    places: LoggedPlaces,
    judged: Sequence[_Judged],
    explore: float,
    config: CounterfactualConfig,
    seed: int,
) -> LoggedPlaces:
    """The places with DR's columns; without them where there are too few users to learn apart.

    The expected reward is that of the features times that of the place, relative to the others:
    the position-based model, without which every candidate would have to be asked at every place.
    """
    folds = folds_of(places.users, config.folds, seed)
    if len(np.unique(folds)) < config.folds:
        return places
    numbers = np.concatenate([np.arange(slate.places) for slate in judged])
    shown = np.concatenate([slate.features[: slate.places] for slate in judged])
    of_slate = folds[places.first_of_slate]
    predicted, expected = np.zeros(len(places)), np.zeros(len(places))
    for fold in range(config.folds):
        held_out = folds == fold
        predict = _reward_model(shown[~held_out], places.rewards[~held_out], seed)
        weights = _place_weights(
            numbers[~held_out], places.rewards[~held_out], predict(shown[~held_out])
        )
        some = [judged[number] for number in np.flatnonzero(of_slate == fold).tolist()]
        rows = predict(np.concatenate([slate.features for slate in some]))
        ends = np.cumsum([len(slate.features) for slate in some])
        pairs = [
            _expected(slate, worth, explore)
            for slate, worth in zip(some, np.split(rows, ends[:-1]), strict=True)
        ]
        of_place = weights[numbers[held_out]]
        predicted[held_out] = of_place * np.concatenate([pair[0] for pair in pairs])
        expected[held_out] = of_place * np.concatenate([pair[1] for pair in pairs])
    return replace(places, predicted=predicted, expected=expected)


def _expected(slate: _Judged, worth: Floats, explore: float) -> tuple[Floats, Floats]:
    """Of each place, what is shown is worth, and what the candidate would show, on average."""
    shown = worth[: slate.places]
    left = np.cumsum(worth[::-1])[::-1] / np.arange(len(worth), 0, -1)
    wanted = (1 - explore) * worth[slate.tops] + explore * left[: slate.places]
    return shown, np.where(slate.fixed, shown, wanted)


def _place_weights(places: npt.NDArray[np.int64], rewards: Floats, worth: Floats) -> Floats:
    """How much more, or less, came of each place than of its activities anywhere, float64[k]."""
    earned = np.bincount(places, weights=rewards)
    foreseen = np.bincount(places, weights=worth)
    return np.where(foreseen > 0, earned / np.where(foreseen > 0, foreseen, 1), 1.0)


def _reward_model(
    features: npt.NDArray[np.float32], rewards: Floats, seed: int
) -> Callable[[npt.NDArray[np.float32]], Floats]:
    """The expected reward of features and a position, by a few shallow trees."""
    import xgboost  # noqa: PLC0415 - a second that only training pays

    parameters = {
        "objective": "reg:squarederror",
        "max_depth": REWARD_DEPTH,
        "learning_rate": 0.1,
        "min_child_weight": 20,
        "nthread": 1,
        "seed": seed,
        "verbosity": 0,
    }
    matrix = xgboost.DMatrix(features, label=rewards, missing=np.nan, nthread=1)
    booster = xgboost.train(parameters, matrix, num_boost_round=REWARD_TREES)
    return lambda asked: np.asarray(booster.inplace_predict(asked), np.float64)
