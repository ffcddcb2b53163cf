"""What a ranking comes to: the slate, its places, and how it came about.

`RankedActivities` are the places of the answer; `Scoring` holds the numbers they were made from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from feeds.model import ActivityId, Position, TenantId, UserId
from ranking.candidates import Candidates, FeedKind
from ranking.exploration import Shown
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.filters import Removed

__all__ = [
    "ActivityExplanation",
    "Explanation",
    "HeadExplanation",
    "RankedActivities",
    "RankedActivity",
    "RemovedActivity",
    "Scoring",
    "Slate",
    "SlateQuality",
    "Stage",
]


class RankedActivity(msgspec.Struct, frozen=True, gc=False):
    """One place of a slate: what stands there, why, and with which probability it was chosen.

    `score` is the scorer's, before multipliers, and finite or NaN (no score). `reason` is a phrase
    for the end user. `propensity` is the probability of this activity in this place, given those
    in the places before it. Texts and numbers alone, so the garbage collector need not look at it.
    """

    activity_id: ActivityId
    position: int
    score: float
    source: str
    reason: str
    propensity: float = 1.0


@dataclass(frozen=True, slots=True)
class RankedActivities:
    """The places of a slate as columns; a place is made an object where someone asks for it.

    `feed_positions` is where each activity stands in every feed; the others are the fields of
    `RankedActivity`, whose `position` is the number of the place.
    """

    activity_ids: Sequence[ActivityId]
    feed_positions: Sequence[Position]
    scores: Sequence[float]
    sources: Sequence[str]
    reasons: Sequence[str]
    propensities: Sequence[float]

    def __len__(self) -> int:
        """How many places there are."""
        return len(self.activity_ids)

    def __getitem__(self, place: int) -> RankedActivity:
        """The place of a number, from 0."""
        return RankedActivity(
            self.activity_ids[place],
            place,
            self.scores[place],
            self.sources[place],
            self.reasons[place],
            self.propensities[place],
        )

    def __iter__(self) -> Iterator[RankedActivity]:
        """The places, the first one first."""
        return map(self.__getitem__, range(len(self)))

    def followed_by(self, others: Self) -> Self:
        """These places, and the others behind them."""
        return type(self)(
            [*self.activity_ids, *others.activity_ids],
            [*self.feed_positions, *others.feed_positions],
            [*self.scores, *others.scores],
            [*self.sources, *others.sources],
            [*self.reasons, *others.reasons],
            [*self.propensities, *others.propensities],
        )


@dataclass(frozen=True, slots=True)
class RemovedActivity:
    """A candidate that a filter took out, and why."""

    activity_id: ActivityId
    filter: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a ranking: how many candidates went in and came out, and how long it took."""

    name: str
    came: int
    left: int
    time_us: int


@dataclass(frozen=True, slots=True)
class HeadExplanation:
    """What one head of a value model says of an activity.

    The score is the sum over the heads of `weight` times `probability`. `contributions`, where the
    head can tell, is what each feature added to the probability, and `bias` the rest.
    """

    kind: str
    weight: float
    probability: float
    contributions: Mapping[str, float] | None
    bias: float | None


@dataclass(frozen=True, slots=True)
class ActivityExplanation:
    """Why one activity stands where it does.

    `features` holds every feature the scorer read (NaN where missing). `contributions`, where the
    scorer can tell, is what each feature added, and `bias` the rest: together they are the score.
    `multipliers` are the adjustments made after it, by name. `explored` is true where chance, not
    the score, chose; `placed` names the rule that gave it its place, such as `pin`. `heads` are
    those of a value model; None for another scorer.
    """

    activity_id: ActivityId
    score: float
    features: Mapping[str, float]
    contributions: Mapping[str, float] | None
    bias: float | None
    multipliers: Mapping[str, float]
    explored: bool
    placed: str | None = None
    heads: Sequence[HeadExplanation] | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a slate came about: the stages in order, and each ranked activity, in slate order."""

    stages: Sequence[Stage]
    activities: Sequence[ActivityExplanation]


@dataclass(frozen=True, slots=True)
class Scoring:
    """The very numbers that a slate was made from: references, which cost nothing to keep.

    `features` (built by `spec`) and `scores`, float32[n], are of `kept`, what the filters let pass;
    `shown` says which of those the places hold. `multipliers` maps the name of an adjustment to
    what it multiplied by, float64, a number for each place; `placed` a candidate's number to the
    rule that gave it its place.
    """

    kept: Candidates
    removed: Sequence[Removed]
    spec: FeatureSpec
    features: FeatureMatrix
    scores: npt.NDArray[np.float32]
    shown: Shown
    stages: Sequence[Stage]
    multipliers: Mapping[str, npt.NDArray[np.float64]]
    placed: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SlateQuality:
    """What was given up for lack of time, in order, and the quality factor, above 0 and up to 1.

    `late_sources` are the sources that were left out because they take too long.
    """

    factor: float
    steps: Sequence[str]
    late_sources: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Slate:
    """The ordered answer to one request.

    `model_version` is None where no model took part; `degraded` says why the fallback ranked.
    `config_version` is the ranking config's, 0 of the default. `timings_us` maps a stage's name to
    its time. `removed` and `explanation` are filled where an explanation was asked for.
    """

    request_id: str
    tenant: TenantId
    user: UserId
    kind: FeedKind
    ranked: RankedActivities
    removed: Sequence[RemovedActivity] = ()
    scorer: str = ""
    model_version: str | None = None
    config_version: int = 0
    degraded: str | None = None
    timings_us: Mapping[str, int] = field(default_factory=dict)
    explanation: Explanation | None = None
    scoring: Scoring | None = field(default=None, repr=False, compare=False)
    quality: SlateQuality | None = None
