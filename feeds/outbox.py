"""Work that one command left for later ones: clearing the rows of ended follows.

The store's outbox holds what remains, so that it goes on after a restart; this class proposes the
commands, one at a time for each ended follow.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from feeds.commands import ClearRows
from feeds.config import FeedsConfig
from feeds.errors import Overloaded, StorageError, StorageFull
from feeds.keys import OutboxKey
from feeds.results import UnfollowResult
from feeds.rows import scan
from feeds.store.base import View

__all__ = ["Outbox"]


class Outbox:
    """Proposes the next command of each ended follow until its rows are gone.

    Where a command is refused for the moment (a crowd, a full disk), it waits for a write that
    succeeds.
    """

    def __init__(
        self, propose: Callable[[ClearRows], "Future[UnfollowResult]"], config: FeedsConfig
    ) -> None:
        self._propose = propose
        self._config = config
        self._refused: deque[OutboxKey] = deque()

    def resume(self, view: View) -> None:
        """Go on with everything that was left."""
        for key, _ in list(scan(view, "outbox", b"", b"\xff")):
            self.clear(OutboxKey.decode(key))

    def clear(self, key: OutboxKey) -> None:
        """Go on with one ended follow; where it is refused for the moment, `retry` does it."""
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
        except StorageError:
            return  # it is in the store, and goes on when the engine is opened again
        else:
            future.add_done_callback(lambda done: self._cleared(key, done))

    def retry(self) -> None:
        """Try again one that was refused, now that a write has succeeded."""
        if self._refused:
            self.clear(self._refused.popleft())

    def _cleared(self, key: OutboxKey, done: "Future[UnfollowResult]") -> None:
        error = done.exception()
        if isinstance(error, StorageFull):
            self._refused.append(key)
        elif error is None and done.result().unfinished:
            self.clear(key)
