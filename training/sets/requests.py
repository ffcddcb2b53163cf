"""Requests: the moments at which a feed could have been read, made from what users did. Pure.

Public data does not say when feeds were read. A request is therefore placed just before a user
touched an activity for the first time, and the user's further first touches of the next hour belong
to it: had the feed been read then, these were the activities to show. Where impressions are logged,
it is placed before the first of those that the touch came from: the service that made the slate did
not know of them, and whoever knows what was shown half knows what was touched. Nothing else is
assumed; above all no activity counts as shown and passed over.
"""

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from feeds.events import Engagement, Event, Impression
from feeds.model import ActivityId, UserId
from ranking.candidates import FeedKind
from training.config import RequestConfig
from training.sets.splits import PART_NAMES, PartName, Split

__all__ = ["Request", "find_requests", "thin_out"]

_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Request:
    """A user's feed could have been read just before `time_us`.

    That is the first touch, or the first impression of what was touched. `place` is that of the
    event before which the replay asks: the first of those with the same time, so that nothing of
    that very moment is known. `labels` maps the activities that were then
    touched to their relevance; `earlier_touches` counts the user's first touches before it; `kind`
    is the ranked feed that is asked for. Of a request that was answered, `shown` has the 0-based
    place of each activity that was shown.
    """

    user: UserId
    time_us: int
    place: int
    earlier_touches: int
    labels: dict[ActivityId, int] = field(default_factory=dict)
    kind: FeedKind = "personalized"
    shown: Mapping[ActivityId, int] = field(default_factory=dict)

    @property
    def now_us(self) -> int:
        """The time of the request: the last microsecond before `time_us`."""
        return self.time_us - 1


def find_requests(
    events: Sequence[Event], config: RequestConfig, boundaries: Sequence[int] = ()
) -> list[Request]:
    """Every request, in log order; none reaches across one of the (sorted) boundaries in time.

    The engagement that makes a first touch gives its label; kinds that are labelled 0 or not at all
    (a hide) count neither as touch nor as relevance.
    """
    finder = _Finder(config, boundaries)
    moment = _Moment(0, -1)
    for place, event in enumerate(events):
        if event.time_us != moment.time_us:
            moment = _Moment(place, event.time_us)
        if isinstance(event, Impression):
            finder.shown(event, moment)
        elif isinstance(event, Engagement) and (label := config.labels.get(event.kind, 0)):
            finder.touched(event, moment, label)
    found = [r for r in finder.requests if r.earlier_touches >= config.earlier_touches_min]
    return sorted(found, key=lambda request: request.place)


class _Moment(NamedTuple):
    """The place of the first event with a time."""

    place: int
    time_us: int


class _Finder:
    """What is known of each user on the way through the log."""

    def __init__(self, config: RequestConfig, boundaries: Sequence[int]) -> None:
        self.requests: list[Request] = []
        self._config = config
        self._boundaries = boundaries
        self._touched: dict[UserId, set[ActivityId]] = {}
        self._latest: dict[UserId, Request] = {}
        self._touched_last: dict[UserId, _Moment] = {}
        self._views: dict[tuple[UserId, str], _Moment] = {}

    def shown(self, event: Impression, moment: _Moment) -> None:
        """Note when a slate came up; without a slate's id, when the user began to look."""
        view = self._views.get((event.user, event.slate_id))
        if view is None or (not event.slate_id and not self._near(view.time_us, moment.time_us)):
            self._views[event.user, event.slate_id] = moment

    def touched(self, event: Engagement, moment: _Moment, label: int) -> None:
        """Take a first touch into the user's latest request, or into a new one."""
        seen = self._touched.setdefault(event.user, set())
        if event.activity_id not in seen:
            request = self._latest.get(event.user)
            if request is None or not self._belongs(event.time_us, request):
                start = self._start(event, moment)
                request = Request(event.user, start.time_us, start.place, len(seen))
                self._latest[event.user] = request
                self.requests.append(request)
            request.labels[event.activity_id] = label
            seen.add(event.activity_id)
        self._touched_last[event.user] = moment

    def _start(self, event: Engagement, moment: _Moment) -> _Moment:
        """When what was touched came up; the touch itself where the log does not say."""
        view = self._views.get((event.user, event.slate_id))
        last = self._touched_last.get(event.user)
        if (
            view is None
            or not self._near(view.time_us, moment.time_us)
            or (last is not None and view.place <= last.place)
        ):
            return moment
        return view

    def _belongs(self, time_us: int, request: Request) -> bool:
        return len(request.labels) < self._config.touches_max and self._near(
            request.time_us, time_us
        )

    def _near(self, start_us: int, time_us: int) -> bool:
        """Whether a time lies in the window that begins at `start_us`, and in the same part."""
        return 0 <= time_us - start_us <= self._config.window_s * _SECOND_US and bisect.bisect(
            self._boundaries, time_us
        ) == bisect.bisect(self._boundaries, start_us)


def thin_out(
    requests: Iterable[Request], split: Split, limits: Mapping[PartName, int], seed: int
) -> dict[PartName, list[Request]]:
    """The requests of each part, in order, at most as many as its limit: a seeded choice.

    A part without a limit keeps none.
    """
    parts: dict[PartName, list[Request]] = {name: [] for name in PART_NAMES}
    for request in requests:
        parts[split.part(request.time_us)].append(request)
    random = np.random.default_rng(seed)
    kept: dict[PartName, list[Request]] = {}
    for name, found in parts.items():
        limit = limits.get(name, 0)
        chosen = np.sort(random.permutation(len(found))[:limit])
        kept[name] = [found[place] for place in chosen]
    return kept
