"""Idempotency keys, stamped into commands: what is sent again takes effect once. Pure.

A write whose caller gave no key can be given one of its own (`operation`), so that it may be
repeated where the answer was lost.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from feeds.commands import OPERATION, Once
from feeds.errors import InvalidInput
from feeds.events import Engagement, Impression

__all__ = ["LastingKey", "digest_content", "digest_events", "operation", "stamp"]

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class LastingKey:
    """An idempotency key that is remembered for `ttl_s` seconds, not for `dedup_ttl_s`.

    With `after`, the text of another one, the write is refused as `Conflict` unless that one has
    taken effect: writes that are sent without waiting then take effect up to some place, and
    nothing behind it.
    """

    text: str
    ttl_s: int
    after: str | None = None


def operation(name: str, ttl_s: int, now_us: int, keys_max: int) -> Once:
    """The key of one write, which is sent as it is however often; `name` is unique."""
    return Once(OPERATION + name, b"", now_us, now_us + ttl_s * 1_000_000, None, keys_max)


def stamp(key: LastingKey, content: bytes, now_us: int, keys_max: int = 0) -> Once:
    """The key as a command holds it; raises `InvalidInput` where it is empty."""
    if not key.text:
        raise InvalidInput("the idempotency key is empty: send a unique text, or none")
    expires_us = now_us + key.ttl_s * 1_000_000
    return Once(key.text, digest_content(content), now_us, expires_us, key.after, keys_max)


def digest_content(content: bytes) -> bytes:
    """What tells the content of a key from any other; 16 bytes."""
    return hashlib.blake2b(content, digest_size=16).digest()


def digest_events(events: Sequence[Impression | Engagement]) -> bytes:
    """The digest of events that are recorded under a key of their own content."""
    return digest_content(_encode(tuple(events)))
