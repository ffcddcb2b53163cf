"""Replaying the event log: what the service knew at each request, by the reducers that serve. Pure.

One pass forward. The table, the users' records and the follow edges take every event just as they
do online, and at a request's place in the log candidates and features are made by the very
functions that serve. So no feature can know what came after, and none is computed twice.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from feeds.counters import UserRecord
from feeds.events import Engagement, Event, Followed, Impression, Posted, Removed, Unfollowed
from feeds.model import ActivityId, FeedId, Follow, Position, TenantId, UserId, position_of
from ranking.candidates import Candidates, Query
from ranking.features import Factors, FeatureMatrix, FeatureSpec, build
from ranking.filters import apply_filters, default_filters
from ranking.sources import ActiveSource, CandidateSource, default_sources, propose
from ranking.table import ActivityTable
from training.config import RequestConfig
from training.event_log import EventLog
from training.home_feeds import TIMELINE_GROUP, HomeFeeds, HomeFeedSource, home_of
from training.requests import Request

__all__ = ["Answerable", "ReplayState", "replay"]


@dataclass(frozen=True, slots=True)
class Answerable:
    """A request and what could have answered it, as of then.

    `features` and `labels` (int8[n]) have a row for each candidate, in the order of positions
    (newest first): so a stable sort by score breaks ties as serving does. `activities` is int64[n],
    the log index at which each was posted.
    """

    request: Request
    features: FeatureMatrix
    labels: npt.NDArray[np.int8]
    activities: npt.NDArray[np.int64]


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
            case Posted():
                self._post(index, event)
            case Removed():
                self._known.pop(event.activity_id, None)
                self._homes.removed(event.activity_id)
            case Followed():
                self._follow(index, event)
            case Unfollowed():
                self._unfollow(event)

    def query(self, user: UserId, now_us: int, seed: int = 0) -> Query:
        """What the user's read of the personalized feed would be at a time."""
        return Query(
            tenant=self.tenant,
            user=user,
            kind="personalized",
            now_us=now_us,
            limit=25,
            request_id=f"replay-{user}-{now_us}",
            seed=seed,
            record=self._records.get(user) or UserRecord.empty(),
            follows=self._follows.get(home_of(user)) or {},
        )

    def sources(self, config: RequestConfig) -> tuple[CandidateSource, ...]:
        """Where candidates come from: the mix that serves, or all that was active lately."""
        if config.active_days is not None:
            return (ActiveSource(quota=config.candidates_max, days=config.active_days),)
        return tuple(
            HomeFeedSource(self._homes, source.quota) if source.name == "following" else source
            for source in default_sources("personalized")
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

    Cost: about 20 us an event and 3 ms a request.
    """
    state = ReplayState(TenantId(log.tenant), config.table_rows)
    sources = state.sources(config)
    place = 0
    for request in requests:
        for index, event in zip(
            log.indexes[place : request.place], log.events[place : request.place], strict=True
        ):
            state.apply(index, event)
        place = max(place, request.place)
        query = state.query(request.user, request.now_us)
        proposed = propose(sources, query, state.table, config.candidates_max)
        kept = apply_filters(default_filters(), query, proposed, state.table).kept
        yield _answerable(request, query, _newest_first(kept, state.table), state, spec, factors)


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
    labels = np.zeros(len(candidates), np.int8)
    place_of = {row: place for place, row in enumerate(candidates.rows.tolist())}
    touched = table.rows([position_of(activity) for activity in request.labels])
    for row, label in zip(touched.tolist(), request.labels.values(), strict=True):
        if (place := place_of.get(row)) is not None:
            labels[place] = label
    return Answerable(
        request=request,
        features=build(spec, query, candidates, table, factors),
        labels=labels,
        activities=table.index[candidates.rows],
    )
