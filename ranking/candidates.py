"""The nouns of ranking: who asks (Query), what could be shown (Candidates), what is (Slate).

Candidates are columns: a candidate is a row number of the activity table, so that every step works
on whole arrays. `RankedActivity` is one place of the answer.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from feeds.counters import UserRecord
from feeds.model import ActivityId, Follow, TenantId, UserId

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
    "Slate",
    "SlateQuality",
    "Stage",
]

FeedKind = Literal["personalized", "explore"]


@dataclass(frozen=True, slots=True)
class Feedback:
    """What the user said of authors and tags; authors are named as activities name their actor.

    `less_authors` and `less_tags` map to the time of saying so, in microseconds since the epoch.
    Who makes it bounds it: a few hundred names cost some 50 us of a ranking.
    """

    muted_authors: Collection[str] = ()
    muted_tags: Collection[str] = ()
    less_authors: Mapping[str, int] = field(default_factory=dict)
    less_tags: Mapping[str, int] = field(default_factory=dict)


NO_FEEDBACK: Final = Feedback()
"""Of a user who said nothing."""


@dataclass(frozen=True, slots=True)
class Query:
    """One request for a ranked feed, with the user's side of every feature.

    `follows` maps the text of a followed feed to its edge. `seed` derives from request and user, so
    that a page can be made again from its log line. `now_us` is microseconds since the epoch.
    `excluded` are the positions of activities that the request does not want, `served` of those
    that the user was shown lately; who makes the query bounds both.
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


class RankedActivity(msgspec.Struct, frozen=True):
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

    `model_version` is None where no model took part; `degraded` says why the fallback ranked, and
    what was given up. `timings_us` maps a stage's name to its time; `quality` is None where nobody
    measured. `removed` and `explanation` are filled where an explanation was asked for.
    """

    request_id: str
    tenant: TenantId
    user: UserId
    kind: FeedKind
    ranked: Sequence[RankedActivity]
    removed: Sequence[RemovedActivity] = ()
    scorer: str = ""
    model_version: str | None = None
    degraded: str | None = None
    timings_us: Mapping[str, int] = field(default_factory=dict)
    explanation: Explanation | None = None
    quality: SlateQuality | None = None
