"""Idempotency keys: a command that is sent again takes effect once."""

import msgspec

from feeds.commands import Once
from feeds.keys import DedupKey, ExpiryKey, after, write_number
from feeds.machine.changes import Changes
from feeds.results import (
    Placed,
    RecordResult,
    Rejected,
    Result,
    decode_result,
    encode_result,
)
from feeds.store.base import View
from feeds.values import Remembered, decode_remembered, encode

__all__ = ["recall", "remember"]

PRUNE_MAX = 8
"""Expired keys that one command forgets at most: more than it adds."""


def recall(once: Once, changes: Changes, view: View) -> Result | None:
    """What was answered when this key was used, or None if the command shall take effect.

    Answers that can say that they are given again do. A command that comes after another one is
    rejected where that one is not known.
    """
    stored = _stored(once.key, changes.tenant, view)
    if stored is None or stored.expires_us <= once.now_us:
        return _missing(once, changes.tenant, view)
    if stored.digest != once.digest:
        return Rejected(
            "conflict",
            f"idempotency key {once.key[:80]!r} was used with other content: use a new key",
        )
    result = decode_result(stored.result)
    if isinstance(result, Placed | RecordResult):
        return msgspec.structs.replace(result, duplicate=True)
    return result


def remember(once: Once, changes: Changes, view: View, result: Result) -> None:
    """Write down what this key was answered, and forget some that are expired."""
    tenant = changes.tenant
    _prune(once.now_us, changes, view)
    stored = _stored(once.key, tenant, view)
    if stored is not None:
        changes.delete("dedup", ExpiryKey(tenant, stored.expires_us, once.key).encode())
    value = Remembered(once.digest, once.expires_us, encode_result(result))
    changes.put("dedup", DedupKey(tenant, once.key).encode(), encode(value))
    changes.put("dedup", ExpiryKey(tenant, once.expires_us, once.key).encode(), b"")


def _missing(once: Once, tenant: str, view: View) -> Rejected | None:
    if once.after is None or _stored(once.after, tenant, view) is not None:
        return None
    return Rejected(
        "conflict",
        f"the write before it, with key {once.after[:80]!r}, has not taken effect: repeat that one",
    )


def _stored(key: str, tenant: str, view: View) -> Remembered | None:
    data = view.get("dedup", DedupKey(tenant, key).encode())
    return decode_remembered(data) if data else None


def _prune(now_us: int, changes: Changes, view: View) -> None:
    prefix = ExpiryKey.prefix(changes.tenant)
    stop = min(prefix + write_number(now_us + 1), after(prefix))
    for key, _ in view.scan("dedup", prefix, stop, PRUNE_MAX):
        expired = ExpiryKey.decode(key)
        changes.delete("dedup", key)
        changes.delete("dedup", DedupKey(expired.tenant, expired.key).encode())
