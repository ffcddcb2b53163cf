"""What users' records held before any place of the log: the twin of `feeds.counters.UserRecord`.

A record keeps 256 authors and tags, and 500 activities shown. Users who never met more are a matter
of sorting and counting. For those who did, the record's rule of who leaves is gone through event by
event, for them alone.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from feeds.counters import AUTHORS_MAX, RECENT_MAX, TAGS_MAX
from training.asof.search import History, running_count, running_maximum

__all__ = ["AUTHORS_MAX", "TAGS_MAX", "Meetings", "Needles", "Shown", "met", "shown_before"]

Ints = npt.NDArray[np.int64]

_ENGAGEMENTS: Final = 0
_IMPRESSIONS: Final = 1
_LAST_US: Final = 2


@dataclass(frozen=True, slots=True)
class Meetings:
    """m times that a user met a name, in log order; names of one event in the record's order."""

    user: Ints
    name: Ints
    place: Ints
    time_us: Ints
    engaged: npt.NDArray[np.bool_]
    """bool[m]: an engagement (but no hide); else an impression."""


@dataclass(frozen=True, slots=True)
class Needles:
    """n questions: how did a user meet a name before a place; a name of -1 is never met."""

    user: Ints
    name: Ints
    place: Ints


def met(meetings: Meetings, needles: Needles, names: int, most: int, span: int) -> Ints:
    """int64[n, 3]: engagements, impressions, and the time of the last engagement (0 for never).

    Names are numbers below `names`, in their order. A record keeps `most` of them; places lie below
    `span`.
    """
    keys = meetings.user * names + meetings.name
    history = History.of(keys, meetings.place, span)
    found = history.last(needles.user * names + needles.name, needles.place)
    known = (found >= 0) & (needles.name >= 0)
    at, order = found[known], history.order
    engaged = meetings.engaged[order]
    answer = np.zeros((len(found), 3), np.int64)
    answer[known, _ENGAGEMENTS] = running_count(history.first, engaged)[at]
    answer[known, _IMPRESSIONS] = running_count(history.first, ~engaged)[at]
    times = np.where(engaged, meetings.time_us[order], 0)
    answer[known, _LAST_US] = np.maximum(running_maximum(history.first, times)[at], 0)
    full = _crowded(meetings.user[order[history.first]], most)
    for events, asked in _of_users(full, meetings.user, needles.user):
        answer[asked] = _replayed(meetings, events, needles, asked, most)
    return answer


@dataclass(frozen=True, slots=True)
class Shown:
    """m impressions in log order: which user saw which activity."""

    user: Ints
    activity: Ints
    place: Ints


def shown_before(shown: Shown, needles: Needles, activities: int, span: int) -> Ints:
    """int64[n]: how often a record says that the user was shown the activity `needles.name`."""
    keys = shown.user * activities + shown.activity
    history = History.of(keys, shown.place, span)
    found = history.last(needles.user * activities + needles.name, needles.place)
    counts = running_count(history.first, np.ones(len(keys), np.bool_))
    answer = np.zeros(len(found), np.int64)
    answer[found >= 0] = counts[found[found >= 0]]
    full = _crowded(shown.user[history.order[history.first]], RECENT_MAX)
    for events, asked in _of_users(full, shown.user, needles.user):
        answer[asked] = _remembered(
            shown.activity[events].tolist(),
            shown.place[events].tolist(),
            needles.name[asked].tolist(),
            needles.place[asked].tolist(),
        )
    return answer


def _crowded(users_of_keys: Ints, most: int) -> Ints:
    """Users who met more than a record keeps, given the user of each distinct key."""
    users, counts = np.unique(users_of_keys, return_counts=True)
    crowded: Ints = users[counts > most]
    return crowded


def _of_users(users: Ints, of_events: Ints, of_needles: Ints) -> Iterator[tuple[Ints, Ints]]:
    """(its events in order, its needles) of each of some users."""
    if not len(users):
        return
    (events, first, last), (needles, begin, end) = (
        _by_user(users, column) for column in (of_events, of_needles)
    )
    for number in range(len(users)):
        yield events[first[number] : last[number]], needles[begin[number] : end[number]]


def _by_user(users: Ints, column: Ints) -> tuple[Ints, Ints, Ints]:
    """The rows of some users together, and where each user's begin and end."""
    rows = np.flatnonzero(np.isin(column, users))
    rows = rows[np.argsort(column[rows], kind="stable")]
    ordered = column[rows]
    return rows, np.searchsorted(ordered, users), np.searchsorted(ordered, users, side="right")


def _replayed(
    meetings: Meetings, events: Ints, needles: Needles, asked: Ints, most: int
) -> npt.NDArray[np.int64]:
    """One user's answers by way of the record itself."""
    record = _Affinities(most)
    answers = np.zeros((len(asked), 3), np.int64)
    names, places = meetings.name[events].tolist(), meetings.place[events].tolist()
    times, engaged = meetings.time_us[events].tolist(), meetings.engaged[events].tolist()
    taken = 0
    before = needles.place[asked]
    for turn in np.argsort(before, kind="stable").tolist():
        place = before[turn]
        while taken < len(places) and places[taken] < place:
            record.meet(names[taken], times[taken], engaged[taken])
            taken += 1
        answers[turn] = record.of.get(int(needles.name[asked[turn]]), (0, 0, 0))
    return answers


class _Affinities:
    """`feeds.counters._affinity` with a heap: of `most` names who was engaged with first goes."""

    def __init__(self, most: int) -> None:
        self.of: dict[int, list[int]] = {}
        self._most = most
        self._oldest: list[tuple[int, int]] = []

    def meet(self, name: int, time_us: int, engaged: bool) -> None:
        """Take in one meeting."""
        entry = self.of.get(name)
        if entry is None:
            if len(self.of) >= self._most:
                self._let_go()
            entry = self.of[name] = [0, 0, 0]
            heapq.heappush(self._oldest, (0, name))
        if not engaged:
            entry[_IMPRESSIONS] += 1
            return
        entry[_ENGAGEMENTS] += 1
        if time_us > entry[_LAST_US]:
            entry[_LAST_US] = time_us
            heapq.heappush(self._oldest, (time_us, name))

    def _let_go(self) -> None:
        while True:
            last_us, name = heapq.heappop(self._oldest)
            entry = self.of.get(name)
            if entry is not None and entry[_LAST_US] == last_us:
                del self.of[name]
                return


def _remembered(
    activities: Sequence[int], places: Sequence[int], wanted: Sequence[int], before: Sequence[int]
) -> list[int]:
    """How often each wanted activity is down as shown: 500 are kept, the first to come leaves."""
    counts: dict[int, int] = {}
    answers = [0] * len(wanted)
    taken = 0
    for turn in sorted(range(len(wanted)), key=before.__getitem__):
        while taken < len(places) and places[taken] < before[turn]:
            activity = activities[taken]
            if activity not in counts and len(counts) >= RECENT_MAX:
                del counts[next(iter(counts))]
            counts[activity] = counts.get(activity, 0) + 1
            taken += 1
        answers[turn] = counts.get(wanted[turn], 0)
    return answers
