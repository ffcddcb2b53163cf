"""What users follow, held between their reads: a scan and a decoding less for each ranked read.

The engine tells each follow and unfollow before it is acknowledged, and what is held of that user
is dropped then. So a read sees every acknowledged follow, as if it had been read from the store.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from feeds.engine import FeedEngine
from feeds.events import Event, Followed, Unfollowed
from feeds.model import FeedId, Follow, TenantId

__all__ = ["HeldFollows"]


class HeldFollows:
    """The follows of the feeds that were asked for last, at most `follows_max` in all.

    What it returns is shared: to be read only. Any thread may ask.
    """

    def __init__(self, engine: FeedEngine, follows_max: int) -> None:
        self._engine = engine
        self._follows_max = follows_max
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[TenantId, str], Mapping[str, Follow]] = OrderedDict()
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
                return held
            changes = self._changes
        found = self._engine.follows(tenant, feed)
        with self._lock:
            # What was changed while it was read may be older than the change: not worth holding.
            if changes == self._changes:
                self._drop(key)
                self._held[key] = found
                self._count += len(found)
                while self._count > self._follows_max:
                    self._drop(next(iter(self._held)))
        return found

    def _listen(self, tenant: TenantId, index: int, events: Sequence[Event]) -> None:
        """Called by the thread that applies commands, after each."""
        del index
        if not events:
            self._forget(tenant)
        for event in events:
            if isinstance(event, Followed | Unfollowed):
                with self._lock:
                    self._changes += 1
                    self._drop((tenant, event.follower))

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
            self._count -= len(held)
