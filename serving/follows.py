"""What users follow, held between their reads: a scan and a decoding less for each ranked read.

The engine tells each follow and unfollow before it is acknowledged; it waits beside what is held of
that user, and the next read takes it in. So a read sees every acknowledged follow, as if it had
been read from the store, and one who follows thousands need not be read anew for one more.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from feeds.engine import FeedEngine
from feeds.events import Event, Followed, Unfollowed
from feeds.model import FeedId, Follow, TenantId

__all__ = ["CHANGES_MAX", "HeldFollows"]

CHANGES_MAX: Final = 100
"""Changes that wait for a user's next read at most; beyond it the user is read anew."""


@dataclass(slots=True)
class _Held:
    """The follows of a feed as of a log index, and what changed since."""

    index: int
    follows: Mapping[str, Follow]
    waiting: list[tuple[int, Followed | Unfollowed]] = field(default_factory=list)

    def take_in(self, feed: FeedId) -> int:
        """Take in what waits, into a new mapping in the store's order; how many more there are."""
        changed = dict(self.follows)
        for index, event in self.waiting:
            changed.pop(event.target, None)
            if isinstance(event, Followed):
                target = FeedId(*event.target.split(":", 1))
                changed[event.target] = Follow(
                    feed, target, event.time_us, index, event.since_us, event.derived
                )
        self.waiting.clear()
        more = len(changed) - len(self.follows)
        self.follows = {target: changed[target] for target in sorted(changed)}
        return more


class HeldFollows:
    """The follows of the feeds that were asked for last, at most `follows_max` in all.

    What it returns is shared: to be read only. Any thread may ask.
    """

    def __init__(self, engine: FeedEngine, follows_max: int) -> None:
        self._engine = engine
        self._follows_max = follows_max
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[TenantId, str], _Held] = OrderedDict()
        self._count = 0
        self._changes = 0
        engine.subscribe(self._listen, self._missed)

    def __len__(self) -> int:
        """How many follows are held."""
        return self._count

    def of(self, tenant: TenantId, feed: FeedId) -> Mapping[str, Follow]:
        """What the feed follows, by the target's name; as `FeedEngine.follows`."""
        key = (tenant, str(feed))
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                self._held.move_to_end(key)
                if held.waiting:
                    self._count += held.take_in(feed)
                    self._trim()
                return held.follows
            changes = self._changes
        index = self._engine.applied_index()
        found = self._engine.follows(tenant, feed)
        with self._lock:
            # What was changed while it was read may be older than the change: not worth holding.
            if changes == self._changes:
                self._drop(key)
                self._held[key] = _Held(index, found)
                self._count += len(found)
                self._trim()
        return found

    def _trim(self) -> None:
        while self._count > self._follows_max:
            self._drop(next(iter(self._held)))

    def _listen(self, tenant: TenantId, index: int, events: Sequence[Event]) -> None:
        """Called by the thread that applies commands, after each."""
        if not events:
            self._forget(tenant)
        for event in events:
            if isinstance(event, Followed | Unfollowed):
                with self._lock:
                    self._changes += 1
                    self._note((tenant, event.follower), index, event)

    def _note(self, key: tuple[TenantId, str], index: int, event: Followed | Unfollowed) -> None:
        """Let a change wait that what is held does not have yet."""
        held = self._held.get(key)
        if held is None or index <= held.index:
            return
        held.waiting.append((index, event))
        if len(held.waiting) > CHANGES_MAX:
            self._drop(key)

    def _forget(self, tenant: TenantId) -> None:
        """The tenant itself was changed, perhaps deleted."""
        with self._lock:
            self._changes += 1
            for key in [key for key in self._held if key[0] == tenant]:
                self._drop(key)

    def _missed(self) -> None:
        """Called by the thread that catches up with a node's store, where commands were missed."""
        with self._lock:
            self._changes += 1
            self._held.clear()
            self._count = 0

    def _drop(self, key: tuple[TenantId, str]) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._count -= len(held.follows)
