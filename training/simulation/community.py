"""A community as Mesa agents: members who post, follow, read a feed and react to it.

A day: everyone posts what comes to mind in the 24 hours up to the evening; on the evening, one
after another, members read a feed. What a member draws by chance derives from seed, day and member
alone, so that two platforms which show the same are answered alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import mesa
import numpy as np
import numpy.typing as npt

from feeds.actions import Follow, Post
from feeds.counters import DAY_US
from feeds.events import Engagement, Impression
from feeds.model import ActivityId, UserId
from ranking.candidates import FeedKind
from training.simulation.config import SimulationConfig
from training.simulation.platform import Platform, ServedSlate
from training.simulation.preferences import Activities, Members, Preferences, Reaction

__all__ = ["Community", "Visit"]

SECOND_US: Final = 1_000_000
COPY_LIMIT: Final = 100
"""Activities of a feed that come along when it is followed."""

_FOLLOWS, _POSTS, _ORDER, _VISIT = 2, 3, 4, 5
"""Mark streams of random numbers: of the first follows, a day's posts, its order, and a visit."""

REACTION_US: Final = 10_000
"""Microseconds between what is done with a place and with the next."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A member read a feed and reacted: told before the platform hears of the reactions.

    `numbers` are the slate's activities among all `activities`, int64[places]; `followed`
    bool[users] is whom the member follows, `passed` bool[activities] what the member wrote, engaged
    with or hid before; `rewards` float64[places] is what came of each place by the `reactions`.
    """

    day: int
    member: int
    user: UserId
    kind: FeedKind
    now_us: int
    slate: ServedSlate
    activities: Activities
    numbers: npt.NDArray[np.int64]
    followed: npt.NDArray[np.bool_]
    passed: npt.NDArray[np.bool_]
    reactions: tuple[Reaction, ...]
    rewards: npt.NDArray[np.float64]


Watch = Callable[[Visit], None]


class _Draft(NamedTuple):
    """An activity before it is posted: its topic, quality and time."""

    author: int
    topic: int
    quality: float
    time_us: int


class Member(mesa.Agent):  # type: ignore[misc]  # mesa has no types
    """One of the community; `number` counts from 0."""

    model: "Community"

    def __init__(self, model: "Community", number: int) -> None:
        super().__init__(model)
        self.number = number
        self.user = UserId(f"u{number}")
        self.followed = np.zeros(model.config.users, np.bool_)
        self.engaged: set[int] = set()

    def draft(self) -> list[_Draft]:
        """What the member posts today."""
        community, members = self.model, self.model.truth.members
        rate = members.posts_per_day[self.number]
        if not rate:
            return []
        random = community.random_of(_POSTS, self.number)
        count = int(random.poisson(rate))
        topics = random.choice(len(members.tastes[0]), count, p=members.tastes[self.number])
        quality = random.normal(
            members.quality[self.number], community.config.activity_quality, count
        )
        times = community.evening_us - random.integers(1, DAY_US, count)
        columns = (topics.tolist(), quality.tolist(), times.tolist())
        return [_Draft(self.number, *each) for each in zip(*columns, strict=True)]

    def follow(self, author: int, time_us: int) -> None:
        """Follow an author's feed."""
        self.followed[author] = True
        self.model.platform.follow(
            Follow(
                time_us=time_us,
                follower=f"timeline:{self.user}",
                target=f"user:u{author}",
                copy_limit=COPY_LIMIT,
            )
        )

    def visit(self, now_us: int, random: np.random.Generator) -> None:
        """Read a feed, look at it from the top, and react."""
        community = self.model
        config, truth = community.config, community.truth
        kind: FeedKind = "explore" if random.random() < config.explore_share else "personalized"
        slate = community.platform.read(self.user, kind, now_us, config.places)
        numbers = np.array([community.number_of[each] for each in slate.activities], np.int64)
        chances = truth.chances(self.number, community.activities, numbers, self.followed, now_us)
        reactions = truth.react(chances, random)
        community.watch(
            Visit(
                day=community.day,
                member=self.number,
                user=self.user,
                kind=kind,
                now_us=now_us,
                slate=slate,
                activities=community.activities,
                numbers=numbers,
                followed=self.followed.copy(),
                passed=self._passed(),
                reactions=tuple(reactions),
                rewards=truth.rewards(reactions, len(numbers)),
            )
        )
        shown: dict[str, Any] = {"user": self.user, "feed": kind, "slate_id": slate.slate_id}
        events: list[Impression | Engagement] = [
            Impression(time_us=now_us, activity_id=activity, position=place, **shown)
            for place, activity in enumerate(slate.activities)
        ]
        events += [
            Engagement(
                time_us=now_us + (place + 1) * REACTION_US,
                activity_id=slate.activities[place],
                position=place,
                kind=kind_of_reaction,
                **shown,
            )
            for place, kind_of_reaction in reactions
        ]
        if events:
            community.platform.record(events)
        self.engaged.update(int(numbers[place]) for place, _ in reactions)
        for place, done in reactions:
            author = int(community.activities.author[numbers[place]])
            keen = random.random() < config.follow_after_like
            if done == "like" and keen and author != self.number and not self.followed[author]:
                self.follow(author, now_us + SECOND_US // 2)

    def _passed(self) -> npt.NDArray[np.bool_]:
        """What the member wrote, or reacted to before."""
        passed: npt.NDArray[np.bool_] = self.model.activities.author == self.number
        passed[list(self.engaged)] = True
        return passed


class Community(mesa.Model):  # type: ignore[misc]  # mesa has no types
    """Members on a platform; each `step` is a day. `watch` is told of every visit."""

    def __init__(
        self, config: SimulationConfig, platform: Platform, watch: Watch = lambda _: None
    ) -> None:
        super().__init__(rng=config.seed)
        self.config = config.check()
        self.platform = platform
        self.watch = watch
        self.truth = Preferences(config, Members.draw(config))
        self.activities = Activities.none()
        self.number_of: dict[ActivityId, int] = {}
        self.day = -1
        self.members = [Member(self, number) for number in range(config.users)]

    @property
    def evening_us(self) -> int:
        """When today's visits begin, microseconds since the epoch."""
        return self.config.start_us + self.day * DAY_US

    def random_of(self, stream: int, number: int = 0) -> np.random.Generator:
        """Random numbers of one member on this day, whatever else happened."""
        return np.random.default_rng((self.config.seed, stream, max(self.day, 0), number))

    def step(self) -> None:
        """Live through a day."""
        self.day += 1
        self.platform.begin(self.evening_us)
        if self.day == 0:
            self._follow_first()
        self._post()
        random = self.random_of(_ORDER)
        visiting = random.random(len(self.members)) < self.config.visits_per_day
        for place, number in enumerate(random.permutation(len(self.members)).tolist()):
            if visiting[number]:
                now_us = self.evening_us + (place + 1) * SECOND_US
                self.members[number].visit(now_us, self.random_of(_VISIT, number))

    def _follow_first(self) -> None:
        """The follow graph: one member after another, authors with followers first."""
        random, members = self.random_of(_FOLLOWS), self.truth.members
        followers = np.zeros(len(self.members))
        topics = members.topic
        for number in random.permutation(len(self.members)).tolist():
            for _ in range(int(random.poisson(self.config.follows))):
                known = self.members[number].followed
                open_to = (members.posts_per_day > 0) & ~known
                open_to[number] = False
                near = open_to & (topics == topics[number])
                if random.random() < self.config.within_topic and near.any():
                    open_to = near
                if not open_to.any():
                    break
                weights = np.where(open_to, (followers + 1) ** self.config.attachment, 0.0)
                author = int(random.choice(len(weights), p=weights / weights.sum()))
                self.members[number].follow(author, self.evening_us)
                followers[author] += 1

    def _post(self) -> None:
        """The day's posts in the order of their times."""
        drafts = [draft for member in self.members for draft in member.draft()]
        drafts.sort(key=lambda draft: (draft.time_us, draft.author))
        first = len(self.activities)
        for number, draft in enumerate(drafts, first):
            self.number_of[self.platform.post(_post_of(draft, number))] = number
        columns: Mapping[str, Any] = {
            name: [getattr(draft, name) for draft in drafts] for name in _Draft._fields
        }
        self.activities = self.activities.followed_by(
            Activities(
                np.array(columns["author"], np.int64),
                np.array(columns["topic"], np.int64),
                np.array(columns["quality"], np.float64),
                np.array(columns["time_us"], np.int64),
            )
        )


def _post_of(draft: _Draft, number: int) -> Post:
    author = f"user:u{draft.author}"
    return Post(
        time_us=draft.time_us,
        feed=author,
        actor=author,
        verb="post",
        object=f"note:{number}",
        foreign_id=f"note:{number}",
        to=(f"topic:t{draft.topic}",),
        custom={"tags": [f"t{draft.topic}"]},
    )
