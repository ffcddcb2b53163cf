"""Why a slate is what it is: stage counts, times, reasons, and what each feature added."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt

from feeds.model import Follow
from ranking.adjustments import Adjusted
from ranking.candidates import Candidates, Query
from ranking.exploration import Shown
from ranking.extractors.base import USER_GROUP
from ranking.features import FeatureMatrix
from ranking.filters import Removed
from ranking.interning import UNKNOWN
from ranking.scorers.base import ExplainingScorer, Scorer
from ranking.scorers.value import ExplainedHead, ValueScorer
from ranking.slates import (
    ActivityExplanation,
    Explanation,
    HeadExplanation,
    RankedActivities,
    RemovedActivity,
    Stage,
)
from ranking.table import ActivityTable

__all__ = ["Trace", "explanation", "head_explanations", "reasons", "removed_activities"]

_BY_SOURCE = {
    "active": "active now",
    "editorial": "picked for everyone",
    "factors": "suggested for you",
    "fresh": "new",
    "newest": "new",
    "second_degree": "those whom you follow engaged with it",
    "similar": "like what you engaged with",
    "topics": "about what you engage with",
    "trending": "popular now",
}
_BY_CHANCE = "shown to learn whether you like it"
_BY_RULE = {
    "new_author": "by someone new",
    "pin": "picked for everyone",
}


@dataclass(slots=True)
class Trace:
    """The stages of one ranking, timed by `clock_ns`, a monotonic clock in nanoseconds."""

    clock_ns: Callable[[], int]
    stages: list[Stage] = field(default_factory=list)
    _began_ns: int = field(init=False)

    def __post_init__(self) -> None:
        """Start the clock of the first stage."""
        self._began_ns = self.clock_ns()

    def passed(self, name: str, came: int, left: int) -> None:
        """Note that a stage ended, with the candidates that came in and that left it."""
        now_ns = self.clock_ns()
        self.stages.append(Stage(name, came, left, (now_ns - self._began_ns) // 1000))
        self._began_ns = now_ns

    def timings_us(self) -> dict[str, int]:
        """Each stage's time."""
        return {stage.name: stage.time_us for stage in self.stages}


def reasons(query: Query, shown: Shown, candidates: Candidates, table: ActivityTable) -> list[str]:
    """For each place a phrase that tells the end user why it is there."""
    rows = candidates.rows[shown.places]
    feeds = table.feeds.take(rows, axis=0)
    most = np.count_nonzero(feeds.max(axis=0, initial=UNKNOWN) != UNKNOWN)
    posted_to = feeds[:, :most].tolist()
    feed_names, user_names = table.names.feeds.names, table.names.users.names
    because = _Because(query.follows)
    of_feeds = {
        number: because[feed_names[number]]
        for number in set(chain(*posted_to))
        if number != UNKNOWN and feed_names[number] in query.follows
    }
    by_source = [_BY_SOURCE.get(name, f"from {name}") for name in candidates.sources]
    found: list[str] = []
    for source, numbers, author in zip(
        candidates.source[shown.places].tolist(),
        posted_to,
        table.author_user[rows].tolist(),
        strict=True,
    ):
        for number in numbers:
            if number in of_feeds:
                found.append(of_feeds[number])
                break
        else:
            name = f"{USER_GROUP}:{user_names[author]}"
            found.append(because[name] if name in query.follows else by_source[source])
    for place, candidate in enumerate(shown.places.tolist() if shown.placed else ()):
        found[place] = _BY_RULE.get(shown.placed.get(candidate, ""), found[place])
    for place in np.flatnonzero(shown.explored).tolist():
        found[place] = _BY_CHANCE
    return found


def removed_activities(removals: Sequence[Removed], table: ActivityTable) -> list[RemovedActivity]:
    """What the filters removed, with reasons; rows that hold no activity have no id to name."""
    return [
        RemovedActivity(activity, removed.filter, removed.reason)
        for removed in removals
        for activity in table.ids(removed.rows[removed.rows >= 0])
        if activity
    ]


def explanation(
    ranked: RankedActivities,
    trace: Trace,
    scorer: Scorer,
    features: FeatureMatrix,
    shown: Shown,
    adjusted: Adjusted,
) -> Explanation:
    """The stages, and for each place the features and what they added to the score."""
    chosen = features.take(shown.places)
    added = scorer.contributions(chosen) if isinstance(scorer, ExplainingScorer) else None
    heads = head_explanations(scorer, chosen)
    return Explanation(
        tuple(trace.stages),
        tuple(
            ActivityExplanation(
                activity_id=activity.activity_id,
                score=activity.score,
                features=_by_name(features, chosen.values[place]),
                contributions=None if added is None else _by_name(features, added[place, :-1]),
                bias=None if added is None else float(added[place, -1]),
                multipliers={
                    name: float(by[candidate]) for name, by in adjusted.multipliers.items()
                }
                | {"author_spread": float(shown.multipliers[place])},
                explored=bool(shown.explored[place]),
                placed=shown.placed.get(candidate),
                heads=heads[place] if heads else None,
            )
            for place, (activity, candidate) in enumerate(
                zip(ranked, shown.places.tolist(), strict=True)
            )
        ),
    )


def head_explanations(
    scorer: Scorer, features: FeatureMatrix
) -> list[tuple[HeadExplanation, ...]] | None:
    """What each head of a value model says, by row; None for another scorer. Slow."""
    if not isinstance(scorer, ValueScorer):
        return None
    heads = scorer.explained(features)
    return [tuple(_of_head(head, row) for head in heads) for row in range(len(features))]


def _of_head(head: ExplainedHead, row: int) -> HeadExplanation:
    told = None if head.contributions is None else head.contributions[row].tolist()
    return HeadExplanation(
        kind=head.kind,
        weight=head.weight,
        probability=float(head.probability[row]),
        contributions=None if told is None else dict(zip(head.columns, told, strict=False)),
        bias=None if told is None else told[-1],
    )


def _by_name(features: FeatureMatrix, row: npt.NDArray[np.float32]) -> dict[str, float]:
    return dict(zip(features.names, row.tolist(), strict=True))


class _Because(dict[str, str]):
    """By the name of a followed feed: that the user follows it; each phrase is made once."""

    def __init__(self, follows: Mapping[str, Follow]) -> None:
        self._follows = follows

    def __missing__(self, name: str) -> str:
        derived = " (derived)" if self._follows[name].derived else ""
        self[name] = because = f"because you follow {name}{derived}"
        return because
