"""Who receives an activity, and what a follow brings with it. Pure: decisions over a view.

A feed is pushed (a row before each follower when it is posted to) until it has more followers than
the threshold; from then on it is pulled (merged when a follower's feed is read). Both show the same
pages, because the same rule says what belongs to a follower: what was posted after the follow, and
what is not older than the oldest activity that the follow copied.
"""

from collections.abc import Iterator
from itertools import islice

from feeds.keys import DegreesKey, FollowerKey, FollowKey, after, read_number
from feeds.model import TIME_MAX_US
from feeds.rows import CHUNK_MAX, home_rows, scan
from feeds.store.base import View
from feeds.values import Degrees, decode_degrees, decode_edge

__all__ = ["copied_rows", "degrees", "followers", "following_since", "since_of"]

_INVERT = 0xFFFF_FFFF_FFFF_FFFF


def degrees(view: View, tenant: str, feeds: list[str]) -> list[Degrees]:
    """How many edges each feed has, in one read."""
    keys = [DegreesKey(tenant, feed).encode() for feed in feeds]
    return [decode_degrees(data) if data else Degrees() for data in view.get_many("follows", keys)]


def followers(
    view: View, tenant: str, target: str, behind: str = "", chunk: int = CHUNK_MAX
) -> Iterator[str]:
    """Who follows a feed, in the order of their texts, from behind the text `behind`."""
    for follower, _ in _reverse(view, tenant, target, behind, chunk):
        yield follower


def following_since(
    view: View, tenant: str, target: str, behind: str, limit: int
) -> list[tuple[str, int]]:
    """The next `limit` followers, and the log index since when each follows."""
    found = list(islice(_reverse(view, tenant, target, behind, limit), limit))
    # Follows of release 0.1 have it in the edge alone.
    old = [follower for follower, index in found if not index]
    keys = [FollowKey(tenant, follower, target).encode() for follower in old]
    edges = zip(old, view.get_many("follows", keys), strict=True) if old else ()
    since = {follower: decode_edge(data).index for follower, data in edges if data is not None}
    return [
        (follower, read_number(index) if index else since[follower]) for follower, index in found
    ]


def _reverse(
    view: View, tenant: str, target: str, behind: str, chunk: int
) -> Iterator[tuple[str, bytes]]:
    prefix = FollowerKey.prefix(tenant, target)
    start = prefix + behind.encode() + b"\0" if behind else prefix
    for key, index in scan(view, "follows", start, after(prefix), chunk):
        yield key[len(prefix) :].decode(), index


def copied_rows(
    view: View, tenant: str, target: str, copy_limit: int, copy_max: int
) -> list[bytes]:
    """Positions of what a follow copies: the newest `copy_limit`, newest first.

    Activities with the time of the oldest are copied too, so that this time alone divides what
    belongs to the follower from what does not; where that would make more than `copy_max`, none of
    that time are copied.
    """
    if copy_limit == 0:
        return []
    copied: list[bytes] = []
    for position, _ in home_rows(view, tenant, target, chunk=copy_limit + 1):
        tied = bool(copied) and position[:8] == copied[-1][:8]
        if len(copied) >= copy_limit and not tied:
            break
        if len(copied) >= copy_max:
            return [other for other in copied if other[:8] != position[:8]]
        copied.append(position)
    return copied


def since_of(positions: list[bytes]) -> int:
    """The time of the oldest of these positions; with none, a time that nothing reaches."""
    return _INVERT - read_number(positions[-1]) if positions else TIME_MAX_US
