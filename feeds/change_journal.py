"""Which commands left events: a bounded journal in the store, and who reads it beside a node.

The applier notes the tenant of each such command in a ring, in one batch with its effects. Whoever
follows the store looks up the log indexes between two catch-ups there, and reads those commands'
events; so it hears of every change in log order and scans nothing. Where it was away for longer
than a round of the ring, it is told so instead.
"""

from collections.abc import Callable, Sequence
from typing import Final

import structlog

from feeds.events import Event
from feeds.keys import APPLIED, CHANGES, ChangeKey, EventKey, read_number, write_number
from feeds.model import TenantId
from feeds.rows import scan
from feeds.store.base import View, Write
from feeds.values import decode_event

__all__ = ["CHANGES_MAX", "ChangeJournal", "FollowedChanges", "Gap", "Listener"]

_log = structlog.get_logger(__name__)

CHANGES_MAX: Final = 1 << 16
"""Commands that the journal holds; who is further behind must load anew. About 2 MB."""

_CHUNK: Final = 64
"""Commands whose events are in memory at once: 64,000 events at most."""

Listener = Callable[[TenantId, int, Sequence[Event]], None]
"""(tenant, log index, events) of an applied command; the store may be further already."""

Gap = Callable[[], None]
"""Called where changes were missed: whatever was derived from them must be read anew."""


class ChangeJournal:
    """The writing side, of whoever applies the log."""

    def __init__(self, view: View, size: int = CHANGES_MAX) -> None:
        """Go on with the journal in `view`; one of another size, or none, begins anew."""
        head = view.get("meta", CHANGES)
        self._size = size
        self._begun = head is not None and read_number(head) == size

    def note(self, index: int, tenant: str | None) -> Sequence[Write]:
        """What to write with the effects of a command, of every one and in log order.

        `tenant` is whose events it leaves; None if it leaves none.
        """
        writes = []
        if not self._begun:
            self._begun = True
            head = write_number(self._size) + write_number(index)
            writes.append(Write("meta", CHANGES, head))
        if tenant is not None:
            change = ChangeKey(index % self._size).encode()
            writes.append(Write("meta", change, write_number(index) + tenant.encode()))
        return writes


class FollowedChanges:
    """The reading side: what a followed store's commands did, told in log order on one thread.

    Each listener hears of every command with events once; where some were missed, its gap is
    called instead. When a listener is called the store may be further than the command.
    """

    def __init__(self, view: View) -> None:
        """Tell what comes behind the view as it is now."""
        self._view = view
        self._index = _applied(view)
        self._listeners: tuple[tuple[Listener, Gap], ...] = ()

    def subscribe(self, listener: Listener, gap: Gap) -> None:
        """Call `listener` for every command that leaves events, from now on; any thread may."""
        self._listeners = (*self._listeners, (listener, gap))

    def advance(self) -> None:
        """Tell what the view has seen since; it must not move meanwhile.

        Raises `StorageError` where the view cannot be read; the next call goes on from there.
        """
        applied = _applied(self._view)
        if applied < self._index or not self._covers(applied):
            _log.warning("changes_missed", seen=self._index, applied=applied)
            self._index = applied
            self._tell_gap()
        while self._index < applied:
            last = min(self._index + _CHUNK, applied)
            for tenant, index, events in self._read(self._index + 1, last):
                self._tell(tenant, index, events)
            self._index = last

    def _covers(self, applied: int) -> bool:
        """Whether the journal knows of every command behind the last that was told."""
        if applied == self._index:
            return True
        head = self._view.get("meta", CHANGES)
        if head is None:
            return False
        size, since = read_number(head), read_number(head, 8)
        return applied - self._index <= size and since <= self._index + 1

    def _read(self, first: int, last: int) -> list[tuple[TenantId, int, list[Event]]]:
        """The commands from `first` to `last` that left events, and those."""
        head = self._view.get("meta", CHANGES)
        assert head is not None
        size = read_number(head)
        indexes = range(first, last + 1)
        slots = [ChangeKey(index % size).encode() for index in indexes]
        noted = zip(indexes, self._view.get_many("meta", slots), strict=True)
        tenants = {
            index: TenantId(data[8:].decode())
            for index, data in noted
            if data is not None and read_number(data) == index
        }
        events: dict[int, list[Event]] = {index: [] for index in tenants}
        for tenant in dict.fromkeys(tenants.values()):
            of_tenant = [index for index, other in tenants.items() if other == tenant]
            start = EventKey(tenant, of_tenant[0], 0).encode()
            stop = EventKey(tenant, of_tenant[-1] + 1, 0).encode()
            for key, data in scan(self._view, "events", start, stop):
                events[EventKey.decode(key).index].append(decode_event(data))
        return [(tenant, index, events[index]) for index, tenant in tenants.items()]

    def _tell(self, tenant: TenantId, index: int, events: Sequence[Event]) -> None:
        for listener, _ in self._listeners:
            try:
                listener(tenant, index, events)
            except Exception:  # noqa: BLE001 - a listener must not stop the one who follows
                _log.exception("listener_failed", tenant=tenant, index=index)

    def _tell_gap(self) -> None:
        for _, gap in self._listeners:
            try:
                gap()
            except Exception:  # noqa: BLE001 - as above
                _log.exception("listener_failed")


def _applied(view: View) -> int:
    applied = view.get("meta", APPLIED)
    return read_number(applied) if applied else 0
