"""Requests: the moments at which a feed could have been read, made from what users did. Pure.

The data does not say when feeds were read. A request is therefore placed just before a user touched
an activity for the first time, and the user's further first touches of the next hour belong to it:
had the feed been read then, these were the activities to show. Nothing else is assumed; above all
no activity counts as shown and passed over.
"""

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from feeds.events import Engagement, Event
from feeds.model import ActivityId, UserId
from training.config import RequestConfig
from training.splits import PART_NAMES, PartName, Split

__all__ = ["Request", "find_requests", "thin_out"]

_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Request:
    """A user's feed could have been read just before `time_us`.

    `place` is that of the event before which the replay asks: the first of those with the same
    time, so that nothing of that very moment is known. `labels` maps the activities that were then
    touched to their relevance; `earlier_touches` counts the user's first touches before it.
    """

    user: UserId
    time_us: int
    place: int
    earlier_touches: int
    labels: dict[ActivityId, int] = field(default_factory=dict)

    @property
    def now_us(self) -> int:
        """The time of the request: the last microsecond before the first touch."""
        return self.time_us - 1


def find_requests(
    events: Sequence[Event], config: RequestConfig, boundaries: Sequence[int] = ()
) -> list[Request]:
    """Every request, in log order; none reaches across one of the (sorted) boundaries in time.

    The engagement that makes a first touch gives its label; kinds that are labelled 0 or not at all
    (a hide) count neither as touch nor as relevance.
    """
    touched: dict[UserId, set[ActivityId]] = {}
    latest: dict[UserId, Request] = {}
    requests: list[Request] = []
    moment_place, moment_us = 0, -1
    for place, event in enumerate(events):
        if event.time_us != moment_us:
            moment_place, moment_us = place, event.time_us
        label = config.labels.get(event.kind, 0) if isinstance(event, Engagement) else 0
        if not isinstance(event, Engagement) or not label:
            continue
        seen = touched.setdefault(event.user, set())
        if event.activity_id in seen:
            continue
        request = latest.get(event.user)
        if request is None or not _belongs(event.time_us, request, config, boundaries):
            request = Request(event.user, event.time_us, moment_place, len(seen))
            latest[event.user] = request
            requests.append(request)
        request.labels[event.activity_id] = label
        seen.add(event.activity_id)
    return [r for r in requests if r.earlier_touches >= config.earlier_touches_min]


def _belongs(
    time_us: int, request: Request, config: RequestConfig, boundaries: Sequence[int]
) -> bool:
    return (
        len(request.labels) < config.touches_max
        and 0 <= time_us - request.time_us <= config.window_s * _SECOND_US
        and bisect.bisect(boundaries, time_us) == bisect.bisect(boundaries, request.time_us)
    )


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
