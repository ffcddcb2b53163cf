"""Whom and what users followed before any place of the log, and who had engaged by then."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from feeds.counters import ENGAGERS_MAX
from feeds.events import Followed, Unfollowed
from feeds.model import UserId
from ranking.extractors.base import NEVER, USER_GROUP
from training.asof.case import Case
from training.asof.search import History
from training.events.columns import EventColumns
from training.sets.home_feeds import home_of

__all__ = ["FollowedFeeds", "LatestEngagers", "engagers_of", "follows_of"]

Ints = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int32]

_ENDED: Final = NEVER


@dataclass(frozen=True, slots=True)
class FollowedFeeds:
    """The follows of users' own feeds, through time."""

    feeds: Sequence[str]
    """Every feed that was ever followed."""
    history: History
    left_us: Ints
    """int64: what each follow or unfollow left, in the history's order."""

    def since_us(self, user: Ints, feed: Ints, place: Ints) -> Ints:
        """Since when each user follows each feed, -1 none, as of each place; or `NEVER`."""
        found = self.history.last(user * (len(self.feeds) + 1) + feed, place)
        since_us = np.full(len(found), NEVER, np.int64)
        known = (found >= 0) & (feed >= 0)
        since_us[known] = self.left_us[found[known]]
        return since_us

    def numbers(self, names: Sequence[str]) -> Numbers:
        """The number of each feed, -1 where nobody ever followed it; one more -1 at the end."""
        number_of = {feed: number for number, feed in enumerate(self.feeds)}
        return np.array([*(number_of.get(name, -1) for name in names), -1], np.int32)

    def homes(self, names: Sequence[str]) -> Numbers:
        """The same of the users' own feeds."""
        return self.numbers([f"{USER_GROUP}:{name}" for name in names])


def follows_of(events: EventColumns) -> FollowedFeeds:
    """Read the follows of a log. Following again keeps the edge that is there."""
    user_of_home = {home_of(UserId(name)): number for number, name in enumerate(events.users)}
    feeds: dict[str, int] = {}
    user, feed, places, since = [], [], [], []
    for place, event in events.follows.events():
        edge = cast("Followed | Unfollowed", event)
        follower = user_of_home.get(edge.follower)
        if follower is not None:
            user.append(follower)
            feed.append(feeds.setdefault(edge.target, len(feeds)))
            places.append(place)
            since.append(edge.time_us if isinstance(edge, Followed) else _ENDED)
    keys = np.array(user, np.int64) * (len(feeds) + 1) + np.array(feed, np.int64)
    history = History.of(keys, np.array(places, np.int64), len(events))
    times = np.array(since, np.int64)[history.order]
    follows = times != _ENDED
    begins = history.first | np.append(True, ~follows[:-1])[: len(follows)] | ~follows
    run = np.maximum.accumulate(np.where(begins, np.arange(len(times)), 0))
    return FollowedFeeds(list(feeds), history, times[run])


@dataclass(frozen=True, slots=True)
class LatestEngagers:
    """The latest 16 users who engaged with each activity, after every engagement."""

    history: History
    users: Numbers
    """int32[e, 16], -1 pads."""

    def before(self, life: Ints, place: Ints) -> Numbers:
        """int32[n, 16]: who had engaged with each activity before each place, -1 pads."""
        found = self.history.last(life, place)
        users = np.full((len(found), ENGAGERS_MAX), -1, np.int32)
        known = found >= 0
        users[known] = self.users[self.history.order[found[known]]]
        return users


def engagers_of(case: Case) -> LatestEngagers:
    """Go through the engagements of a case; about 1 us each, 64 bytes each are kept."""
    events = case.events
    chosen = np.flatnonzero(events.life >= 0)
    chosen = chosen[events.engaged(chosen)]
    users = np.full((len(chosen), ENGAGERS_MAX), -1, np.int32)
    held: dict[int, dict[int, None]] = {}
    lives, engaged = events.life[chosen].tolist(), events.user[chosen].tolist()
    for row, (life, user) in enumerate(zip(lives, engaged, strict=True)):
        latest = held.setdefault(life, {})
        if user in latest:
            del latest[user]
        elif len(latest) >= ENGAGERS_MAX:
            del latest[next(iter(latest))]
        latest[user] = None
        users[row, : len(latest)] = list(latest)
    history = History.of(events.life[chosen].astype(np.int64), events.place[chosen], case.span)
    return LatestEngagers(history, users)
