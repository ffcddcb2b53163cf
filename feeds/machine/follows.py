"""Following and unfollowing feeds."""

from itertools import islice

import msgspec

from feeds.commands import ClearRows, FollowFeed, UnfollowFeed
from feeds.events import Followed, Unfollowed
from feeds.fanout import copied_rows, degrees, followers, since_of
from feeds.keys import (
    POSITION_BYTES,
    DegreesKey,
    FeedRowKey,
    FollowerKey,
    FollowKey,
    OutboxKey,
    PulledKey,
    read_number,
    write_number,
)
from feeds.machine.changes import Changes
from feeds.machine.spread import settle
from feeds.machine.tasks import count
from feeds.machine.tenants import note_merging
from feeds.machine.wiping import deleted
from feeds.results import FollowResult, Rejected, UnfollowResult
from feeds.rows import feed_rows, pulled_rows
from feeds.store.base import View
from feeds.values import (
    Clearing,
    Degrees,
    Edge,
    PulledEdge,
    decode_clearing,
    decode_edge,
    decode_pulled,
    encode,
    encode_pulled,
)

__all__ = ["clear", "follow", "unfollow"]


def follow(command: FollowFeed, changes: Changes, view: View) -> FollowResult | Rejected:
    """Make the edge, and let the newest activities of the target reach the follower."""
    key = FollowKey(command.tenant, command.follower, command.target).encode()
    if view.get("follows", key) is not None:
        return FollowResult(changes.index, copied=0)
    (own,) = degrees(view, command.tenant, [command.follower])
    if own.follows >= command.follows_max:
        return Rejected(
            "limit",
            f"{command.follower} follows {own.follows} feeds, which is the limit: unfollow one",
        )
    positions = copied_rows(
        view, command.tenant, command.target, command.copy_limit, command.copy_max
    )
    edge = Edge(command.time_us, changes.index, since_of(positions), command.derived)
    changes.put("follows", key, encode(edge))
    _write_reverse(command, changes)
    _reach(command, edge, positions, changes, view)
    _write_degrees(command.follower, changes, own, follows=own.follows + 1)
    changes.tell(
        Followed(
            time_us=command.time_us,
            follower=command.follower,
            target=command.target,
            since_us=edge.since_us,
            derived=command.derived,
        )
    )
    return FollowResult(changes.index, copied=len(positions))


def _write_reverse(command: FollowFeed, changes: Changes) -> None:
    reverse = FollowerKey(command.tenant, command.target, command.follower).encode()
    changes.put("follows", reverse, write_number(changes.index))


def _reach(
    command: FollowFeed,
    edge: Edge,
    positions: list[bytes],
    changes: Changes,
    view: View,
) -> None:
    """Copy the rows, or merge the target at read time once it has enough followers."""
    (target,) = degrees(view, command.tenant, [command.target])
    count = target.followers + 1
    pulled = target.pulled or count > command.pull_above
    if pulled and not target.pulled:
        _pull_everyone(command, changes, view)
    if pulled:
        _pull(command.follower, command.target, edge, changes)
    else:
        _copy(command.follower, command.target, positions, changes)
    _write_degrees(command.target, changes, target, followers=count, pulled=pulled)


def _pull_everyone(command: FollowFeed, changes: Changes, view: View) -> None:
    """The target becomes a merged one: so it is for each of its present followers."""
    note_merging(changes, view)
    present = list(followers(view, command.tenant, command.target))
    keys = [FollowKey(command.tenant, follower, command.target).encode() for follower in present]
    for follower, data in zip(present, view.get_many("follows", keys), strict=True):
        if data is not None:
            _pull(follower, command.target, decode_edge(data), changes)


def _pull(follower: str, target: str, edge: Edge, changes: Changes) -> None:
    key = PulledKey(changes.tenant, follower, target).encode()
    changes.put("follows", key, encode_pulled(PulledEdge(edge.index, edge.since_us)))


def _copy(follower: str, target: str, positions: list[bytes], changes: Changes) -> None:
    prefix = FeedRowKey.prefix(changes.tenant, follower)
    origin = target.encode()
    value = write_number(changes.index)
    for position in positions:
        changes.put("feeds", prefix + position + origin, value)


def _write_degrees(feed: str, changes: Changes, old: Degrees, **new: int) -> None:
    key = DegreesKey(changes.tenant, feed).encode()
    changes.put("follows", key, encode(msgspec.structs.replace(old, **new)))


def unfollow(command: UnfollowFeed, changes: Changes, view: View) -> UnfollowResult:
    """Delete the edge; remove the rows that came by it, or write down those that were merged."""
    key = FollowKey(command.tenant, command.follower, command.target).encode()
    edge = view.get("follows", key)
    if edge is None:
        return UnfollowResult(changes.index, removed=False)
    own, other = degrees(view, command.tenant, [command.follower, command.target])
    changes.delete("follows", key)
    changes.delete(
        "follows", FollowerKey(command.tenant, command.target, command.follower).encode()
    )
    _write_degrees(command.follower, changes, own, follows=own.follows - 1)
    _write_degrees(command.target, changes, other, followers=other.followers - 1)
    unfinished = False
    if command.keep_history:
        settle(command.follower, command.target, decode_edge(edge), changes, view)
        _keep(command, changes, view)
    else:
        clearing = Clearing(changes.index, b"", counted=command.tasks_max > 0)
        unfinished = _clear(command, clearing, changes, view)
    changes.delete("follows", PulledKey(command.tenant, command.follower, command.target).encode())
    changes.tell(
        Unfollowed(
            time_us=command.time_us,
            follower=command.follower,
            target=command.target,
            keep_history=command.keep_history,
        )
    )
    return UnfollowResult(changes.index, removed=True, unfinished=unfinished)


def _keep(command: UnfollowFeed, changes: Changes, view: View) -> None:
    """What was merged becomes rows of the follower's own; what was copied is that already."""
    key = PulledKey(command.tenant, command.follower, command.target).encode()
    pulled = view.get("follows", key)
    if pulled is None:
        return
    visible = pulled_rows(
        view,
        command.tenant,
        command.target,
        decode_pulled(pulled),
        scan_max=command.scan_max,
    )
    end = -len(command.target.encode())
    positions = [suffix[:end] for suffix, _ in islice(visible, command.copy_max)]
    _copy(command.follower, command.target, positions, changes)


def clear(command: ClearRows, changes: Changes, view: View) -> UnfollowResult:
    """Go on where the last command of this ended follow stopped."""
    key = OutboxKey(command.tenant, command.follower, command.target).encode()
    data = view.get("outbox", key)
    if data is None:
        return UnfollowResult(changes.index, removed=False)
    if deleted(command.tenant, view):
        changes.delete("outbox", key)
        return UnfollowResult(changes.index, removed=False)
    unfinished = _clear(command, decode_clearing(data), changes, view)
    return UnfollowResult(changes.index, removed=True, unfinished=unfinished)


def _clear(
    command: UnfollowFeed | ClearRows, clearing: Clearing, changes: Changes, view: View
) -> bool:
    """Remove rows that came by an ended follow, within the bounds; True if more may remain."""
    tenant, follower = command.tenant, command.follower
    prefix = FeedRowKey.prefix(tenant, follower)
    origin = command.target.encode()
    looked, removed, last = 0, 0, b""
    for suffix, value in islice(
        feed_rows(view, tenant, follower, clearing.after), command.scan_max
    ):
        looked, last = looked + 1, suffix
        if suffix[POSITION_BYTES:] == origin and read_number(value) <= clearing.index:
            changes.delete("feeds", prefix + suffix)
            removed += 1
        if removed >= command.rows_max:
            break
    unfinished = removed >= command.rows_max or looked >= command.scan_max
    key = OutboxKey(tenant, follower, command.target).encode()
    data = view.get("outbox", key)
    before = data is not None and decode_clearing(data).counted
    if unfinished:
        rest = Clearing(clearing.index, last + b"\0", clearing.counted)
        changes.put("outbox", key, encode(rest))
    else:
        changes.delete("outbox", key)
    tasks_max = command.tasks_max if isinstance(command, UnfollowFeed) else 0
    count((unfinished and clearing.counted) - before, tasks_max, changes, view)
    return unfinished
