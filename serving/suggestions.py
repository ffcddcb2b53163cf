"""Whom a user could follow: friends of friends, authors of what the user likes, popular authors."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import perf_counter_ns
from types import MappingProxyType
from typing import Final

import numpy as np

from feeds.counters import DAY_US, UserRecord
from feeds.errors import InvalidInput
from feeds.model import FeedId, Follow, TenantId, UserId, user_of_actor
from ranking.buckets import ENGAGEMENT
from ranking.extractors.base import USER_GROUP
from ranking.interning import UNKNOWN
from ranking.related import newest_rows
from ranking.table import ActivityTable
from serving.current_request import note_step
from serving.reader import FeedReader

__all__ = ["WEIGHTS", "Suggester", "Suggestion"]

FRIENDS_MAX: Final = 50
"""Followed users whose follows are looked at: those followed last."""

FRIEND_FOLLOWS_MAX: Final = 200
"""Follows of each that are looked at."""

TAGS_MAX: Final = 10
"""Tags of the user, the strongest, whose authors are looked for."""

LOOKED_MAX: Final = 20_000
"""Activities that are looked at for these tags, the newest."""

TAGGED_MAX: Final = 2_000
"""Activities with these tags, the newest, whose authors are counted."""

POPULAR_MAX: Final = 200
"""Authors with the most engagements that are weighed."""

HALF_LIFE_DAYS: Final = 14
"""Days after which an engagement counts half."""

_HALF: Final = 2.0
"""Friends, or activities, that give half of an algorithm's highest score."""

WEIGHTS: Final[Mapping[str, float]] = MappingProxyType(
    {"friends_of_friends": 1.0, "tag_authors": 0.7, "popular_authors": 0.3}
)
"""The algorithms, and the highest score that each can add."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A feed to follow: its score, the algorithm that added most to it, and why as a phrase."""

    feed: str
    score: float
    algorithm: str
    reason: str
    algorithm_scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Found:
    """What one algorithm says of a feed: from 0 to 1, and why."""

    strength: float
    reason: str


@dataclass(frozen=True, slots=True)
class Suggester:
    """Suggests feeds to follow. To be used on one event loop."""

    reader: FeedReader

    async def suggest(self, tenant: TenantId, user: UserId, limit: int) -> list[Suggestion]:
        """At most `limit` feeds, the best first; a user nobody knows gets popular authors.

        Never oneself, who is followed, whose author is muted, or what was accepted or rejected.
        """
        engine = self.reader.engine
        table = await self.reader.table(tenant)
        home = FeedId(self.reader.settings.home_group, user)
        follows = self.reader.follows.of(tenant, home)
        record = engine.user_record(tenant, user)
        now_us = self.reader.clock_us()
        found = _asked(
            {
                "friends_of_friends": lambda: self._friends_of_friends(tenant, follows),
                "tag_authors": lambda: _tag_authors(record, table, now_us),
                "popular_authors": lambda: _popular_authors(table, now_us),
            }
        )
        unwanted = {*follows, *record.dismissed, f"{USER_GROUP}:{user}"}
        unwanted |= {_feed_of(actor) for actor in record.of_authors.muted}
        return _best(found, unwanted, limit)

    def _friends_of_friends(
        self, tenant: TenantId, follows: Mapping[str, Follow]
    ) -> dict[str, _Found]:
        """The feeds that followed users follow, by how many of them."""
        users = [edge for edge in follows.values() if edge.target.group == USER_GROUP]
        friends = sorted(users, key=lambda edge: (-edge.created_us, edge.target))[:FRIENDS_MAX]
        by: defaultdict[str, list[str]] = defaultdict(list)
        for edge in friends:
            friend = edge.target.id
            home = FeedId(self.reader.settings.home_group, friend)
            for feed in self.reader.engine.followed(tenant, home, FRIEND_FOLLOWS_MAX):
                by[str(feed)].append(friend)
        return {
            feed: _Found(_saturated(len(names)), _followed_by(names)) for feed, names in by.items()
        }


def _asked(
    algorithms: Mapping[str, Callable[[], dict[str, _Found]]],
) -> dict[str, dict[str, _Found]]:
    """What each algorithm finds; the request notes how long it took."""
    began_ns = perf_counter_ns()
    found, stages_us, last_ns = {}, {}, began_ns
    for name, algorithm in algorithms.items():
        found[name] = algorithm()
        ended_ns = perf_counter_ns()
        stages_us[name], last_ns = (ended_ns - last_ns) // 1_000, ended_ns
    note_step("suggest", began_ns, stages_us)
    return found


def _tag_authors(record: UserRecord, table: ActivityTable, now_us: int) -> dict[str, _Found]:
    """Who wrote the newest activities with the tags that the user engages with."""
    weights = {
        tag: met.engagements * 0.5 ** ((now_us - met.last_us) / (HALF_LIFE_DAYS * DAY_US))
        for tag, met in record.tags.items()
        if met.engagements
    }
    wanted = sorted(weights, key=lambda tag: (-weights[tag], tag))[:TAGS_MAX]
    names = table.names.tags
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    marked = np.zeros(names.size + 1, dtype=np.bool_)
    marked[names.numbers(wanted)] = True
    marked[UNKNOWN] = False
    rows = newest_rows(table, LOOKED_MAX)
    rows = rows[marked[table.tags[rows]].any(axis=1)]
    rows = rows[np.lexsort((table.tail[rows], -table.time_us[rows]))][:TAGGED_MAX]
    authors = table.names.users.names
    for author, tags in zip(
        table.author_user[rows].tolist(), table.tags[rows].tolist(), strict=True
    ):
        for tag in tags:
            if tag != UNKNOWN and marked[tag]:
                found[f"{USER_GROUP}:{authors[author]}"][names.names[tag]] += 1
    return {
        feed: _Found(_saturated(counts.total()), f"posts about {_most(counts)}")
        for feed, counts in found.items()
    }


def _popular_authors(table: ActivityTable, now_us: int) -> dict[str, _Found]:
    """The authors with the most engagements, decayed, by their share of the first one's."""
    names, counts = table.names.authors, table.author_counts
    known = np.array([number for number, name in enumerate(names.names) if name], dtype=np.int32)
    if not len(known):
        return {}
    totals = counts.totals[known, ENGAGEMENT]
    first = known[np.argsort(-totals, kind="stable")[:POPULAR_MAX]]
    weights = counts.day.decays(now_us, [HALF_LIFE_DAYS * DAY_US])
    weighed = counts.day.weigh(first, ENGAGEMENT, weights)[:, 0]
    most = float(weighed.max(initial=0))
    return {
        _feed_of(names.names[number]): _Found(weight / most, "popular now")
        for number, weight in zip(first.tolist(), weighed.tolist(), strict=True)
        if weight > 0
    }


def _best(
    found: Mapping[str, Mapping[str, _Found]], unwanted: set[str], limit: int
) -> list[Suggestion]:
    feeds = {feed for each in found.values() for feed in each} - unwanted
    suggestions = [_suggestion(feed, found) for feed in feeds if _is_feed(feed)]
    return sorted(suggestions, key=lambda one: (-one.score, one.feed))[:limit]


def _suggestion(feed: str, found: Mapping[str, Mapping[str, _Found]]) -> Suggestion:
    scores = {
        algorithm: WEIGHTS[algorithm] * each[feed].strength
        for algorithm, each in found.items()
        if feed in each
    }
    first = max(scores, key=lambda algorithm: scores[algorithm])
    return Suggestion(feed, sum(scores.values()), first, found[first][feed].reason, scores)


def _saturated(count: int) -> float:
    """From 0 to 1: each further one adds less."""
    return count / (count + _HALF)


def _followed_by(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    if not others:
        return f"followed by {first}, whom you follow"
    more = "1 other" if len(others) == 1 else f"{len(others)} others"
    return f"followed by {first} and {more} whom you follow"


def _most(counts: Counter[str]) -> str:
    """The name that was counted most; of several the first by name."""
    return min(counts, key=lambda name: (-counts[name], name))


def _feed_of(actor: str) -> str:
    """The feed of an author, as activities name their actor."""
    return f"{USER_GROUP}:{user_of_actor(actor)}"


def _is_feed(text: str) -> bool:
    """Whether that is a feed's name: actors can be anything."""
    try:
        FeedId.parse(text)
    except InvalidInput:
        return False
    return True
