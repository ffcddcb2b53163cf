"""Recording impressions and engagements: the facts, and the counters that move with them."""

from collections.abc import Callable
from typing import TypeVar

from feeds.commands import RecordEvents
from feeds.counters import HOUR_US, CounterRecord, UserRecord, counted_tags, kind_code
from feeds.events import APART_KINDS, Engagement, Impression, Posted
from feeds.keys import ActivityKey, CounterKey
from feeds.machine.changes import Changes
from feeds.model import position_of
from feeds.results import RecordResult
from feeds.store.base import View
from feeds.values import decode_activity, decode_counter, decode_user, encode

__all__ = ["record"]

Recorded = Impression | Engagement
_Record = TypeVar("_Record", CounterRecord, UserRecord)


def record(command: RecordEvents, changes: Changes, view: View) -> RecordResult:
    """Leave every event whose activity exists in the event log, and count it."""
    activities = _activities(command, view)
    known = [event for event in command.events if event.activity_id in activities]
    for event in known:
        changes.tell(event)
    _count(known, activities, changes, view)
    unknown = {
        event.activity_id: None for event in command.events if event.activity_id not in activities
    }
    return RecordResult(changes.index, len(known), tuple(unknown))


def _activities(command: RecordEvents, view: View) -> dict[str, tuple[bytes, Posted]]:
    """Position and facts of the activities that the events name, by id, in one read."""
    positions = {event.activity_id: position_of(event.activity_id) for event in command.events}
    prefix = ActivityKey.prefix(command.tenant)
    found = view.get_many("activities", [prefix + position for position in positions.values()])
    return {
        activity: (position, decode_activity(data).posted)
        for (activity, position), data in zip(positions.items(), found, strict=True)
        if data is not None
    }


def _count(
    events: list[Recorded],
    activities: dict[str, tuple[bytes, Posted]],
    changes: Changes,
    view: View,
) -> None:
    """Move the counters of the activities, their authors, their tags and the users."""
    if not events:
        return
    tallies = _Tallies(changes.tenant)
    for event in events:
        position, posted = activities[event.activity_id]
        tallies.add(event, position, posted)
    keys = [*tallies.counts, *tallies.users]
    stored = dict(zip(keys, view.get_many("counters", keys), strict=True))
    for key, counts in tallies.counts.items():
        counter = _load(stored[key], decode_counter, CounterRecord.empty)
        for (kind, _), (last_us, count) in counts.items():
            counter.add(kind, last_us, count)
        for user in tallies.engagers.get(key, ()):
            counter.add_engager(user)
        changes.put("counters", key, encode(counter))
    for key, met in tallies.users.items():
        user_record = _load(stored[key], decode_user, UserRecord.empty)
        for event, position, posted in met:
            user_record.add(event, position, posted.actor, posted.tags)
        changes.put("counters", key, encode(user_record))


def _load(
    data: bytes | None, decode: Callable[[bytes], _Record], empty: Callable[[], _Record]
) -> _Record:
    return empty() if data is None else decode(data)


class _Tallies:
    """The events of one command by the record that they move, so that each is written once.

    Events of a kind within an hour are one addition: no ring has finer buckets, and a bucket is in
    its ring for all of them or for none.
    """

    def __init__(self, tenant: str) -> None:
        self._activity = CounterKey.prefix(tenant, "activity")
        self._author = CounterKey.prefix(tenant, "author")
        self._tag = CounterKey.prefix(tenant, "tag")
        self._user = CounterKey.prefix(tenant, "user")
        self.counts: dict[bytes, dict[tuple[int, int], tuple[int, int]]] = {}
        self.engagers: dict[bytes, list[str]] = {}
        self.users: dict[bytes, list[tuple[Recorded, bytes, Posted]]] = {}

    def add(self, event: Recorded, position: bytes, posted: Posted) -> None:
        """Tally one event with the activity at `position`."""
        kind = kind_code(event)
        activity = self._activity + position
        self._tally(activity, kind, event.time_us)
        self._tally(self._author + posted.actor.encode(), kind, event.time_us)
        for tag in counted_tags(posted.tags):
            self._tally(self._tag + tag.encode(), kind, event.time_us)
        if isinstance(event, Engagement) and event.kind not in APART_KINDS:
            self.engagers.setdefault(activity, []).append(event.user)
        user = self._user + event.user.encode()
        self.users.setdefault(user, []).append((event, position, posted))

    def _tally(self, key: bytes, kind: int, time_us: int) -> None:
        counts = self.counts.setdefault(key, {})
        place = (kind, time_us // HOUR_US)
        last_us, count = counts.get(place, (0, 0))
        counts[place] = (max(last_us, time_us), count + 1)
