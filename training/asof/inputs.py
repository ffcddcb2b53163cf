"""Inputs of features as of many moments: the same formulas, over columns of a sorted log."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from feeds.model import UserId, position_of
from ranking.buckets import ENGAGEMENT, IMPRESSION
from ranking.extractors.base import (
    NEVER,
    Column,
    Counted,
    Factors,
    FeatureParameters,
    Inputs,
    Met,
    stacked,
)
from training.asof.case import Case
from training.asof.follows import FollowedFeeds, LatestEngagers, engagers_of, follows_of
from training.asof.sides import DAY_SUMS, Columns
from training.events.columns import EventColumns

__all__ = ["AsOfInputs", "Social"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Social:
    """Follows and engagers of a case, and its names as numbers of what is followed."""

    follows: FollowedFeeds
    engagers: LatestEngagers
    of_feeds: npt.NDArray[np.int32]
    """int32: of each feed that activities are in."""
    of_users: npt.NDArray[np.int32]
    """int32: of the own feed of each user of the log."""

    @classmethod
    def of(cls, events: EventColumns, case: Case) -> "Social":
        """Read the follows of a log, and go through the engagements of a case of it."""
        follows = follows_of(events)
        return cls(
            follows,
            engagers_of(case),
            follows.numbers(case.lives.feeds),
            follows.homes(events.users),
        )


class QuestionNames(Protocol):
    """What the numbers of questions stand for; `training.events.columns.EventColumns` is one."""

    @property
    def users(self) -> Sequence[str]:
        """Every user."""
        ...

    @property
    def activities(self) -> Sequence[str]:
        """Every activity."""
        ...


class AsOfInputs(Inputs):
    """Some questions of a case whose activities are in the table, and what all sides say of them.

    `rows` are those questions; `sides` has their columns, in the same order.
    """

    def __init__(
        self,
        names: "QuestionNames",
        case: Case,
        rows: Ints,
        sides: Columns,
        social: Social,
        parameters: FeatureParameters,
        factors: Factors | None = None,
        shown_at: npt.NDArray[np.integer] | None = None,
    ) -> None:
        super().__init__(parameters)
        self._names = names
        self._case = case
        self._rows = rows
        self._sides = sides
        self._social = social
        self._factors = factors
        self._shown_at = shown_at
        self._life = case.life[rows]
        self._place = case.questions.place[rows]
        self._user = case.questions.user[rows].astype(np.int64)

    def __len__(self) -> int:
        """How many questions there are."""
        return len(self._rows)

    @cached_property
    def now_us(self) -> Ints:
        """When each question is asked, int64[n]."""
        return self._case.questions.now_us[self._rows]

    @property
    def shown_at(self) -> npt.NDArray[np.integer] | None:
        """The 0-based place where each was shown."""
        return self._shown_at

    @property
    def posted_us(self) -> Ints:
        """When each activity was posted, int64[n]."""
        return self._case.lives.posted_us[self._life]

    @property
    def length_bytes(self) -> npt.NDArray[np.int32]:
        """Length of each encoded activity, int32[n]."""
        return self._case.lives.length[self._life]

    @cached_property
    def tag_counts(self) -> Ints:
        """How many tags each has, int64[n]."""
        counts: Ints = (self._case.lives.tags[self._life] >= 0).sum(axis=1)
        return counts

    @cached_property
    def feed_counts(self) -> Ints:
        """How many feeds each was posted to, int64[n]."""
        counts: Ints = (self._feeds >= 0).sum(axis=1)
        return counts

    def total(self, of: Counted, channel: int) -> npt.NDArray[np.integer]:
        """Events of a channel so far."""
        if of == "activity":
            return self._sides["totals"][:, channel]
        column = [IMPRESSION, ENGAGEMENT].index(channel)
        if of == "author":
            return self._sides["author_totals"][:, column]
        return self._sides["tag_totals"][:, :, column].T.astype(np.int64)

    def decayed_7d(self, of: Counted, channel: int) -> Floats:
        """Events of a channel in the last 30 days, half-life 7 days."""
        if of == "activity":
            return self._sides["days"][:, DAY_SUMS[channel]]
        assert channel == ENGAGEMENT, "of names, only engagements are weighed"
        return self._sides["author_days"] if of == "author" else self._sides["tag_days"].T

    def engagements_by_day(self) -> Floats:
        """Columns: half-lives of a day and of 7 days."""
        return self._sides["days"][:, :2]

    def engagements_by_hour(self) -> Floats:
        """Columns: half-life of an hour; the plain count of 24 hours."""
        return self._sides["hours"]

    @property
    def engaged_us(self) -> Ints:
        """The time of the last engagement with each, int64[n]; 0 without any."""
        return self._sides["engaged_us"]

    @property
    def user_engagements(self) -> Ints:
        """Engagements of each user so far, int64[n]."""
        return self._sides["user_engagements"]

    @cached_property
    def met_authors(self) -> Met:
        """How the user met each author, [n]."""
        return Met(*self._sides["met_author"].T)

    @cached_property
    def met_tags(self) -> Met:
        """How the user met each one's tags, in layers."""
        return Met(*self._sides["met_tags"].transpose(2, 1, 0))

    @property
    def shown(self) -> Ints:
        """How often the user was shown each, int64[n]."""
        return self._sides["shown"]

    @cached_property
    def author_since_us(self) -> Ints:
        """Since when the user follows each author."""
        social = self._social
        feed = social.of_feeds[self._case.lives.author_feed[self._life]]
        return social.follows.since_us(self._user, feed.astype(np.int64), self._place)

    @cached_property
    def feeds_since_us(self) -> Ints:
        """Since when the user follows each one's feeds, in layers."""
        return self._followed(self._social.of_feeds[stacked(self._feeds)])

    @cached_property
    def followed_engagers(self) -> Ints:
        """How many of each one's latest engagers the user follows, int64[n]."""
        social = self._social
        engagers = social.engagers.before(self._life, self._place)
        followed = self._followed(social.of_users[stacked(engagers)])
        counts: Ints = (followed < NEVER).sum(axis=0)
        return counts

    def dot_and_bias(self) -> tuple[Column, Column]:
        """What the factors give, asked user by user."""
        dots, biases = self.constant(np.nan), self.constant(np.nan)
        if self._factors is None:
            return dots, biases
        activity, lives = self._case.questions.activity[self._rows], self._case.lives
        order = np.argsort(self._user, kind="stable")
        cuts = np.flatnonzero(np.diff(self._user[order])) + 1
        for mine in np.split(order, cuts) if len(order) else ():
            positions = [position_of(self._names.activities[each]) for each in activity[mine]]
            dots[mine], biases[mine] = self._factors.dot(
                UserId(self._names.users[int(self._user[mine[0]])]),
                positions,
                lives.tags[self._life[mine]],
                lives.tag_names,
            )
        return dots, biases

    def brought(self, name: str) -> Column:
        """No log says what a caller brought: missing."""
        del name
        return self.constant(np.nan)

    @cached_property
    def _feeds(self) -> npt.NDArray[np.int32]:
        return self._case.lives.version_feeds[self._case.version[self._rows]]

    def _followed(self, layers: npt.NDArray[np.int32]) -> Ints:
        """Since when each user follows the feeds above it, int64[layers, n]."""
        since_us = np.full(layers.shape, NEVER)
        layer, row = np.nonzero(layers >= 0)
        since_us[layer, row] = self._social.follows.since_us(
            self._user[row], layers[layer, row].astype(np.int64), self._place[row]
        )
        return since_us
