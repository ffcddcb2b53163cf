"""Fan-out: rows of an activity before the followers of its places, in bounded commands.

The law: once no task is left, the store holds what it would hold if every post and removal had
reached all followers in its own command. So a task concerns those who have followed since before
it was made; who stops meanwhile and keeps history is given what the task had for him.
"""

from itertools import islice

from feeds.commands import FanOut, PostActivity, RemoveActivity
from feeds.fanout import degrees, followers, following_since
from feeds.keys import FanOutKey, FeedRowKey, after, write_number
from feeds.machine.changes import Changes
from feeds.machine.tasks import count
from feeds.machine.wiping import deleted
from feeds.model import Position
from feeds.results import Drained
from feeds.rows import scan
from feeds.store.base import View
from feeds.values import Edge, Spreading, decode_spreading, encode

__all__ = ["fan_out", "settle", "spread"]


def spread(
    command: PostActivity | RemoveActivity,
    places: list[str],
    position: Position,
    changes: Changes,
    view: View,
) -> None:
    """Write (or delete) the rows before the followers of these places, or leave tasks for it.

    Followers of places that are merged at read time have no such rows; but a task from before a
    place became so is turned round by a removal. Raises `Overloaded` where the tenant has too many.
    """
    removes = isinstance(command, RemoveActivity)
    keys = [FanOutKey(command.tenant, place, position).encode() for place in places]
    tasks = view.get_many("outbox", keys)
    room, opened = command.inline_max, 0
    for place, key, task, edges in zip(
        places, keys, tasks, degrees(view, command.tenant, places), strict=True
    ):
        if edges.pulled and not (removes and task):
            continue
        reached = edges.followers if room is None else min(room, edges.followers)
        room = None if room is None else room - reached
        found = followers(view, command.tenant, place, chunk=reached) if reached else iter(())
        rows = _Rows(place, position, changes)
        last = ""
        for last in islice(found, reached):
            rows.set(last, Spreading(changes.index, removes, ""))
        if reached < edges.followers:
            changes.put("outbox", key, encode(Spreading(changes.index, removes, last)))
            opened += task is None
        elif task is not None:
            changes.delete("outbox", key)
            opened -= 1
    count(opened, command.tasks_max, changes, view)


def fan_out(command: FanOut, changes: Changes, view: View) -> Drained:
    """Go on with a task, if it is still to be done."""
    key = FanOutKey(command.tenant, command.place, Position(command.position)).encode()
    data = view.get("outbox", key)
    if data is None:
        return Drained(changes.index)
    if deleted(command.tenant, view):
        changes.delete("outbox", key)
        return Drained(changes.index)
    task = decode_spreading(data)
    found = following_since(view, command.tenant, command.place, task.after, command.rows_max)
    rows = _Rows(command.place, command.position, changes)
    for follower, since in found:
        if since < task.index:
            rows.set(follower, task)
    unfinished = len(found) >= command.rows_max
    if unfinished:
        changes.put("outbox", key, encode(Spreading(task.index, task.removes, found[-1][0])))
    else:
        changes.delete("outbox", key)
        count(-1, 0, changes, view)
    return Drained(changes.index, unfinished)


def settle(follower: str, place: str, edge: Edge, changes: Changes, view: View) -> None:
    """Do at once, for one follower who stops following, what the tasks of this place would."""
    prefix = FanOutKey.prefix(changes.tenant, place)
    for key, data in scan(view, "outbox", prefix, after(prefix)):
        task = decode_spreading(data)
        if task.after < follower and edge.index < task.index:
            _Rows(place, key[len(prefix) :], changes).set(follower, task)


class _Rows:
    """The rows of one activity from one place, before any follower."""

    def __init__(self, place: str, position: bytes, changes: Changes) -> None:
        self._head, self._tail = FeedRowKey.around(changes.tenant, position, place)
        self._changes = changes

    def set(self, follower: str, task: Spreading) -> None:
        """Write or delete the row before one of them, as of the log index of the task."""
        key = self._head + follower.encode() + self._tail
        self._changes.put("feeds", key, None if task.removes else write_number(task.index))
