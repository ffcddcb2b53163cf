"""Idempotency keys: a command that is sent again takes effect once.

How long a key is remembered is told by the cluster's clock, never by what a client has stamped: one
whose clock is ahead would make the cluster forget the keys of all others.
"""

from typing import Final

import msgspec

from feeds.commands import OPERATION, Once
from feeds.keys import DedupCountKey, DedupKey, ExpiryKey, after, write_number
from feeds.machine.changes import Changes
from feeds.machine.clock import CLOCK_US_MAX, clock_us
from feeds.results import (
    Placed,
    RecordResult,
    Rejected,
    Result,
    decode_result,
    encode_result,
)
from feeds.store.base import View
from feeds.values import KeyCount, Remembered, decode_key_count, decode_remembered, encode

__all__ = ["recall", "remember"]

PRUNE_MAX = 8
"""Expired keys that one command forgets at most: more than it adds."""

_COUNTED: Final = b"\1"
"""What stands beside a key that counts towards its tenant's limit."""


def recall(once: Once, changes: Changes, view: View) -> Result | None:
    """What was answered when this key was used, or None if the command shall take effect.

    Answers that can say that they are given again do. A command that comes after another one is
    rejected where that one is not known.
    """
    stored = _stored(once.key, changes.tenant, view)
    if stored is None or stored.expires_us <= _now_us(changes.tenant, view):
        return _missing(once, changes.tenant, view)
    if stored.digest != once.digest:
        return Rejected(
            "conflict",
            f"idempotency key {once.key[:80]!r} was used with other content: use a new key",
        )
    result = decode_result(stored.result)
    again = not once.key.startswith(OPERATION)  # a repeat by the engine is one write to its caller
    if again and isinstance(result, Placed | RecordResult):
        return msgspec.structs.replace(result, duplicate=True)
    return result


def remember(once: Once, changes: Changes, view: View, result: Result) -> None:
    """Write down what this key was answered, and forget some that are expired or too many."""
    tenant = changes.tenant
    gone: set[str] = set()
    kept = _key_count(tenant, view)
    clock = clock_us(view)
    now_us = kept.now_us(clock)
    expires_us = now_us + min(max(0, once.expires_us - once.now_us), CLOCK_US_MAX)
    kept = _prune(now_us, kept, gone, changes, view)
    kept = _make_room(once, kept, gone, changes, view)
    count = kept.count + (once.keys_max > 0)
    stored = _stored(once.key, tenant, view)
    if stored is not None and once.key not in gone:
        before = ExpiryKey(tenant, stored.expires_us, once.key).encode()
        count -= view.get("dedup", before) == _COUNTED
        changes.delete("dedup", before)
    value = Remembered(once.digest, expires_us, encode_result(result))
    expiry = ExpiryKey(tenant, expires_us, once.key).encode()
    changes.put("dedup", DedupKey(tenant, once.key).encode(), encode(value))
    changes.put("dedup", expiry, _COUNTED if once.keys_max else b"")
    kept = KeyCount(count, min(kept.since_us, expires_us), now_us - clock)
    changes.put("dedup", DedupCountKey(tenant).encode(), encode(kept))


def _missing(once: Once, tenant: str, view: View) -> Rejected | None:
    if once.after is None or _stored(once.after, tenant, view) is not None:
        return None
    return Rejected(
        "early",
        f"the write before it, with key {once.after[:80]!r}, has not taken effect: repeat that one",
    )


def _now_us(tenant: str, view: View) -> int:
    return _key_count(tenant, view).now_us(clock_us(view))


def _stored(key: str, tenant: str, view: View) -> Remembered | None:
    data = view.get("dedup", DedupKey(tenant, key).encode())
    return decode_remembered(data) if data else None


def _key_count(tenant: str, view: View) -> KeyCount:
    data = view.get("dedup", DedupCountKey(tenant).encode())
    return decode_key_count(data) if data else KeyCount()


def _prune(now_us: int, kept: KeyCount, gone: set[str], changes: Changes, view: View) -> KeyCount:
    """Forget keys that are expired, from where the last command left off.

    So a scan does not pass again over the traces that deleted keys leave in a store.
    """
    prefix, since_us = ExpiryKey.prefix(changes.tenant), kept.since_us
    start = prefix + write_number(since_us)
    stop = min(prefix + write_number(now_us + 1), after(prefix))
    found = list(view.scan("dedup", start, stop, PRUNE_MAX))
    for key, mark in found:
        kept = _forget(key, mark, kept, gone, changes)
    if len(found) < PRUNE_MAX:
        return KeyCount(kept.count, max(since_us, now_us + 1))
    return kept


def _make_room(
    once: Once, kept: KeyCount, gone: set[str], changes: Changes, view: View
) -> KeyCount:
    """Forget the keys that expire next, where a tenant has as many as are remembered."""
    if not once.keys_max or kept.count < once.keys_max:
        return kept
    prefix = ExpiryKey.prefix(changes.tenant)
    start = prefix + write_number(kept.since_us)
    since_us, count = kept.since_us, kept.count
    stays = False
    for key, mark in view.scan("dedup", start, after(prefix), 2 * PRUNE_MAX):
        if count < once.keys_max:
            break
        expiring = ExpiryKey.decode(key)
        if mark == _COUNTED and expiring.key != once.key:
            if expiring.key not in gone:
                count = _forget(key, mark, kept, gone, changes).count
                kept = KeyCount(count, since_us)
            since_us = since_us if stays else expiring.expires_us
        else:
            stays = True
    return KeyCount(count, since_us)


def _forget(key: bytes, mark: bytes, kept: KeyCount, gone: set[str], changes: Changes) -> KeyCount:
    expired = ExpiryKey.decode(key)
    gone.add(expired.key)
    changes.delete("dedup", key)
    changes.delete("dedup", DedupKey(expired.tenant, expired.key).encode())
    return KeyCount(kept.count - (mark == _COUNTED), expired.expires_us)
