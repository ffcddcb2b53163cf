"""Posting and removing activities."""

import msgspec

from feeds.commands import PostActivity, RemoveActivity
from feeds.events import Removed
from feeds.keys import ActivityKey, CounterKey, FeedRowKey, write_number
from feeds.machine.changes import Changes
from feeds.machine.spread import spread
from feeds.machine.usage import release, store
from feeds.model import ActivityId, position_of
from feeds.results import Placed, Rejected, RemoveResult
from feeds.store.base import View
from feeds.values import StoredActivity, decode_activity, encode_activity

__all__ = ["post", "remove"]


def post(command: PostActivity, changes: Changes, view: View) -> Placed | Rejected:
    """Put the activity into the places where it is not yet, and before their followers.

    A known activity takes the new body; its facts stay, as counters and tables go by them.
    """
    posted = command.posted
    key = ActivityKey(command.tenant, position_of(posted.activity_id)).encode()
    data = view.get("activities", key)
    if data is None:
        stored = StoredActivity(changes.index, posted, command.body)
        store(1, len(command.body), command.storage_max, changes, view)
        changes.put("activities", key, encode_activity(stored))
        changes.tell(posted)
        _add_rows([posted.feed, *posted.to], command, changes, view)
        return Placed(changes.index, posted.activity_id)
    stored = decode_activity(data)
    places = [stored.posted.feed, *stored.posted.to]
    added = [place for place in (posted.feed, *posted.to) if place not in places]
    if len(places) + len(added) > command.places_max:
        return Rejected(
            "limit",
            f"activity {posted.activity_id} is in {len(places)} feeds, and with {len(added)} more "
            f"would be in over {command.places_max}, which is to_max and its own: post another one",
        )
    if added or command.body != stored.body:
        grown = len(command.body) - len(stored.body)
        store(0, grown, command.storage_max, changes, view)
        facts = msgspec.structs.replace(stored.posted, to=(*stored.posted.to, *added))
        changes.put(
            "activities", key, encode_activity(StoredActivity(stored.index, facts, command.body))
        )
    if added:
        changes.tell(facts)
        _add_rows(added, command, changes, view)
    return Placed(stored.index, posted.activity_id, duplicate=True)


def _add_rows(places: list[str], command: PostActivity, changes: Changes, view: View) -> None:
    """A row in each place, and one before each follower of it that is not merged at read time."""
    position = position_of(command.posted.activity_id)
    value = write_number(changes.index)
    for place in places:
        changes.put("feeds", FeedRowKey.prefix(changes.tenant, place) + position, value)
    spread(command, places, position, changes, view)


def remove(command: RemoveActivity, changes: Changes, view: View) -> RemoveResult:
    """Delete the activity, its counts, its rows in its places and before their followers.

    Other rows of it (kept history, merged feeds) find no activity when they are read.
    """
    position = position_of(command.activity_id)
    key = ActivityKey(command.tenant, position).encode()
    data = view.get("activities", key)
    if data is None:
        return RemoveResult(changes.index, removed=False)
    stored = decode_activity(data)
    posted = stored.posted
    places = [posted.feed, *posted.to]
    release(len(stored.body), changes, view)
    changes.delete("activities", key)
    changes.delete("counters", CounterKey(command.tenant, "activity", position).encode())
    for place in places:
        changes.delete("feeds", FeedRowKey.prefix(command.tenant, place) + position)
    spread(command, places, position, changes, view)
    changes.tell(Removed(time_us=command.time_us, activity_id=ActivityId(command.activity_id)))
    return RemoveResult(changes.index, removed=True)
