"""Replaying the event log: what the service knew at each request, by the reducers that serve. Pure.

One pass forward. The table, the users' records and the follow edges take every event just as they
do online, and at a request's place in the log candidates and features are made by the very
functions that serve. So no feature can know what came after, and none is computed twice.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from feeds.counters import UserRecord
from feeds.events import (
    Engagement,
    Event,
    FeedbackGiven,
    Followed,
    Impression,
    Posted,
    Removed,
    Unfollowed,
)
from feeds.model import (
    ActivityId,
    FeedId,
    Follow,
    Position,
    TenantId,
    UserId,
    position_of,
    user_of_actor,
)
from ranking.candidates import Candidates, Feedback, FeedKind, Query
from ranking.config import RankingConfig
from ranking.extractors.base import USER_GROUP
from ranking.features import Factors, FeatureMatrix, FeatureSpec, build
from ranking.filters import apply_filters
from ranking.interning import UNKNOWN
from ranking.pipeline import build_filters, build_sources
from ranking.sources import ActiveSource, CandidateSource, propose
from ranking.table import ActivityTable
from training.config import RequestConfig
from training.events.log import EventLog
from training.sets.home_feeds import TIMELINE_GROUP, HomeFeeds, HomeFeedSource, home_of
from training.sets.requests import Request

__all__ = ["SERVED", "Answerable", "ReplayState", "replay"]

SERVED: Final = RankingConfig.default()
"""How the feeds are served that training learns for."""


@dataclass(frozen=True, slots=True)
class Answerable:
    """A request and what could have answered it, as of then.

    `features` and `labels` (int8[n]) have a row for each candidate, in the order of positions
    (newest first): so a stable sort by score breaks ties as serving does. `activities` is int64[n],
    the log index at which each was posted; `positions` int32[n], the place where each was shown,
    or -1.
    """

    request: Request
    features: FeatureMatrix
    labels: npt.NDArray[np.int8]
    activities: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int32]


class _Known(NamedTuple):
    position: Position
    posted: Posted


class ReplayState:
    """A tenant's state after some of its events: what serving would read at that moment."""

    def __init__(self, tenant: TenantId, table_rows: int) -> None:
        self.tenant = tenant
        self.table = ActivityTable(table_rows)
        self._records: defaultdict[str, UserRecord] = defaultdict(UserRecord.empty)
        self._follows: defaultdict[str, dict[str, Follow]] = defaultdict(dict)
        self._known: dict[ActivityId, _Known] = {}
        self._homes = HomeFeeds()

    def apply(self, index: int, event: Event) -> None:
        """Take the event at a log index, as the engine and the service do."""
        self.table.apply(index, event)
        match event:
            case Engagement() | Impression():
                # The engine counts nothing for activities that are unknown or removed.
                if known := self._known.get(event.activity_id):
                    posted = known.posted
                    self._records[event.user].add(event, known.position, posted.actor, posted.tags)
                    if not self.table.whole and self.table.rows([known.position])[0] < 0:
                        self.table.count_outside(event, posted)
            case FeedbackGiven():
                self._records[event.user].give(event)
            case Posted():
                self._post(index, event)
            case Removed():
                self._known.pop(event.activity_id, None)
                self._homes.removed(event.activity_id)
            case Followed():
                self._follow(index, event)
            case Unfollowed():
                self._unfollow(event)

    def query(self, user: UserId, now_us: int, kind: FeedKind = "personalized") -> Query:
        """What the user's read of a ranked feed would be at a time."""
        record = self._records.get(user) or UserRecord.empty()
        return Query(
            tenant=self.tenant,
            user=user,
            kind=kind,
            now_us=now_us,
            limit=25,
            request_id=f"replay-{user}-{now_us}",
            seed=0,
            record=record,
            follows=self._follows.get(home_of(user)) or {},
            feedback=Feedback.of(record),
        )

    def sources(self, config: RequestConfig, kind: FeedKind) -> tuple[CandidateSource, ...]:
        """Where candidates come from: the mix that serves, or all that was active lately."""
        if kind == "explore":
            return build_sources(SERVED, kind)
        if config.active_days is not None:
            return (ActiveSource(quota=config.candidates_max, days=config.active_days),)
        return tuple(
            HomeFeedSource(self._homes, source.quota) if source.name == "following" else source
            for source in build_sources(SERVED, kind)
        )

    def _post(self, index: int, event: Posted) -> None:
        before = self._known.get(event.activity_id)
        self._homes.posted(index, event, before and before.posted)
        position = before.position if before else position_of(event.activity_id)
        self._known[event.activity_id] = _Known(position, event)

    def _follow(self, index: int, event: Followed) -> None:
        # Following again keeps the edge that is there.
        self._follows[event.follower].setdefault(
            event.target,
            Follow(
                follower=FeedId.parse(event.follower),
                target=FeedId.parse(event.target),
                created_us=event.time_us,
                index=index,
                since_us=event.since_us,
                derived=event.derived,
            ),
        )

    def _unfollow(self, event: Unfollowed) -> None:
        edge = self._follows[event.follower].pop(event.target, None)
        if edge is not None and edge.follower.group == TIMELINE_GROUP:
            query = self.query(UserId(edge.follower.id), event.time_us)
            self._homes.unfollowed(edge, event.keep_history, query, self.table)


def replay(
    log: EventLog,
    requests: Sequence[Request],
    spec: FeatureSpec,
    config: RequestConfig,
    factors: Factors | None = None,
) -> Iterator[Answerable]:
    """Each request (they are in log order) with its candidates, features and labels.

    Of a request for the explore feed only what the user did not follow then is wanted; one whose
    touches were all followed is left out. Cost: about 20 us an event and 3 ms a request.
    """
    state = ReplayState(TenantId(log.tenant), config.table_rows)
    kinds = {request.kind for request in requests}
    sources = {kind: state.sources(config, kind) for kind in kinds}
    filters = {kind: build_filters(SERVED, kind) for kind in kinds}
    posts = _posts(log, requests)
    place = 0
    for request in requests:
        for index, event in zip(
            log.indexes[place : request.place], log.events[place : request.place], strict=True
        ):
            state.apply(index, event)
        place = max(place, request.place)
        query = state.query(request.user, request.now_us, request.kind)
        wanted = request
        if request.kind == "explore":
            wanted = _outside(request, query, state.table, posts)
        if request.labels and not wanted.labels:
            continue
        proposed = propose(sources[query.kind], query, state.table, config.candidates_max)
        kept = apply_filters(filters[query.kind], query, proposed, state.table).kept
        yield _answerable(wanted, query, _newest_first(kept, state.table), state, spec, factors)


def _posts(log: EventLog, requests: Sequence[Request]) -> dict[ActivityId, Posted]:
    """How each activity that an explore request touched came to be, known at the request or not."""
    touched = {activity for r in requests if r.kind == "explore" for activity in r.labels}
    posts: dict[ActivityId, Posted] = {}
    for event in log.events if touched else ():
        if isinstance(event, Posted) and event.activity_id in touched:
            posts.setdefault(event.activity_id, event)
    return posts


def _outside(
    request: Request, query: Query, table: ActivityTable, posts: Mapping[ActivityId, Posted]
) -> Request:
    """The request without what lies in a followed feed or is by a followed author, as of then."""
    rows = table.rows([position_of(activity) for activity in request.labels]).tolist()
    outside = {
        activity: label
        for row, (activity, label) in zip(rows, request.labels.items(), strict=True)
        if query.follows.keys().isdisjoint(
            _places_in_table(row, table) if row >= 0 else _places_of(posts.get(activity))
        )
    }
    return replace(request, labels=outside)


def _places_in_table(row: int, table: ActivityTable) -> list[str]:
    """What one follows to see the activity: the feeds it lies in, and its author's."""
    feeds = [table.names.feeds.names[n] for n in table.feeds[row].tolist() if n != UNKNOWN]
    return [*feeds, f"{USER_GROUP}:{table.names.users.names[table.author_user[row]]}"]


def _places_of(post: Posted | None) -> list[str]:
    """The same of an activity that the table does not hold, by how it was posted."""
    if post is None:
        return []
    return [post.feed, *post.to, f"{USER_GROUP}:{user_of_actor(post.actor)}"]


def _newest_first(candidates: Candidates, table: ActivityTable) -> Candidates:
    rows = candidates.rows
    return candidates.take(np.lexsort((table.tail[rows], -table.time_us[rows])))


def _answerable(
    request: Request,
    query: Query,
    candidates: Candidates,
    state: ReplayState,
    spec: FeatureSpec,
    factors: Factors | None,
) -> Answerable:
    table = state.table
    return Answerable(
        request=request,
        features=build(spec, query, candidates, table, factors),
        labels=_told(request.labels, candidates, table, 0).astype(np.int8),
        activities=table.index[candidates.rows],
        positions=_told(request.shown, candidates, table, -1).astype(np.int32),
    )


def _told(
    numbers: Mapping[ActivityId, int], candidates: Candidates, table: ActivityTable, other: int
) -> npt.NDArray[np.int64]:
    """int64[n]: the number of each candidate, `other` for those without one."""
    found = np.full(len(candidates), other, np.int64)
    place_of = {row: place for place, row in enumerate(candidates.rows.tolist())}
    rows = table.rows([position_of(activity) for activity in numbers])
    for row, number in zip(rows.tolist(), numbers.values(), strict=True):
        if (place := place_of.get(row)) is not None:
            found[place] = number
    return found
