"""Inputs of features as they are served: one query, rows of the activity table, a user's record."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import Final

import numpy as np
import numpy.typing as npt

from feeds.counters import DAY_US, HOUR_US, Affinity
from ranking.buckets import ENGAGEMENT, BucketCounts, Ring
from ranking.candidates import Candidates, Query
from ranking.extractors.base import (
    NEVER,
    USER_GROUP,
    Column,
    Counted,
    Factors,
    FeatureParameters,
    Inputs,
    Met,
    held,
    stacked,
)
from ranking.interning import UNKNOWN, Interner
from ranking.table import ActivityTable

__all__ = ["ServedInputs"]

_WEEK_US: Final = 7 * DAY_US

Floats = npt.NDArray[np.float64]


class ServedInputs(Inputs):
    """One query and its candidates, and what several features share, computed once."""

    def __init__(
        self,
        query: Query,
        candidates: Candidates,
        table: ActivityTable,
        parameters: FeatureParameters,
        factors: Factors | None = None,
        *,
        shown_at: npt.NDArray[np.integer] | None = None,
    ) -> None:
        super().__init__(parameters)
        self._query = query
        self._table = table
        self._factors = factors
        self._shown_at = shown_at
        self._rows = candidates.rows.astype(np.intp)  # what numpy indexes with, converted once
        self._weights: dict[int, Floats] = {}

    def __len__(self) -> int:
        """How many candidates there are."""
        return len(self._rows)

    @property
    def now_us(self) -> int:
        """When the query is."""
        return self._query.now_us

    @property
    def shown_at(self) -> npt.NDArray[np.integer] | None:
        """The places, in training."""
        return self._shown_at

    @cached_property
    def posted_us(self) -> npt.NDArray[np.int64]:
        """When each candidate was posted, int64[n]."""
        return self._table.time_us[self._rows]

    @property
    def length_bytes(self) -> npt.NDArray[np.int32]:
        """Length of each encoded activity, int32[n]."""
        return self._table.length[self._rows]

    @cached_property
    def tag_counts(self) -> npt.NDArray[np.int64]:
        """How many tags each candidate has, int64[n]."""
        return held(self._tags)

    @property
    def feed_counts(self) -> npt.NDArray[np.int64]:
        """How many feeds each candidate was posted to, int64[n]."""
        return held(self._feeds)

    def total(self, of: Counted, channel: int) -> npt.NDArray[np.integer]:
        """A gather; of tags, each tag that any candidate has is looked at once."""
        totals: npt.NDArray[np.int32]
        if of == "activity":
            totals = self._table.counts.totals[:, channel][self._rows]
            return totals
        if of == "author":
            totals = self._table.author_counts.totals[:, channel][self._authors]
            return totals
        by_tag = np.zeros(self._table.names.tags.size + 1, dtype=np.int64)
        by_tag[self._tags_in_use] = self._table.tag_counts.totals[:, channel][self._tags_in_use]
        return by_tag[self._tags]

    def decayed_7d(self, of: Counted, channel: int) -> Floats:
        """A gather and a product; of tags, each tag that any candidate has is weighed once."""
        if of == "activity":
            return self._by_day[channel][:, 1]
        if of == "author":
            return self._over_7d(self._table.author_counts, self._authors, channel)
        used = self._tags_in_use
        by_tag = np.zeros(self._table.names.tags.size + 1)
        by_tag[used] = self._over_7d(self._table.tag_counts, used, channel)
        return by_tag[self._tags]

    def engagements_by_day(self) -> Floats:
        """Columns: half-lives of a day and of 7 days."""
        return self._by_day[ENGAGEMENT]

    def engagements_by_hour(self) -> Floats:
        """Columns: half-life of an hour; the plain count of 24 hours."""
        ring = self._table.counts.hour
        decays, window = ring.decays(self.now_us, (HOUR_US,)), ring.window(self.now_us, 24)
        weights = np.concatenate((decays, window), axis=1)
        return ring.weigh(self._rows, ENGAGEMENT, weights)

    @property
    def engaged_us(self) -> npt.NDArray[np.int64]:
        """The time of the last engagement with each candidate, int64[n]; 0 without any."""
        last_us: npt.NDArray[np.int64] = self._table.counts.last_us[:, ENGAGEMENT][self._rows]
        return last_us

    @property
    def user_engagements(self) -> int:
        """Engagements of the user so far."""
        return self._query.record.engagements

    @cached_property
    def met_authors(self) -> Met:
        """How the user met each candidate's author, [n]."""
        return _met(self._table.names.authors, self._query.record.authors, self._authors)

    @cached_property
    def met_tags(self) -> Met:
        """How the user met each candidate's tags, in layers."""
        return _met(self._table.names.tags, self._query.record.tags, self._tags)

    @property
    def shown(self) -> npt.NDArray[np.int64]:
        """How often the user was shown each candidate, int64[n]."""
        shown = self._query.record.shown
        rows = self._table.rows(shown).astype(np.intp)
        return _spread(len(self._table.alive), rows, list(shown.values()))[self._rows]

    @cached_property
    def author_since_us(self) -> npt.NDArray[np.int64]:
        """Since when the user follows each candidate's author, int64[n]; or `NEVER`."""
        return self._followed_users[self._table.author_user[self._rows]]

    @cached_property
    def feeds_since_us(self) -> npt.NDArray[np.int64]:
        """Since when the user follows each candidate's feeds, in layers; or `NEVER`."""
        feeds, follows = self._table.names.feeds, self._query.follows
        since_us = np.full(feeds.size + 1, NEVER, dtype=np.int64)
        since_us[feeds.numbers(follows)] = [follow.created_us for follow in follows.values()]
        since_us[-1] = NEVER
        return since_us[self._feeds]

    @property
    def followed_engagers(self) -> npt.NDArray[np.int64]:
        """How many of each candidate's latest engagers the user follows, int64[n]."""
        followed = self._followed_users < NEVER
        engagers = stacked(self._table.engagers.take(self._rows, axis=0))
        return np.asarray(followed[engagers].sum(axis=0))

    def dot_and_bias(self) -> tuple[Column, Column]:
        """What `Factors.dot` gives, float32[n] each; NaN without factors."""
        if self._factors is None:
            return self.constant(np.nan), self.constant(np.nan)
        table = self._table
        positions, tags = table.positions(self._rows), table.tags[self._rows]
        return self._factors.dot(self._query.user, positions, tags, table.names.tags.names)

    def brought(self, name: str) -> Column:
        """The caller's numbers of a name, NaN where it brought none."""
        numbers = self._query.caller.get(name)
        if not numbers:
            return self.constant(np.nan)
        positions = self._table.positions(self._rows)
        return np.array([numbers.get(position, np.nan) for position in positions], np.float64)

    @cached_property
    def _authors(self) -> npt.NDArray[np.intp]:
        """The author of each candidate, intp[n]."""
        return self._table.author[self._rows].astype(np.intp)

    @cached_property
    def _tags(self) -> npt.NDArray[np.intp]:
        """The tags of the candidates, intp[most tags, n], -1 pads: see `stacked`."""
        return stacked(self._table.tags.take(self._rows, axis=0))

    @cached_property
    def _feeds(self) -> npt.NDArray[np.intp]:
        """The feeds of the candidates, intp[most feeds, n], -1 pads."""
        return stacked(self._table.feeds.take(self._rows, axis=0))

    @cached_property
    def _by_day(self) -> Mapping[int, Floats]:
        """By channel, what each candidate counts; half-lives of a day and of 7 days."""
        ring = self._table.counts.day
        return ring.weigh_all(self._rows, self._day_weights(ring))

    @cached_property
    def _tags_in_use(self) -> npt.NDArray[np.intp]:
        """The tags that any candidate has."""
        used = np.zeros(self._table.names.tags.size + 1, dtype=np.bool_)
        used[self._tags] = True
        return used[:-1].nonzero()[0]

    @cached_property
    def _followed_users(self) -> npt.NDArray[np.int64]:
        """When the user followed each user, int64[users + 1]."""
        users = self._table.names.users
        since_us = np.full(users.size + 1, NEVER, dtype=np.int64)
        for follow in self._query.follows.values():
            if follow.target.group == USER_GROUP:
                since_us[users.get(follow.target.id)] = follow.created_us
        since_us[-1] = NEVER
        return since_us

    def _over_7d(self, counts: BucketCounts, rows: npt.NDArray[np.integer], channel: int) -> Floats:
        decayed: Floats = counts.day.weigh(rows, channel, self._day_weights(counts.day))[:, 1]
        return decayed

    def _day_weights(self, ring: Ring) -> Floats:
        """Columns: half-lives of a day and of 7 days. The day rings mostly share one clock."""
        if ring.newest not in self._weights:
            self._weights[ring.newest] = ring.decays(self.now_us, (DAY_US, _WEEK_US))
        return self._weights[ring.newest]


def _met(names: Interner, affinities: Mapping[str, Affinity], wanted: npt.NDArray[np.intp]) -> Met:
    numbered = np.arange(1, len(affinities) + 1)
    places = _spread(names.size, names.numbers(affinities), numbered)[wanted]
    return Met(
        *(
            _behind_zero(map(field, affinities.values()), len(affinities))[places]
            for field in _AFFINITY_FIELDS
        )
    )


_AFFINITY_FIELDS: Final = tuple(map(attrgetter, ("engagements", "impressions", "last_us")))
"""The fields of an `Affinity` in the order of `Met`'s."""


def _behind_zero(values: Iterator[int], count: int) -> npt.NDArray[np.int64]:
    """A zero for whom was never met, then the values, int64[count + 1]."""
    return np.fromiter(chain((0,), values), np.int64, count + 1)


def _spread(
    size: int, numbers: npt.NDArray[np.intp], values: Sequence[int] | npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """`values` at their numbers, 0 elsewhere and for `UNKNOWN`, int64[size + 1]."""
    spread = np.zeros(size + 1, dtype=np.int64)
    spread[numbers] = values
    spread[UNKNOWN] = 0
    return spread
