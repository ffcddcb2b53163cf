"""Posting and removing activities."""

import msgspec

from feeds.commands import PostActivity, RemoveActivity
from feeds.events import Posted, Removed
from feeds.fanout import recipients
from feeds.keys import ActivityKey, CounterKey, FeedRowKey, write_number
from feeds.machine.changes import Changes
from feeds.machine.once import recall, remember
from feeds.model import ActivityId, position_of
from feeds.results import Placed, Rejected, RemoveResult
from feeds.store.base import View
from feeds.values import StoredActivity, decode_activity, encode_activity

__all__ = ["post", "remove"]


def post(command: PostActivity, changes: Changes, view: View) -> Placed | Rejected:
    """Put the activity into the places where it is not yet, and before their followers."""
    recalled = recall(command.once, changes, view)
    if isinstance(recalled, Rejected):
        return recalled
    if isinstance(recalled, Placed):
        return msgspec.structs.replace(recalled, duplicate=True)
    placed = _place(command, changes, view)
    remember(command.once, changes, view, placed)
    return placed


def _place(command: PostActivity, changes: Changes, view: View) -> Placed:
    posted = command.posted
    key = ActivityKey(command.tenant, position_of(posted.activity_id)).encode()
    data = view.get("activities", key)
    if data is None:
        _write(StoredActivity(changes.index, posted, command.body), key, changes)
        _add_rows([posted.feed, *posted.to], posted.activity_id, changes, view)
        return Placed(changes.index, posted.activity_id)
    stored = decode_activity(data)
    merged = _merge(stored.posted, posted)
    if merged != stored.posted or command.body != stored.body:
        places = [stored.posted.feed, *stored.posted.to]
        added = [place for place in (posted.feed, *posted.to) if place not in places]
        _write(StoredActivity(stored.index, merged, command.body), key, changes)
        _add_rows(added, posted.activity_id, changes, view)
    return Placed(stored.index, posted.activity_id, duplicate=True)


def _merge(old: Posted, new: Posted) -> Posted:
    """The new facts in the home feed of the old ones, and in the places of both."""
    places = dict.fromkeys((*old.to, new.feed, *new.to))
    places.pop(old.feed, None)
    return msgspec.structs.replace(new, feed=old.feed, to=tuple(places))


def _write(activity: StoredActivity, key: bytes, changes: Changes) -> None:
    changes.put("activities", key, encode_activity(activity))
    changes.tell(activity.posted)


def _add_rows(places: list[str], activity: ActivityId, changes: Changes, view: View) -> None:
    """A row in each place, and one before each follower of it that is not merged at read time."""
    position = position_of(activity)
    value = write_number(changes.index)
    for place in places:
        changes.put("feeds", FeedRowKey.prefix(changes.tenant, place) + position, value)
    for follower, place in recipients(view, changes.tenant, places):
        prefix = FeedRowKey.prefix(changes.tenant, follower)
        changes.put("feeds", prefix + position + place.encode(), value)


def remove(command: RemoveActivity, changes: Changes, view: View) -> RemoveResult:
    """Delete the activity, its counts, its rows in its places and before their followers.

    Other rows of it (kept history, merged feeds) find no activity when they are read.
    """
    position = position_of(command.activity_id)
    key = ActivityKey(command.tenant, position).encode()
    data = view.get("activities", key)
    if data is None:
        return RemoveResult(changes.index, removed=False)
    posted = decode_activity(data).posted
    places = [posted.feed, *posted.to]
    changes.delete("activities", key)
    changes.delete("counters", CounterKey(command.tenant, "activity", position).encode())
    for place in places:
        changes.delete("feeds", FeedRowKey.prefix(command.tenant, place) + position)
    for follower, place in recipients(view, command.tenant, places):
        prefix = FeedRowKey.prefix(command.tenant, follower)
        changes.delete("feeds", prefix + position + place.encode())
    changes.tell(Removed(time_us=command.time_us, activity_id=ActivityId(command.activity_id)))
    return RemoveResult(changes.index, removed=True)
