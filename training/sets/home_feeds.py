"""What a user's own feed holds, from events alone: the replay's twin of the engine's feed rows.

The activity table knows most of it: where each activity was posted, and when. What it cannot know
is kept here: history that stayed after an unfollow, feeds that an activity reached by being posted
again, and feeds beyond those that the table keeps of an activity.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from feeds.events import Posted
from feeds.model import ActivityId, FeedId, Follow, Position, UserId, position_of
from ranking.candidates import Query
from ranking.sources import CANDIDATES_MAX, FollowingSource
from ranking.table import FEEDS_MAX, ActivityTable

__all__ = ["TIMELINE_GROUP", "HomeFeedSource", "HomeFeeds", "home_of"]

TIMELINE_GROUP: Final = "timeline"
"""The feed group of users' own feeds, which gather what they follow."""


def home_of(user: UserId) -> str:
    """The user's own feed."""
    return f"{TIMELINE_GROUP}:{user}"


class _Late(NamedTuple):
    """A row of a feed that the table does not know: the activity's time, the row's log index."""

    time_us: int
    log_index: int


class HomeFeeds:
    """The rows of home feeds that the table alone does not give. Memory: 200 bytes a row."""

    def __init__(self) -> None:
        self._late: defaultdict[str, dict[Position, _Late]] = defaultdict(dict)
        self._late_feeds: dict[ActivityId, list[str]] = {}
        self._kept: defaultdict[str, dict[str, list[Position]]] = defaultdict(dict)

    def posted(self, index: int, event: Posted, before: Posted | None) -> None:
        """An activity reached its feeds; `before` is what was known of it, if it was there."""
        places = (event.feed, *event.to)
        known = places[:FEEDS_MAX] if before is None else (before.feed, *before.to)
        for feed in [place for place in places if place not in known]:
            self._late[feed][position_of(event.activity_id)] = _Late(event.time_us, index)
            self._late_feeds.setdefault(event.activity_id, []).append(feed)

    def removed(self, activity_id: ActivityId) -> None:
        """An activity left every feed."""
        for feed in self._late_feeds.pop(activity_id, ()):
            self._late[feed].pop(position_of(activity_id), None)

    def unfollowed(
        self, edge: Follow, keep_history: bool, query: Query, table: ActivityTable
    ) -> None:
        """A follow of the query's user ended: what it brought stays, or all of it goes."""
        kept, target = self._kept[home_of(query.user)], str(edge.target)
        if not keep_history:
            kept.pop(target, None)
            return
        rows = FollowingSource().propose(replace(query, follows={target: edge}), table)
        brought = [*table.positions(rows), *self._late_rows({target: edge})]
        kept[target] = list(dict.fromkeys((*kept.get(target, ()), *brought)))

    def beside(self, query: Query) -> list[Position]:
        """The rows of the user's own feed that the table does not give, in no order."""
        home = home_of(query.user)
        kept = self._kept.get(home, {}).values()
        own = self._late.get(home, {})
        return [*own, *self._late_rows(query.follows), *(row for rows in kept for row in rows)]

    def _late_rows(self, follows: Mapping[str, Follow]) -> Iterator[Position]:
        for target, edge in follows.items():
            for position, late in self._late.get(target, {}).items():
                if late.log_index > edge.index or late.time_us >= edge.since_us:
                    yield position


@dataclass(frozen=True, slots=True)
class HomeFeedSource:
    """The newest rows of the user's own feed, those that `serving.sources` reads from the engine.

    Beyond 500 rows the two may differ in rows of removed activities, which the engine still counts.
    """

    homes: HomeFeeds
    quota: int
    name: str = "following"

    def propose(self, query: Query, table: ActivityTable) -> npt.NDArray[np.int32]:
        """The rows of the home feed that are in the table, newest first."""
        home = home_of(query.user)
        own = Follow(FeedId.parse(home), FeedId.parse(home), created_us=0, index=0, since_us=0)
        follows = {**query.follows, home: own}
        found = FollowingSource().propose(replace(query, follows=follows), table)
        if beside := self.homes.beside(query):
            rows = table.rows(beside)
            found = table.newest_first(np.union1d(found, rows[rows >= 0]))
        return found[:CANDIDATES_MAX]
