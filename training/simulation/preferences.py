"""What the members of a community truly like, and how they look at a feed. Pure; numpy alone.

Nobody but the simulation knows these numbers: a platform sees what members do. So the true worth
of any slate can be told, and the best slate there is.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from feeds.counters import HOUR_US
from feeds.events import EngagementKind
from training.simulation.config import SimulationConfig

__all__ = ["Activities", "Chances", "Members", "Preferences", "Reaction", "examination"]

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

_MEMBERS: Final = 1
"""Marks the stream of random numbers that the members are made from."""


@dataclass(frozen=True, slots=True)
class Members:
    """The members by number. `tastes` is float64[users, topics], adding up to 1 over the topics.

    `quality` is float64[users], of what one posts, and `posts_per_day` float64[users], 0 of who
    does not post.
    """

    tastes: Floats
    quality: Floats
    posts_per_day: Floats

    @property
    def topic(self) -> Numbers:
        """The first topic of each member, int64[users]."""
        topics: Numbers = self.tastes.argmax(axis=1)
        return topics

    @property
    def authors(self) -> Numbers:
        """The numbers of those who post."""
        return np.flatnonzero(self.posts_per_day > 0)

    @classmethod
    def draw(cls, config: SimulationConfig) -> "Members":
        """Who a community consists of; at least one of them posts."""
        random = np.random.default_rng((config.seed, _MEMBERS))
        alpha = np.full(config.topics, config.taste_concentration)
        tastes = random.dirichlet(alpha, config.users)
        author = random.random(config.users) < config.author_share
        author[int(random.integers(config.users))] = True
        factor = random.lognormal(-0.5, 1.0, config.users)  # its mean is 1
        return cls(
            tastes=tastes,
            quality=random.normal(0, config.author_quality, config.users),
            posts_per_day=np.where(author, config.posts_per_day * factor, 0.0),
        )


@dataclass(frozen=True, slots=True)
class Activities:
    """The activities by number, in the order in which they were posted; int64 and float64[n]."""

    author: Numbers
    topic: Numbers
    quality: Floats
    time_us: Numbers

    def __len__(self) -> int:
        """How many there are."""
        return len(self.author)

    @classmethod
    def none(cls) -> "Activities":
        """Before anybody posted."""
        empty = np.zeros(0, np.int64)
        return cls(empty, empty, np.zeros(0), empty)

    def followed_by(self, others: "Activities") -> "Activities":
        """These, then the others."""
        return Activities(
            np.concatenate([self.author, others.author]),
            np.concatenate([self.topic, others.topic]),
            np.concatenate([self.quality, others.quality]),
            np.concatenate([self.time_us, others.time_us]),
        )


class Chances(NamedTuple):
    """Of activities that are looked at: probabilities, float64[n] each.

    `like` is that of a like after a click, `hide` that of hiding what was not clicked.
    """

    click: Floats
    like: Floats
    hide: Floats


class Reaction(NamedTuple):
    """Something that a member did with the activity in a place."""

    place: int
    kind: EngagementKind


@dataclass(frozen=True, slots=True)
class Preferences:
    """The truth: members, how activities please them, and what that is worth."""

    config: SimulationConfig
    members: Members

    def chances(
        self,
        member: int,
        activities: Activities,
        numbers: Numbers,
        followed: npt.NDArray[np.bool_],
        now_us: int,
    ) -> Chances:
        """What a member would do with activities by number; `followed` is bool[users]."""
        config = self.config
        author, topic = activities.author[numbers], activities.topic[numbers]
        hours = np.maximum(now_us - activities.time_us[numbers], 0) / HOUR_US
        utility = (
            config.bias
            + config.taste * self.members.tastes[member, topic]
            + activities.quality[numbers]
            + config.recency * np.exp2(-hours / config.recency_half_life_h)
            + config.followed * followed[author]
        )
        click = _logistic(utility)
        return Chances(
            click=click,
            like=_logistic(utility + config.like_bias),
            hide=config.hide_rate * (1 - click),
        )

    def worth(self, chances: Chances) -> Floats:
        """The expected worth of each activity once it is looked at, float64[n]."""
        click, like, hide = (self.config.values.get(kind, 0.0) for kind in _KINDS)
        return chances.click * (click + chances.like * like) + (
            (1 - chances.click) * chances.hide * hide
        )

    def react(self, chances: Chances, random: np.random.Generator) -> list[Reaction]:
        """What the member does with a slate, place by place; `chances` are in its order."""
        draws = random.random((len(chances.click), 4))
        looked_at = draws[:, 0] < examination(self.config, len(draws))
        clicked = looked_at & (draws[:, 1] < chances.click)
        liked = clicked & (draws[:, 2] < chances.like)
        hidden = looked_at & ~clicked & (draws[:, 3] < chances.hide)
        done = np.stack([clicked, liked, hidden], axis=1)
        return [Reaction(place, _KINDS[kind]) for place, kind in np.argwhere(done).tolist()]

    def rewards(self, reactions: list[Reaction], places: int) -> Floats:
        """What came of each place, float64[places]."""
        rewards = np.zeros(places)
        for reaction in reactions:
            rewards[reaction.place] += self.config.values.get(reaction.kind, 0.0)
        return rewards


_KINDS: Final[tuple[EngagementKind, EngagementKind, EngagementKind]] = ("click", "like", "hide")


def examination(config: SimulationConfig, places: int) -> Floats:
    """The probability that each place is looked at, float64[places], falling from 1."""
    return (1.0 / np.arange(1, places + 1)) ** config.examination_power


def _logistic(values: Floats) -> Floats:
    return 1 / (1 + np.exp(-values))
