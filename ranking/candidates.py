"""The nouns of ranking: who asks (Query), what could be shown (Candidates), what is (Slate).

Candidates are columns: a candidate is a row number of the activity table, so that every step works
on whole arrays. `RankedActivity` is one place of the answer.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt

from feeds.counters import UserRecord
from feeds.model import ActivityId, Follow, TenantId, UserId

if TYPE_CHECKING:  # they are made of candidates themselves
    from ranking.exploration import Shown
    from ranking.features import FeatureMatrix, FeatureSpec
    from ranking.filters import Removed

__all__ = [
    "NO_FEEDBACK",
    "ActivityExplanation",
    "Candidates",
    "Explanation",
    "FeedKind",
    "Feedback",
    "Query",
    "RankedActivity",
    "RemovedActivity",
    "Scoring",
    "Slate",
    "Stage",
]

FeedKind = Literal["personalized", "explore"]


@dataclass(frozen=True, slots=True)
class Feedback:
    """What the user said of authors and tags; authors are named as activities name their actor.

    Those of which the user wants less, or more, map to the time of saying so, in microseconds since
    the epoch. Who makes it bounds it: a few hundred names cost some 50 us of a ranking.
    """

    muted_authors: Collection[str] = ()
    muted_tags: Collection[str] = ()
    less_authors: Mapping[str, int] = field(default_factory=dict)
    less_tags: Mapping[str, int] = field(default_factory=dict)
    more_authors: Mapping[str, int] = field(default_factory=dict)
    more_tags: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, record: UserRecord) -> "Feedback":
        """What the record of a user holds of it; shared with the record."""
        authors, tags = record.of_authors, record.of_tags
        return cls(authors.muted, tags.muted, authors.less, tags.less, authors.more, tags.more)


NO_FEEDBACK: Final = Feedback()
"""Of a user who said nothing."""


@dataclass(frozen=True, slots=True)
class Query:
    """One request for a ranked feed, with the user's side of every feature.

    `follows` maps the text of a followed feed to its edge. `seed` derives from request and user, so
    that a page can be made again from its log line. `now_us` is microseconds since the epoch.
    `excluded` are the positions of activities that the request does not want, `served` of those
    that the user was shown lately. `caller` are the numbers that the caller brings, by name and
    position. Who makes the query bounds them all.
    """

    tenant: TenantId
    user: UserId
    kind: FeedKind
    now_us: int
    limit: int
    request_id: str
    seed: int
    record: UserRecord
    follows: Mapping[str, Follow]
    excluded: Collection[bytes] = ()
    served: Collection[bytes] = ()
    feedback: Feedback = NO_FEEDBACK
    caller: Mapping[str, Mapping[bytes, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Activities that could be shown: rows of one activity table, without repeats.

    `rows` is int32[n]; `source` is int8[n], the place in `sources` of the first source that
    proposed the row.
    """

    rows: npt.NDArray[np.int32]
    source: npt.NDArray[np.int8]
    sources: Sequence[str]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.rows)

    def take(self, places: npt.NDArray[np.intp]) -> "Candidates":
        """The candidates at these places, in their order."""
        return Candidates(self.rows[places], self.source[places], self.sources)


@dataclass(frozen=True, slots=True)
class RankedActivity:
    """One place of a slate: what stands there, why, and with which probability it was chosen.

    `score` is the scorer's, before multipliers, and finite or NaN (no score). `reason` is a phrase
    for the end user. `propensity` is the probability of this activity in this place, given those
    in the places before it.
    """

    activity_id: ActivityId
    position: int
    score: float
    source: str
    reason: str
    propensity: float = 1.0


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
class ActivityExplanation:
    """Why one activity stands where it does.

    `features` holds every feature the scorer read (NaN where missing). `contributions`, where the
    scorer can tell, is what each feature added, and `bias` the rest: together they are the score.
    `multipliers` are the adjustments made after it, by name. `explored` is true where chance, not
    the score, chose; `placed` names the rule that gave it its place, such as `pin`.
    """

    activity_id: ActivityId
    score: float
    features: Mapping[str, float]
    contributions: Mapping[str, float] | None
    bias: float | None
    multipliers: Mapping[str, float]
    explored: bool
    placed: str | None = None


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
    removed: "Sequence[Removed]"
    spec: "FeatureSpec"
    features: "FeatureMatrix"
    scores: npt.NDArray[np.float32]
    shown: "Shown"
    stages: Sequence[Stage]
    multipliers: Mapping[str, npt.NDArray[np.float64]]
    placed: Mapping[int, str] = field(default_factory=dict)


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
    ranked: Sequence[RankedActivity]
    removed: Sequence[RemovedActivity] = ()
    scorer: str = ""
    model_version: str | None = None
    config_version: int = 0
    degraded: str | None = None
    timings_us: Mapping[str, int] = field(default_factory=dict)
    explanation: Explanation | None = None
    scoring: Scoring | None = field(default=None, repr=False, compare=False)
