"""The sides of a feature as of many moments: the activity's, its author's, its tags', the user's.

Each side is a function of a `Case` that gives columns by name, a row a question. Sides know nothing
of each other, so that they can be computed in different processes.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feeds.counters import DAY_US, HOUR_US, RESOLUTIONS
from ranking.buckets import CHANNELS, ENGAGEMENT, IMPRESSION
from training.asof.case import Case
from training.asof.records import (
    AUTHORS_MAX,
    TAGS_MAX,
    Meetings,
    Needles,
    Shown,
    met,
    shown_before,
)
from training.asof.rings import Counted, Moments, RingSpec, RingWalk, Sums, Weighing
from training.asof.search import History, running_count, running_maximum

__all__ = [
    "DAY_SUMS",
    "Columns",
    "Make",
    "activity_side",
    "author_side",
    "in_memory",
    "tag_side",
    "user_side",
]

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

Columns = dict[str, npt.NDArray[Any]]
"""Columns of a side by name, a row a question each; Any: counts, times or decayed counts."""

Make = Callable[[str, tuple[int, ...], type[np.generic]], npt.NDArray[Any]]
"""Makes a column of zeros, given its name, shape and type; Any: that type."""

_WEEK_US: Final = 7 * DAY_US
_EVENTS: Final = 32_768
"""Events of one step through the log."""
_ROWS: Final = 32_768
"""Questions that are answered at a time."""

_OTHER: Final = tuple(CHANNELS.index(name) for name in ("like", "comment", "bookmark"))
_DAYS: Final = RingSpec(
    *RESOLUTIONS[1],
    (
        Weighing(ENGAGEMENT, (DAY_US, _WEEK_US)),
        *(Weighing(channel, (_WEEK_US,)) for channel in (IMPRESSION, *_OTHER)),
    ),
)
DAY_SUMS: Final = {channel: 2 + place for place, channel in enumerate((IMPRESSION, *_OTHER))} | {
    ENGAGEMENT: 1
}
"""The place in `days` of each channel's sum with a half-life of 7 days."""

_HOURS: Final = RingSpec(*RESOLUTIONS[0], (Weighing(0, (HOUR_US, 0)),))
_NAME_DAYS: Final = RingSpec(*RESOLUTIONS[1], (Weighing(1, (_WEEK_US,)),))
_NAME_CHANNELS: Final = [IMPRESSION, ENGAGEMENT]


def in_memory(name: str, shape: tuple[int, ...], kind: type[np.generic]) -> npt.NDArray[Any]:
    """Makes columns in memory; Any: the type that was asked for."""
    del name
    return np.zeros(shape, kind)


def activity_side(case: Case, make: Make = in_memory) -> Columns:
    """`totals` int32[n, channels], `days` float64[n, 6], `hours` float64[n, 2], `engaged_us`."""
    events, ends, count = case.events, case.lives.ends, len(case.questions)
    inside = np.flatnonzero(events.life >= 0)
    engaged = inside[events.engaged(inside)]
    totals = make("totals", (count, len(CHANNELS)), np.int32)
    days = make("days", (count, _DAYS.sums), np.float64)
    hours = make("hours", (count, _HOURS.sums), np.float64)
    engaged_us = make("engaged_us", (count,), np.int64)

    def counted(channels: list[int]) -> Callable[[Ints], Counted]:
        return lambda some: _counted(case, some, events.life[some], channels)

    def moments(some: slice) -> Moments:
        return _moments(case, some, case.life[some])

    everything = RingWalk(_DAYS, len(CHANNELS), ends)
    whole = counted(list(range(len(CHANNELS))))
    for part, sums in _walked(case, everything, inside, whole, moments):
        totals[part], days[part] = sums.totals, sums.weighed
    lately = RingWalk(_HOURS, 1, ends)
    # Impressions too: they move the clock of the hours, which is one for all.
    for part, sums in _walked(case, lately, inside, counted([ENGAGEMENT]), moments):
        hours[part] = sums.weighed
    engaged_us[:] = _engaged_us(case, engaged)
    return {"totals": totals, "days": days, "hours": hours, "engaged_us": engaged_us}


def author_side(case: Case, make: Make = in_memory) -> Columns:
    """`author_totals` int32[n, 2] (impressions, engagements) and `author_days` float64[n]."""
    events, lives, count = case.events, case.lives, len(case.questions)
    totals = make("author_totals", (count, 2), np.int32)
    days = make("author_days", (count,), np.float64)
    of_rows = lives.author_life[case.life].astype(np.int64)

    def counted(some: Ints) -> Counted:
        return _counted(case, some, events.author_life[some], _NAME_CHANNELS)

    def moments(some: slice) -> Moments:
        return _moments(case, some, of_rows[some])

    walk = RingWalk(_NAME_DAYS, 2, lives.author_ends)
    for part, sums in _walked(
        case, walk, np.flatnonzero(events.author_life >= 0), counted, moments
    ):
        totals[part], days[part] = sums.totals, sums.weighed[:, 0]
    return {"author_totals": totals, "author_days": days}


def tag_side(case: Case, make: Make = in_memory) -> Columns:
    """`tag_totals` int32[n, tags, 2] and `tag_days` float64[n, tags]; `tags` is the most of any."""
    lives, count = case.lives, len(case.questions)
    most = lives.tag_lives.shape[1]
    totals = make("tag_totals", (count, most, 2), np.int32)
    days = make("tag_days", (count, most), np.float64)

    def counted(some: Ints) -> Counted:
        of_events = _tag_lives(case, some)
        event, layer = np.nonzero(of_events >= 0)
        return _counted(case, some[event], of_events[event, layer], _NAME_CHANNELS)

    def of_rows(some: slice) -> npt.NDArray[np.int32]:
        return lives.tag_lives[case.life[some]]

    def moments(some: slice) -> Moments:
        of_some = of_rows(some)
        row, layer = np.nonzero(of_some >= 0)
        asked = case.questions
        return Moments(
            of_some[row, layer].astype(np.int64),
            asked.place[some][row],
            asked.now_us[some][row],
        )

    walk = RingWalk(_NAME_DAYS, 2, lives.tag_ends)
    for part, sums in _walked(case, walk, np.arange(len(case.events.place)), counted, moments):
        row, layer = np.nonzero(of_rows(part) >= 0)
        totals[part.start + row, layer] = sums.totals
        days[part.start + row, layer] = sums.weighed[:, 0]
    return {"tag_totals": totals, "tag_days": days}


def user_side(case: Case, part: int = 0, parts: int = 1) -> tuple[Ints, Columns]:
    """What the records of some users say: those whose number modulo `parts` is `part`.

    Gives the rows of their questions, and for those: `user_engagements` int64[r], `met_author`
    int64[r, 3], `met_tags` int64[r, tags, 3] (engagements, impressions, the last engagement's
    time), and `shown` int64[r].
    """
    events, lives, asked = case.events, case.lives, case.questions
    rows = np.flatnonzero(asked.user % parts == part)
    mine = np.flatnonzero(events.user % parts == part)
    mine = mine[events.engaged(mine) | (events.code[mine] == IMPRESSION)]
    user, place = events.user[mine].astype(np.int64), events.place[mine]
    post, engaged = events.post[mine], events.engaged(mine)
    asks = Needles(
        asked.user[rows].astype(np.int64), asked.activity[rows].astype(np.int64), asked.place[rows]
    )

    def meetings(event: Ints, names: Ints) -> Meetings:
        return Meetings(
            user[event], names, place[event], events.time_us[mine][event], engaged[event]
        )

    def needles(row: Ints, names: Ints) -> Needles:
        return Needles(asks.user[row], names, asks.place[row])

    life = case.life[rows]
    authors = lives.author[life].astype(np.int64)
    everything = np.arange(len(mine))
    met_author = met(
        meetings(everything, lives.post_author[post].astype(np.int64)),
        needles(np.arange(len(rows)), authors),
        len(lives.authors) + 1,
        AUTHORS_MAX,
        case.span,
    )
    tags = lives.tags[life].astype(np.int64)
    met_tags = np.zeros((*tags.shape, 3), np.int64)
    of_events = lives.post_tags[post].astype(np.int64)
    event, layer = np.nonzero(of_events >= 0)
    row, place_of_tag = np.nonzero(tags >= 0)
    met_tags[row, place_of_tag] = met(
        meetings(event, of_events[event, layer]),
        needles(row, tags[row, place_of_tag]),
        len(lives.tag_names) + 1,
        TAGS_MAX,
        case.span,
    )
    impressed = np.flatnonzero(~engaged)
    shown = Shown(
        user[impressed], events.activity[mine][impressed].astype(np.int64), place[impressed]
    )
    activities = int(max(asked.activity.max(initial=0), events.activity.max(initial=0))) + 1
    return rows, {
        "user_engagements": _count_before(user[engaged], place[engaged], asks, case.span),
        "met_author": met_author,
        "met_tags": met_tags,
        "shown": shown_before(shown, asks, activities, case.span),
    }


def _walked(
    case: Case,
    walk: RingWalk,
    chosen: Ints,
    counted: Callable[[Ints], Counted],
    moments: Callable[[slice], Moments],
) -> Iterator[tuple[slice, Sums]]:
    """Walk some events, and answer the questions that lie on the way, in order."""
    place, asked = case.events.place[chosen], case.questions.place
    first = 0
    for start in range(0, max(len(chosen), 1), _EVENTS):
        stop = start + _EVENTS
        walk.begin(counted(chosen[start:stop]))
        if stop < len(chosen):
            last = int(np.searchsorted(asked, place[stop], side="right"))
        else:
            last = len(asked)
        for begin in range(first, last, _ROWS):
            part = slice(begin, min(begin + _ROWS, last))
            yield part, walk.sums(moments(part))
        walk.end()
        first = last


def _counted(case: Case, some: Ints, life: npt.NDArray[np.int32], channels: list[int]) -> Counted:
    events = case.events
    code, engaged = events.code[some], events.engaged(some)
    adds = np.empty((len(some), len(channels)), np.bool_)
    for column, channel in enumerate(channels):
        adds[:, column] = engaged if channel == ENGAGEMENT else code == channel
    return Counted(life, events.place[some], events.time_us[some], adds)


def _moments(case: Case, some: slice, life: Ints) -> Moments:
    return Moments(life, case.questions.place[some], case.questions.now_us[some])


def _tag_lives(case: Case, some: Ints) -> npt.NDArray[np.int32]:
    """int32[events, tags]: the lives of the tags that each event counts for, -1 pads."""
    events, lives = case.events, case.lives
    life, place = events.life[some], events.place[some]
    of_events = lives.tag_lives[life]
    outside = np.flatnonzero(life < 0)
    names = lives.post_tags[events.post[some[outside]]].astype(np.int64)
    if names.shape[1] > of_events.shape[1]:  # none of the activities in the table had as many
        wider = np.full((len(some), names.shape[1]), -1, np.int32)
        wider[:, : of_events.shape[1]] = of_events
        of_events = wider
    for layer in range(names.shape[1]):
        of_events[outside, layer] = lives.tag_life_of(names[:, layer], place[outside])
    return of_events


def _engaged_us(case: Case, engaged: Ints) -> Ints:
    """int64[n]: the time of the last engagement with each question's activity, 0 without any."""
    events = case.events
    history = History.of(events.life[engaged].astype(np.int64), events.place[engaged], case.span)
    latest = running_maximum(history.first, events.time_us[engaged][history.order])
    found = history.last(case.life, case.questions.place)
    engaged_us = np.zeros(len(found), np.int64)
    engaged_us[found >= 0] = np.maximum(latest[found[found >= 0]], 0)
    return engaged_us


def _count_before(user: Ints, place: Ints, asks: Needles, span: int) -> Ints:
    history = History.of(user, place, span)
    found = history.last(asks.user, asks.place)
    counts = running_count(history.first, np.ones(len(user), np.bool_))
    answer = np.zeros(len(found), np.int64)
    answer[found >= 0] = counts[found[found >= 0]]
    return answer
