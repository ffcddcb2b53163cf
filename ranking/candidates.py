"""What a ranking starts from: who asks (Query), and what could be shown (Candidates).

Candidates are columns: a candidate is a row number of the activity table, so that every step works
on whole arrays. What comes of them is in `ranking.slates`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from feeds.counters import UserRecord
from feeds.model import Follow, TenantId, UserId

__all__ = ["NO_FEEDBACK", "Candidates", "FeedKind", "Feedback", "Query"]

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
