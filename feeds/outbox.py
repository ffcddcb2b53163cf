"""Work that one command left for later ones: fan-outs, and the rows of ended follows.

The store's outbox holds what remains, so that it goes on after a restart or at another node; this
class proposes the commands, one at a time for each task, and keeps no list of the tasks itself.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Final

from feeds.commands import ClearRows, FanOut
from feeds.config import FeedsConfig
from feeds.errors import Overloaded
from feeds.keys import FanOutKey, OutboxKey, after
from feeds.replication.base import Applied
from feeds.store.base import View

__all__ = ["IN_FLIGHT_MAX", "Outbox"]

IN_FLIGHT_MAX: Final = 8
"""Commands that are on their way at once: enough to keep the log busy, and what a write waits
behind at most."""


class Outbox:
    """Proposes the next command of each task until it is done; the tenants take turns.

    Of one tenant the tasks are taken in the order of their keys, and each is finished once begun.
    Where a command is refused for the moment (a crowd, a full disk), this waits for `go_on`. All
    is to be called on the replica's thread alone, and the proposed futures are done there.
    """

    def __init__(
        self,
        propose: Callable[[ClearRows | FanOut], "Future[Applied]"],
        view: View,
        config: FeedsConfig,
    ) -> None:
        self._propose = propose
        self._view = view
        self._config = config
        self._turns: dict[str, bytes] = {}
        """Tenants that may have tasks, the next first; and the key from which to look for them."""
        self._busy: set[bytes] = set()
        self._proposing = False
        self._refused = False
        self._stopped = False

    def resume(self) -> None:
        """Begin with what was left in the store."""
        start = b""
        while found := next(iter(self._view.scan("outbox", start, b"\xff", 1)), None):
            prefix = _prefix(found[0])
            self._turns[_tenant(prefix)] = prefix
            start = after(prefix)
        self.go_on()

    def add(self, keys: Iterable[bytes]) -> None:
        """There may be tasks under these keys."""
        for key in keys:
            prefix = _prefix(key)
            self._turns.setdefault(_tenant(prefix), prefix)
        self.go_on()

    def go_on(self) -> None:
        """Propose as much as may be on its way; a write has succeeded."""
        self._refused = False
        self._take_turns()

    def stop(self) -> None:
        """Propose nothing any more: another node leads, or the store is closed."""
        self._stopped = True

    def _take_turns(self) -> None:
        if self._proposing:
            return  # the loop below is on the stack, and goes on
        self._proposing = True
        try:
            while self._turns and len(self._busy) < IN_FLIGHT_MAX:
                if self._refused or self._stopped:
                    break
                tenant = next(iter(self._turns))
                start = self._turns.pop(tenant)
                key = self._find(tenant, start)
                if key is not None:  # else it has turns again once a task of it is done, or is new
                    self._turns[tenant] = key + b"\0"
                    self._take(key)
        finally:
            self._proposing = False

    def _find(self, tenant: str, start: bytes) -> bytes | None:
        """The next task of a tenant that has no command on its way, behind the last the first."""
        prefix = tenant.encode() + b"\0"
        for first, end in ((start, after(prefix)), (prefix, start)):
            for key, _ in self._view.scan("outbox", first, end, IN_FLIGHT_MAX):
                if key not in self._busy:
                    return key
        return None

    def _take(self, key: bytes) -> None:
        """Propose the next command of a task."""
        self._busy.add(key)
        try:
            future = self._propose(self._command(key))
        except Overloaded:
            self._done(key, refused=True)
        else:
            future.add_done_callback(
                lambda done: self._done(key, refused=done.exception() is not None)
            )

    def _command(self, key: bytes) -> ClearRows | FanOut:
        config = self._config
        if FanOutKey.has(key):
            task = FanOutKey.decode(key)
            return FanOut(
                tenant=task.tenant,
                place=task.place,
                position=task.position,
                rows_max=config.fanout_rows_max,
            )
        ended = OutboxKey.decode(key)
        return ClearRows(
            tenant=ended.tenant,
            follower=ended.follower,
            target=ended.target,
            rows_max=config.unfollow_rows_max,
            scan_max=config.unfollow_scan_max,
        )

    def _done(self, key: bytes, *, refused: bool) -> None:
        """A command has ended: unless its task is done, it comes first in its tenant's turn."""
        self._busy.discard(key)
        tenant = _tenant(_prefix(key))
        self._turns[tenant] = min(self._turns.get(tenant, key), key)
        self._refused |= refused
        self._take_turns()


def _prefix(key: bytes) -> bytes:
    return key[: key.index(b"\0") + 1]


def _tenant(prefix: bytes) -> str:
    return prefix[:-1].decode()
