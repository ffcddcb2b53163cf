"""Work that one command left for later ones: clearing the rows of ended follows.

The store's outbox holds what remains, so that it goes on after a restart; this class proposes the
commands, one at a time for each ended follow.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import islice
from typing import Final

from feeds.commands import ClearRows
from feeds.config import FeedsConfig
from feeds.errors import Overloaded, StorageFull
from feeds.keys import OutboxKey
from feeds.results import UnfollowResult
from feeds.rows import scan
from feeds.store.base import View

__all__ = ["OPEN_MAX", "Outbox"]

OPEN_MAX: Final = 1_000
"""Ended follows that are worked on at once; the others stay in the store until these are done."""


class Outbox:
    """Proposes the next command of each ended follow until its rows are gone.

    Where a command is refused for the moment (a crowd, a full disk), it waits for a write that
    succeeds. After `resume`, to be called on the replica's thread alone.
    """

    def __init__(
        self,
        propose: Callable[[ClearRows], "Future[UnfollowResult]"],
        view: View,
        config: FeedsConfig,
    ) -> None:
        self._propose = propose
        self._view = view
        self._config = config
        self._open: set[OutboxKey] = set()
        self._refused: deque[OutboxKey] = deque()
        self._more = False

    def resume(self) -> None:
        """Go on with what was left in the store."""
        found = scan(self._view, "outbox", b"", b"\xff")
        keys = [OutboxKey.decode(key) for key, _ in islice(found, OPEN_MAX)]
        self._more = len(keys) == OPEN_MAX
        for key in keys:
            self.clear(key)

    def clear(self, key: OutboxKey) -> None:
        """Go on with one ended follow, now or when there is room for it."""
        if key in self._open:
            return  # its next command sees what was added to it
        if len(self._open) >= OPEN_MAX:
            self._more = True
            return
        self._open.add(key)
        self._next(key)

    def retry(self) -> None:
        """A write has succeeded: try again one that was refused."""
        if self._refused:
            self._next(self._refused.popleft())

    def _next(self, key: OutboxKey) -> None:
        command = ClearRows(
            tenant=key.tenant,
            follower=key.follower,
            target=key.target,
            rows_max=self._config.unfollow_rows_max,
            scan_max=self._config.unfollow_scan_max,
        )
        try:
            future = self._propose(command)
        except Overloaded:
            self._refused.append(key)
        else:
            future.add_done_callback(lambda done: self._cleared(key, done))

    def _cleared(self, key: OutboxKey, done: "Future[UnfollowResult]") -> None:
        error = done.exception()
        if isinstance(error, StorageFull):
            self._refused.append(key)
        elif error is None and done.result().unfinished:
            self._next(key)
        else:  # done; or the replica has stopped, and the next one goes on from the store
            self._open.discard(key)
            if error is None and self._more and not self._open:
                self.resume()
