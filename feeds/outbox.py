"""Work that one command left for later ones: fan-outs, rows of ended follows, deleted tenants.

The store's outbox holds what remains, so that it goes on after a restart or at another node; this
class proposes the commands, one at a time for each task, and holds few tasks in memory.
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from feeds.commands import ClearRows, FanOut, WipeTenant
from feeds.config import FeedsConfig
from feeds.errors import Overloaded
from feeds.keys import FanOutKey, OutboxKey, WipeKey, after
from feeds.replication.base import Applied
from feeds.store.base import View

__all__ = ["HELD_MAX", "IN_FLIGHT_MAX", "Outbox"]

IN_FLIGHT_MAX: Final = 8
"""Commands that are on their way at once: enough to keep the log busy, and what a write waits
behind at most."""

HELD_MAX: Final = 100
"""Tasks of a tenant that are read from the store at once. New ones are held without reading it: a
scan would pass over the traces of all that were done before."""


@dataclass(slots=True)
class _Queue:
    """The tasks of one tenant: those that come next, and where in the store others may be."""

    keys: deque[bytes] = field(default_factory=deque)
    rest: bytes | None = None
    """There may be others from this key on."""
    again: bytes | None = None
    """There may be others between this key and `rest`: they come after the last."""


class Outbox:
    """Proposes the next command of each task until it is done; the tenants take turns.

    Of one tenant those that were left first come first, as far as they are held, and each is
    finished once begun. Where a command is refused for the moment (a crowd, a full disk), this
    waits for `add`. All is to be called on the replica's thread alone, and the proposed futures are
    done there.
    """

    def __init__(
        self,
        propose: Callable[[ClearRows | FanOut | WipeTenant], "Future[Applied]"],
        view: View,
        config: FeedsConfig,
    ) -> None:
        self._propose = propose
        self._view = view
        self._config = config
        self._turns: dict[str, _Queue] = {}  # the tenant whose turn is next comes first
        self._held: set[bytes] = set()
        self._busy: set[bytes] = set()
        self._proposing = False
        self._refused = False
        self._stopped = False

    def resume(self) -> None:
        """Begin with what was left in the store."""
        start = b""
        while found := next(iter(self._view.scan("outbox", start, b"\xff", 1)), None):
            prefix = _prefix(found[0])
            self._queue(found[0]).rest = prefix
            start = after(prefix)
        self._take_turns()

    def add(self, keys: Iterable[bytes]) -> None:
        """A write has succeeded, and left what is under these keys, if that was not done since."""
        for key in keys:
            if key in self._held or key in self._busy:
                continue
            queue = self._queue(key)
            few = queue.rest is None and queue.again is None and len(queue.keys) < HELD_MAX
            if few:
                self._hold(queue, key)
            elif queue.rest is None or key < queue.rest:
                queue.again = min(queue.again or key, key)
        self._refused = False
        self._take_turns()

    def stop(self) -> None:
        """Propose nothing any more: another node leads, or the store is closed."""
        self._stopped = True

    def _take_turns(self) -> None:
        """Propose as much as may be on its way."""
        if self._proposing:
            return  # the loop below is on the stack, and goes on
        self._proposing = True
        try:
            while self._turns and len(self._busy) < IN_FLIGHT_MAX:
                if self._refused or self._stopped:
                    break
                tenant = next(iter(self._turns))
                queue = self._turns.pop(tenant)
                key = self._find(queue, tenant)
                if key is not None:  # else it has turns again once a task of it is done, or is new
                    self._turns[tenant] = queue
                    self._take(key)
        finally:
            self._proposing = False

    def _find(self, queue: _Queue, tenant: str) -> bytes | None:
        """The next task that is still to be done and has no command on its way."""
        while True:
            while queue.keys:
                key = queue.keys.popleft()
                self._held.discard(key)
                if self._view.get("outbox", key) is not None:
                    return key
            if queue.rest is None:
                queue.rest, queue.again = queue.again, None
            if queue.rest is None:
                return None
            self._refill(queue, queue.rest, tenant)

    def _refill(self, queue: _Queue, start: bytes, tenant: str) -> None:
        end = after(tenant.encode() + b"\0")
        found = [key for key, _ in self._view.scan("outbox", start, end, HELD_MAX)]
        for key in found:
            self._hold(queue, key)
        queue.rest = found[-1] + b"\0" if len(found) == HELD_MAX else None

    def _hold(self, queue: _Queue, key: bytes, *, first: bool = False) -> None:
        if key in self._held or key in self._busy:
            return
        self._held.add(key)
        if first:
            queue.keys.appendleft(key)
        else:
            queue.keys.append(key)

    def _queue(self, key: bytes) -> _Queue:
        return self._turns.setdefault(_tenant(_prefix(key)), _Queue())

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

    def _command(self, key: bytes) -> ClearRows | FanOut | WipeTenant:
        config = self._config
        if WipeKey.has(key):
            return WipeTenant(tenant=WipeKey.decode(key).tenant, rows_max=config.wipe_rows_max)
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
        """A command has ended: its task is the next of its tenant, unless it is done."""
        self._busy.discard(key)
        self._hold(self._queue(key), key, first=True)
        self._refused |= refused
        self._take_turns()


def _prefix(key: bytes) -> bytes:
    return key[: key.index(b"\0") + 1]


def _tenant(prefix: bytes) -> str:
    return prefix[:-1].decode()
