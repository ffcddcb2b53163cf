"""Work that one command left for later ones: clearing the rows of ended follows.

The store's outbox holds what remains, so that it goes on after a restart; this class proposes the
commands, one at a time for each ended follow.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from feeds.commands import ClearRows
from feeds.config import FeedsConfig
from feeds.errors import Overloaded, StorageError
from feeds.keys import OutboxKey
from feeds.results import UnfollowResult
from feeds.rows import scan
from feeds.store.base import View

__all__ = ["Outbox"]


class Outbox:
    """Proposes the next command of each ended follow until its rows are gone."""

    def __init__(
        self, propose: Callable[[ClearRows], "Future[UnfollowResult]"], config: FeedsConfig
    ) -> None:
        self._propose = propose
        self._config = config
        self._delayed: deque[OutboxKey] = deque()

    def resume(self, view: View) -> None:
        """Go on with everything that was left."""
        for key, _ in list(scan(view, "outbox", b"", b"\xff")):
            self.clear(OutboxKey.decode(key))

    def clear(self, key: OutboxKey) -> None:
        """Go on with one ended follow; where too many writes wait, `retry` does it later."""
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
            self._delayed.append(key)
        except StorageError:
            return  # it is in the store, and goes on when the engine is opened again
        else:
            future.add_done_callback(lambda done: self._cleared(key, done))

    def retry(self) -> None:
        """Try again what was delayed, now that a write has left the queue."""
        if self._delayed:
            self.clear(self._delayed.popleft())

    def _cleared(self, key: OutboxKey, done: "Future[UnfollowResult]") -> None:
        if done.exception() is None and done.result().unfinished:
            self.clear(key)
