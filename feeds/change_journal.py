"""Which commands left events: a bounded journal in the store, and who reads it beside a node.

The applier notes each command, and the tenant whose events it left, in a ring, in one batch with
its effects. Whoever follows the store looks up the log indexes between two catch-ups there, and
reads those commands' events; so it hears of every change in log order and scans nothing. Where it
was away for longer than a round of the ring, it is told so instead.
"""

from collections.abc import Callable, Sequence
from typing import Final

import structlog

from feeds.events import Event
from feeds.keys import APPLIED, CHANGES, ChangeKey, EventKey, read_number, write_number
from feeds.model import TenantId
from feeds.rows import scan
from feeds.store.base import View, Written
from feeds.values import decode_event

__all__ = ["CHANGES_MAX", "ChangeJournal", "FollowedChanges", "Gap", "Listener"]

_log = structlog.get_logger(__name__)

CHANGES_MAX: Final = 1 << 16
"""Commands that the journal holds; who is further behind must load anew. About 2 MB."""

_CHUNK: Final = 64
"""Commands whose events are in memory at once: 64,000 events at most."""

Listener = Callable[[TenantId, int, Sequence[Event]], None]
"""(tenant, log index, events) of an applied command; the store may be further already.

Without events the tenant itself changed: its keys, its quotas, its ranking configs, or whether it
exists.
"""

Gap = Callable[[], None]
"""Called where changes were missed: whatever was derived from them must be read anew."""


class ChangeJournal:
    """The writing side, of whoever applies the log."""

    def __init__(self, view: View, size: int = CHANGES_MAX) -> None:
        """Go on with the journal in `view`, or begin one."""
        self._size = size
        self._begun = view.get("meta", CHANGES) == write_number(size)

    def note(self, index: int, tenant: str | None) -> Sequence[Written]:
        """What to write with the effects of a command; of every one, so that none can be missed.

        `tenant` is whose events it leaves; None if it leaves none.
        """
        value = write_number(index)
        if tenant:
            value += tenant.encode()
        noted = ("meta", ChangeKey.of(index % self._size), value)
        if self._begun:
            return (noted,)
        self._begun = True
        return (noted, ("meta", CHANGES, write_number(self._size)))


class FollowedChanges:
    """The reading side: what a followed store's commands did, told in log order on one thread.

    Each listener hears of every command with events once; where the journal does not know of one,
    its gap is called instead. When a listener is called the store may be further than the command.
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
        while self._index != applied:
            last = min(self._index + _CHUNK, applied)
            tenants = self._tenants(self._index + 1, applied, last)
            if tenants is None:
                _log.warning("changes_missed", seen=self._index, applied=applied)
                self._index = applied
                self._tell_gap()
                return
            for tenant, index, events in self._read(tenants):
                self._tell(tenant, index, events)
            self._index = last

    def _tenants(self, first: int, applied: int, last: int) -> dict[int, TenantId] | None:
        """Whose events the commands from `first` to `last` left; None if the journal lacks one.

        So it does if the store went back, if the ring came round, and where another release, which
        keeps no journal, applied it.
        """
        head = self._view.get("meta", CHANGES)
        if head is None or not 0 <= applied - first < read_number(head):
            return None
        indexes = range(first, last + 1)
        slots = [ChangeKey.of(index % read_number(head)) for index in indexes]
        tenants: dict[int, TenantId] = {}
        for index, data in zip(indexes, self._view.get_many("meta", slots), strict=True):
            if data is None or read_number(data) != index:
                return None
            if tenant := data[8:].decode():
                tenants[index] = TenantId(tenant)
        return tenants

    def _read(self, tenants: dict[int, TenantId]) -> list[tuple[TenantId, int, list[Event]]]:
        """The events of commands, by index; a tenant's are one scan."""
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
