"""The writes of one command, as they are decided."""

from feeds.events import Event
from feeds.keys import EventKey, write_number
from feeds.store.base import Written
from feeds.values import encode

__all__ = ["Changes"]


class Changes:
    """Collects the writes and the facts of one command; it reads nothing back."""

    def __init__(self, tenant: str, index: int) -> None:
        self.tenant = tenant
        self.index = index
        self.writes: list[Written] = []
        self.events: list[Event] = []
        self.of_tenant = False
        """Whether the tenant itself changed: its keys, quotas or configs, or that it exists."""
        self._event_prefix = b""

    def put(self, family: str, key: bytes, value: bytes | None) -> None:
        """Set a key; None deletes it."""
        self.writes.append((family, key, value))

    def delete(self, family: str, key: bytes) -> None:
        """Delete a key."""
        self.writes.append((family, key, None))

    def tell(self, event: Event) -> None:
        """Leave a fact in the event log, behind those told before."""
        if not self.events:  # most commands leave none
            self._event_prefix = EventKey.prefix(self.tenant) + write_number(self.index)
        key = self._event_prefix + len(self.events).to_bytes(4)
        self.writes.append(("events", key, encode(event)))
        self.events.append(event)
