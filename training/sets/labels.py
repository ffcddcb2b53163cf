"""Labels: what came of each impression, of each kind within its window, once the window is closed.

An impression is followed until its windows are over, and a label says what was known by then. So a
label never changes once it is there: a training set that is built later has the same one. What is
not over yet is no label at all (`OPEN`), since it would say "no" of what is still to come; see
Chapelle, "Modeling Delayed Feedback in Display Advertising", KDD 2014.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from feeds.events import ENGAGEMENT_KINDS
from training.config import LabelConfig
from training.events.columns import ENGAGED, UNNAMED, EventColumns

__all__ = ["OPEN", "LabelledImpressions", "ahead_of_clock", "known_times", "label_impressions"]

OPEN: Final = -1
"""The label of a kind whose window was not closed when the log ended."""

_DWELL: Final = ENGAGED[ENGAGEMENT_KINDS.index("dwell")]
_SECOND_US: Final = 1_000_000
_AHEAD_OF: Final = 101
"""Events after one that tell whether its clock was ahead: the longest run of late ones is half."""

_KEY_MAX: Final = 2**62

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelledImpressions:
    """n impressions that have a label, by request and position; the rows of a request together.

    A request is a slate, or what a user was shown without a slate's id and without a pause.
    """

    place: Places
    """int64[n]: where each impression stands in the log."""
    request: Places
    """int64[n]: the number of its request, ascending from 0."""
    labels: Mapping[str, npt.NDArray[np.int8]]
    """int8[n] for each kind: 1 engaged, 0 not, `OPEN` where that is not known yet."""
    request_time_us: Places
    """int64[q]: when each slate was made, or the earliest impression of the request."""
    now_us: Places
    """int64[q]: what its clock said: a microsecond before, where no slate was logged."""
    as_of: Places
    """int64[q]: events before this place were known when the request was made."""
    counts: Mapping[str, int]
    """How many impressions and engagements were used, and left out, by reason."""


def label_impressions(
    events: EventColumns,
    config: LabelConfig,
    now_us: int,
    made_us: npt.NDArray[np.int64] | None = None,
) -> LabelledImpressions:
    """Every impression that has a label, with its request; `now_us` is the caller's clock.

    `made_us` is int64[slates], when each slate was made, 0 where that is not known.
    Cost: about 2 s a million events.
    """
    counts: dict[str, int] = {}
    ahead = ahead_of_clock(events.time_us, now_us, config.ahead_s_max * _SECOND_US)
    known_us = known_times(events.time_us, ahead)
    shown = _first_of_each(events, np.flatnonzero(events.is_impression & ~ahead))
    told = events.is_engagement & ~_glances(events, config.dwell_s_min)
    engaged = _first_of_each(events, np.flatnonzero(told & ~ahead))
    counts["impressions"] = int(events.is_impression.sum())
    counts["engagements"] = int(told.sum())
    counts["ahead_of_clock"] = int(ahead.sum())
    counts["duplicate_impressions"] = int((events.is_impression & ~ahead).sum()) - len(shown)
    counts["duplicate_engagements"] = int((told & ~ahead).sum()) - len(engaged)
    of = _attributed(events, shown, engaged)
    counts["engagements_without_impression"] = int((of < 0).sum())
    shown, engaged, of = _with_unshown(events, config, shown, engaged, of)
    labels, late = _labels(events, config, known_us, shown, engaged[of >= 0], of[of >= 0])
    counts["late_engagements"] = late
    closed = np.zeros(len(shown), np.bool_)
    for kind, label in labels.items():
        closed |= label != OPEN
        counts[f"open_{kind}"] = int((label == OPEN).sum())
    counts["open_windows"] = int((~closed).sum())
    kept = np.flatnonzero(closed)
    if made_us is None:
        made_us = np.zeros(len(events.slates), np.int64)
    of_kept = {kind: label[kept] for kind, label in labels.items()}
    return _by_request(events, config, known_us, made_us, shown[kept], of_kept, counts)


def _glances(events: EventColumns, seconds: float) -> npt.NDArray[np.bool_]:
    """bool[n]: which events are looks too short to be a label."""
    glances: npt.NDArray[np.bool_] = (events.code == _DWELL) & (events.value < seconds)
    return glances


def ahead_of_clock(
    time_us: npt.NDArray[np.int64], now_us: int, ahead_us_max: int
) -> npt.NDArray[np.bool_]:
    """Which events say a time that cannot be: later than now, or than most of what came after.

    Of the 101 events after one, more than half must not be `ahead_us_max` older than it. A wrong
    clock must not close windows, nor make what came after it look late.
    """
    count = len(time_us)
    older = np.zeros(count, np.int16)
    for step in range(1, min(_AHEAD_OF, count - 1) + 1):
        older[:-step] += time_us[step:] < time_us[:-step] - ahead_us_max
    after = np.minimum(np.arange(count - 1, -1, -1), _AHEAD_OF)
    ahead: npt.NDArray[np.bool_] = (time_us > now_us) | (2 * older > after)
    return ahead


def known_times(
    time_us: npt.NDArray[np.int64], ahead: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """int64[n]: when each event was known at the earliest, ascending: the newest time so far.

    The log has no arrival times; but nothing arrives before what was logged in front of it.
    """
    if not len(time_us):
        return time_us
    sound = time_us[~ahead]
    first = int(sound.min()) if len(sound) else int(time_us.min())
    known: npt.NDArray[np.int64] = np.maximum.accumulate(np.where(ahead, first, time_us))
    return known


def _first_of_each(events: EventColumns, places: Places) -> Places:
    """Events without their repeats, in log order.

    Of a slate an activity counts once for each kind; without a slate an event is a repeat if
    another has the same time and place too.
    """
    slate = events.slate[places]
    unnamed = slate == UNNAMED
    columns = (
        np.where(unnamed, events.position[places], 0),
        np.where(unnamed, events.time_us[places], 0),
        slate,
        events.code[places],
        events.activity[places],
        events.user[places],
    )
    order = np.lexsort((places, *columns))
    first = np.ones(len(places), np.bool_)
    if len(places) > 1:
        same = np.ones(len(places) - 1, np.bool_)
        for column in columns:
            ordered = column[order]
            same &= ordered[1:] == ordered[:-1]
        first[1:] = ~same
    return np.sort(places[order[first]])


def _attributed(events: EventColumns, shown: Places, engaged: Places) -> Places:
    """int64[e]: the impression (a place in `shown`) that each engagement came from, or -1.

    That is the one of the slate that the engagement names; where it names none, the user's last
    impression of the activity before it.
    """
    named = _keys(events, (events.user, events.activity, events.slate))
    plain = _keys(events, (events.user, events.activity))
    by_slate = _last_match(named[shown], named[engaged])
    before = _last_before(plain[shown], shown, plain[engaged], engaged)
    return np.where(events.slate[engaged] != UNNAMED, by_slate, before)


def _keys(
    events: EventColumns, columns: tuple[npt.NDArray[np.int32], ...]
) -> npt.NDArray[np.int64]:
    """A number for each event, equal where all columns are."""
    key, size = np.zeros(len(events), np.int64), 1
    for column in columns:
        width = int(column.max(initial=UNNAMED)) + 2  # and one for `UNNAMED`
        if size * width > _KEY_MAX:
            values, key = np.unique(key, return_inverse=True)
            size = len(values)
        key = key * width + (column + 1)
        size *= width
    return key


def _last_match(keys: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> Places:
    if not len(keys):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(keys, kind="stable")
    at = np.searchsorted(keys[order], wanted, side="right") - 1
    found = order[np.maximum(at, 0)]
    return np.where((at >= 0) & (keys[found] == wanted), found, -1)


def _last_before(
    keys: npt.NDArray[np.int64],
    places: Places,
    wanted: npt.NDArray[np.int64],
    before: Places,
) -> Places:
    """The last of each wanted key whose place is before the given one, or -1."""
    if not len(keys):
        return np.full(len(wanted), -1, np.int64)
    span = int(max(places.max(initial=0), before.max(initial=0))) + 1
    values, keys = np.unique(keys, return_inverse=True)
    number = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
    wanted = np.where(values[number] == wanted, number, -1)
    order = np.lexsort((places, keys))
    at = np.searchsorted(keys[order] * span + places[order], wanted * span + before) - 1
    found = order[np.maximum(at, 0)]
    return np.where((at >= 0) & (keys[found] == wanted), found, -1)


def _with_unshown(
    events: EventColumns, config: LabelConfig, shown: Places, engaged: Places, of: Places
) -> tuple[Places, Places, Places]:
    """Apply the rule for engagements that no impression stands for."""
    if config.unshown == "leave_out":
        return shown, engaged, of
    # "as_shown": the first engagement of a slate with an activity stands for its impression.
    lone = np.flatnonzero(of < 0)
    key = _keys(events, (events.user, events.activity, events.slate))[engaged[lone]]
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    of = of.copy()
    of[lone] = len(shown) + which
    return np.concatenate([shown, engaged[lone[first]]]), engaged, of


def _labels(
    events: EventColumns,
    config: LabelConfig,
    known_us: npt.NDArray[np.int64],
    shown: Places,
    engaged: Places,
    of: Places,
) -> tuple[dict[str, npt.NDArray[np.int8]], int]:
    """The label of each impression and kind, and how many engagements came too late to count."""
    labels: dict[str, npt.NDArray[np.int8]] = {}
    end_us = int(known_us[-1]) if len(known_us) else 0
    grace_us = config.grace_s * _SECOND_US
    code = events.code[engaged]
    late = 0
    for kind, kind_code in zip(ENGAGEMENT_KINDS, ENGAGED, strict=True):
        window_us = config.windows_s[kind] * _SECOND_US
        closes_us = known_us[shown] + window_us + grace_us
        label = np.where(closes_us <= end_us, 0, OPEN).astype(np.int8)
        mine = code == kind_code
        event, row = engaged[mine], of[mine]
        in_time = events.time_us[event] <= events.time_us[shown[row]] + window_us
        heard = known_us[event] <= closes_us[row]
        late += int((in_time & ~heard).sum())
        hits = row[in_time & heard]
        label[hits[label[hits] != OPEN]] = 1
        labels[kind] = label
    return labels, late


def _by_request(
    events: EventColumns,
    config: LabelConfig,
    known_us: npt.NDArray[np.int64],
    made_us: npt.NDArray[np.int64],
    shown: Places,
    labels: Mapping[str, npt.NDArray[np.int8]],
    counts: Mapping[str, int],
) -> LabelledImpressions:
    """The impressions by request, requests in the order in which they were made."""
    request = _requests(events, config, shown)
    size = int(request.max(initial=-1)) + 1
    time_us = np.full(size, np.iinfo(np.int64).max)
    np.minimum.at(time_us, request, events.time_us[shown])
    slate = np.full(size, UNNAMED, np.int64)
    slate[request] = events.slate[shown]
    made = np.append(made_us, 0)[slate]
    time_us = np.where(made > 0, made, time_us)
    first = np.full(size, len(events), np.int64)
    np.minimum.at(first, request, shown)
    # What was logged with the first impression, or happened at its very moment, was not known.
    with_it = np.searchsorted(events.index, events.index[first]) if size else first
    as_of = np.minimum(with_it, np.searchsorted(known_us, time_us))
    rank = np.empty(size, np.int64)
    by_time = np.lexsort((first, time_us))
    rank[by_time] = np.arange(size)
    order = np.lexsort((shown, events.position[shown], rank[request]))
    return LabelledImpressions(
        place=shown[order],
        request=rank[request][order],
        labels={kind: label[order] for kind, label in labels.items()},
        request_time_us=time_us[by_time],
        now_us=(time_us - (made == 0))[by_time],
        as_of=as_of[by_time].astype(np.int64),
        counts=counts,
    )


def _requests(events: EventColumns, config: LabelConfig, shown: Places) -> npt.NDArray[np.int64]:
    """int64[n]: a number for each impression's request, from 0, in no order."""
    user, slate = events.user[shown], events.slate[shown]
    order = np.lexsort((shown, np.where(slate == UNNAMED, events.time_us[shown], 0), slate, user))
    begins = np.ones(len(shown), np.bool_)
    if len(shown) > 1:
        before, after = order[:-1], order[1:]
        times = events.time_us[shown]
        pause = times[after] - times[before] > config.pause_s * _SECOND_US
        begins[1:] = (
            (user[after] != user[before])
            | (slate[after] != slate[before])
            | ((slate[after] == UNNAMED) & pause)
        )
    numbers = np.empty(len(shown), np.int64)
    numbers[order] = np.cumsum(begins) - 1
    return numbers
