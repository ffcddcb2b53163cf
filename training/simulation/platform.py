"""What a community lives on: the platform's calls, and a twin of the platform in this process."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from feeds.actions import Follow, Post
from feeds.events import Engagement, Event, Followed, Impression, Posted
from feeds.model import Activity, ActivityId, TenantId, UserId, encode_body
from ranking.candidates import FeedKind, Query
from ranking.slates import Slate
from ranking.table import ActivityTable
from training.events.log import EventLog
from training.sets.replay import ReplayState
from training.simulation.policy import Arm
from training.sources.base import id_of

__all__ = ["TABLE_ROWS", "LocalPlatform", "Mirrored", "Platform", "ServedSlate"]

TABLE_ROWS = 100_000
"""Activities of the twin's table, as in serving."""


@dataclass(frozen=True, slots=True)
class ServedSlate:
    """What a read of a ranked feed answered: the activities of its first page, in order."""

    slate_id: str
    activities: tuple[ActivityId, ...]


class Platform(Protocol):
    """The calls of an app, in the order of their times."""

    def begin(self, evening_us: int) -> None:
        """A day begins: its posts come, then its visits, from `evening_us` on."""
        ...

    def post(self, post: Post) -> ActivityId:
        """Post an activity; returns its id."""
        ...

    def follow(self, follow: Follow) -> None:
        """Let a feed follow another."""
        ...

    def read(self, user: UserId, kind: FeedKind, now_us: int, places: int) -> ServedSlate:
        """The first page of a ranked feed."""
        ...

    def record(self, events: Sequence[Impression | Engagement]) -> None:
        """Record what a member saw and did."""
        ...


class LocalPlatform:
    """The platform without processes and disk: the reducers and the ranker that serve.

    It keeps every event, as the engine's log does. Equal calls give equal slates, bit for bit.
    """

    def __init__(self, arm: Arm, tenant: str = "simulated") -> None:
        self.arm = arm
        self.events: list[Event] = []
        self._state = ReplayState(TenantId(tenant), TABLE_ROWS)
        self._posted_us: dict[str, list[int]] = {}
        self._posted_at: list[int] = []

    def begin(self, evening_us: int) -> None:
        """Nothing to prepare."""

    def post(self, post: Post) -> ActivityId:
        """Post an activity; returns its id."""
        event = _posted(post)
        for feed in {event.feed, *event.to}:
            self._posted_us.setdefault(feed, []).append(event.time_us)
        self._apply(event)
        self._posted_at.append(len(self.events))
        return event.activity_id

    def follow(self, follow: Follow) -> None:
        """Let a feed follow another; the newest `copy_limit` activities come along."""
        copied = sorted(self._posted_us.get(follow.target, ()))[-follow.copy_limit :]
        self._apply(
            Followed(
                time_us=follow.time_us,
                follower=follow.follower,
                target=follow.target,
                since_us=copied[0] if copied else follow.time_us,
            )
        )

    def read(self, user: UserId, kind: FeedKind, now_us: int, places: int) -> ServedSlate:
        """The first page of a ranked feed, by the platform's arm."""
        slate = self.rank(user, kind, now_us)
        return ServedSlate(slate.request_id, tuple(slate.ranked.activity_ids[:places]))

    def record(self, events: Sequence[Impression | Engagement]) -> None:
        """Take what a member saw and did; the next read reckons with it."""
        for event in events:
            self._apply(event)

    def rank(self, user: UserId, kind: FeedKind, now_us: int) -> Slate:
        """The whole slate that a read would be answered with."""
        return self.arm.rank(self.query(user, kind, now_us), self.table)

    def query(self, user: UserId, kind: FeedKind, now_us: int) -> Query:
        """A read as the ranker sees it; its seed derives from request and user, as in serving."""
        name = hashlib.blake2b(f"{now_us}:{user}:{kind}".encode(), digest_size=16).hexdigest()
        seed = hashlib.blake2b(f"{name}:{user}".encode(), digest_size=8).digest()
        query = self._state.query(user, now_us, kind)
        return replace(query, request_id=name, seed=int.from_bytes(seed))

    @property
    def table(self) -> ActivityTable:
        """The activities as columns; its log indices count the events from 1."""
        return self._state.table

    def numbers(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """Rows of the table as numbers of activities, counted from 0 as they were posted."""
        return np.searchsorted(self._posted_at, self.table.index[rows]).astype(np.int64)

    def log(self) -> EventLog:
        """Everything that happened so far."""
        events = list(self.events)
        return EventLog(self._state.tenant, list(range(1, len(events) + 1)), events)

    def _apply(self, event: Event) -> None:
        self.events.append(event)
        self._state.apply(len(self.events), event)


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A platform that is read, and a twin that takes the same posts, follows and events.

    So the twin knows what the platform knows, and other arms can be judged at the same moments.
    """

    served: Platform
    twin: LocalPlatform

    def begin(self, evening_us: int) -> None:
        """Begin the day on both."""
        self.served.begin(evening_us)
        self.twin.begin(evening_us)

    def post(self, post: Post) -> ActivityId:
        """Post to both; an activity's id follows from what it is, so both give the same."""
        self.twin.post(post)
        return self.served.post(post)

    def follow(self, follow: Follow) -> None:
        """Follow on both."""
        self.twin.follow(follow)
        self.served.follow(follow)

    def read(self, user: UserId, kind: FeedKind, now_us: int, places: int) -> ServedSlate:
        """Read the platform alone."""
        return self.served.read(user, kind, now_us, places)

    def record(self, events: Sequence[Impression | Engagement]) -> None:
        """Record on both."""
        self.twin.record(events)
        self.served.record(events)


def _posted(post: Post) -> Posted:
    activity = Activity(
        id=id_of(post),
        actor=post.actor,
        verb=post.verb,
        object=post.object,
        time_us=post.time_us,
        foreign_id=post.foreign_id,
        to=post.to,
        custom=post.custom,
    )
    return Posted(
        time_us=post.time_us,
        activity_id=activity.id,
        actor=post.actor,
        verb=post.verb,
        object=post.object,
        feed=post.feed,
        to=post.to,
        tags=tuple(str(tag) for tag in post.custom.get("tags", ())),
        length=len(encode_body(activity)),
    )
