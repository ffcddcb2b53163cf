"""What a tenant has stored, and its quota of it."""

from feeds.errors import QuotaExceeded
from feeds.keys import UsageKey
from feeds.machine.changes import Changes
from feeds.quotas import Usage
from feeds.store.base import View
from feeds.values import decode_usage, encode

__all__ = ["release", "store"]


def store(
    activities: int, storage_bytes: int, storage_max: int | None, changes: Changes, view: View
) -> None:
    """Note that a command stores so much more; once a command. None: what is stored is not counted.

    Raises `QuotaExceeded` where that would be more than `storage_max` bytes.
    """
    if storage_max is None:
        return
    key = UsageKey(changes.tenant).encode()
    data = view.get("meta", key)
    usage = (decode_usage(data) if data else Usage()).plus(activities, storage_bytes)
    if storage_bytes > 0 and usage.storage_bytes > storage_max:
        raise QuotaExceeded(
            f"tenant {changes.tenant} would have {usage.storage_bytes} bytes of activities, its "
            f"quota storage_bytes is {storage_max}: remove some, or ask for more; nothing was "
            "changed"
        )
    changes.put("meta", key, encode(usage))


def release(storage_bytes: int, changes: Changes, view: View) -> None:
    """Note that a command removes an activity of so many bytes; once a command."""
    key = UsageKey(changes.tenant).encode()
    data = view.get("meta", key)
    if data is not None:
        changes.put("meta", key, encode(decode_usage(data).plus(-1, -storage_bytes)))
