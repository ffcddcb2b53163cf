"""The state machine: apply(command, index, view) -> Outcome. Pure: no clock, no randomness, no I/O.

A command that cannot take effect has a result that says so, and no writes; nothing here raises
because of what a command holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from feeds.commands import (
    AddKey,
    ClearRows,
    Command,
    CreateTenant,
    FanOut,
    FollowFeed,
    MoveClock,
    PostActivity,
    RecordEvents,
    RemoveActivity,
    UnfollowFeed,
    Unkeyed,
)
from feeds.errors import InvalidInput, Overloaded
from feeds.events import Event
from feeds.machine.changes import Changes
from feeds.machine.clock import move_clock
from feeds.machine.follows import clear, follow, unfollow
from feeds.machine.once import recall, remember
from feeds.machine.posts import post, remove
from feeds.machine.records import record
from feeds.machine.spread import fan_out
from feeds.machine.tenants import add_key, create_tenant
from feeds.results import Rejected, Result
from feeds.store.base import View, Write

__all__ = ["Outcome", "apply"]


_Keyed = PostActivity | RemoveActivity | FollowFeed | UnfollowFeed | RecordEvents


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command does: writes for one batch, its result, and the facts it left."""

    writes: Sequence[Write]
    result: Result
    events: Sequence[Event]


def apply(command: Command, index: int, view: View) -> Outcome:
    """What the command at log index `index` does to the state in `view`."""
    changes = Changes(command.tenant, index)
    try:
        result = _decide_once(command, changes, view)
    except InvalidInput as error:
        result = Rejected("invalid", str(error))
    except Overloaded as error:
        result = Rejected("overloaded", str(error))
    if isinstance(result, Rejected):
        return Outcome((), result, ())
    return Outcome(changes.writes, result, changes.events)


def _decide_once(command: Command, changes: Changes, view: View) -> Result:
    """Under an idempotency key that was used, the answer of that time; nothing happens again."""
    if isinstance(command, Unkeyed):
        return _decide_unkeyed(command, changes, view)
    if command.once is None:
        return _decide(command, changes, view)
    recalled = recall(command.once, changes, view)
    if recalled is not None:
        return recalled
    result = _decide(command, changes, view)
    if not isinstance(result, Rejected):
        remember(command.once, changes, view, result)
    return result


def _decide(command: _Keyed, changes: Changes, view: View) -> Result:
    result: Result
    match command:
        case RecordEvents():
            result = record(command, changes, view)
        case PostActivity():
            result = post(command, changes, view)
        case FollowFeed():
            result = follow(command, changes, view)
        case UnfollowFeed():
            result = unfollow(command, changes, view)
        case RemoveActivity():
            result = remove(command, changes, view)
        case _:
            assert_never(command)
    return result


def _decide_unkeyed(command: Unkeyed, changes: Changes, view: View) -> Result:
    result: Result
    match command:
        case ClearRows():
            result = clear(command, changes, view)
        case FanOut():
            result = fan_out(command, changes, view)
        case MoveClock():
            result = move_clock(command, changes, view)
        case CreateTenant():
            result = create_tenant(command, changes, view)
        case AddKey():
            result = add_key(command, changes, view)
        case _:
            assert_never(command)
    return result
