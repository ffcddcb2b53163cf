"""Whose request it is: API keys, and the tenant that each of them speaks for.

A key is `hw_<key id>_<secret>`. The store holds the SHA-256 of the secret; a secret is 256 random
bits, so a fast hash is enough, and there is nothing to guess. The tenant comes from the key alone:
no path, parameter or body names one.
"""

import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from feeds.model import TenantId
from serving.errors import KeyRefused

__all__ = ["Authenticator", "KeyRecord", "NewKey", "hash_secret", "new_key"]

_BEARER = re.compile(r"Bearer +hw_([A-Za-z0-9]{1,32})_([A-Za-z0-9_-]{16,128})", re.ASCII)

_NO_SECRET: Final = bytes(32)


class KeyRecord(Protocol):
    """What the authenticator needs of a stored key (`feeds.engine.ApiKey`)."""

    @property
    def tenant(self) -> TenantId:
        """Whose key it is."""
        ...

    @property
    def secret_sha256(self) -> bytes:
        """The hash of its secret, 32 bytes."""
        ...


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: `text` is shown once, `secret_sha256` is what is stored."""

    key_id: str
    secret_sha256: bytes
    text: str

    def __repr__(self) -> str:
        """Without the secret."""
        return f"NewKey(key_id={self.key_id!r})"


def hash_secret(secret: str) -> bytes:
    """The SHA-256 of a secret, 32 bytes."""
    return hashlib.sha256(secret.encode()).digest()


def new_key() -> NewKey:
    """A key with 256 random bits of secret."""
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    return NewKey(key_id, hash_secret(secret), f"hw_{key_id}_{secret}")


class Authenticator:
    """Tells the tenant of a request from its `Authorization` header.

    Keys that were found are held for `cached_s` seconds, at most `cached_max` of them; a key that
    does not exist is never held, so that guessing cannot push the real ones out.
    """

    def __init__(
        self,
        find: Callable[[str], KeyRecord | None],
        monotonic: Callable[[], float],
        cached_max: int,
        cached_s: float,
    ) -> None:
        self._find = find
        self._monotonic = monotonic
        self._cached_max = cached_max
        self._cached_s = cached_s
        self._cache: OrderedDict[str, tuple[KeyRecord, float]] = OrderedDict()

    def tenant(self, authorization: str | None) -> TenantId:
        """The tenant that the header's key speaks for; raises `KeyRefused`."""
        if not authorization:
            raise KeyRefused("this request has no API key")
        match = _BEARER.fullmatch(authorization)
        if match is None:
            raise KeyRefused("the Authorization header does not hold a Headwater key")
        record = self._record(match[1])
        expected = record.secret_sha256 if record else _NO_SECRET
        right = hmac.compare_digest(expected, hash_secret(match[2]))
        if record is None or not right:
            raise KeyRefused("this API key is not valid")
        return record.tenant

    def _record(self, key_id: str) -> KeyRecord | None:
        now = self._monotonic()
        record, until = self._cache.get(key_id, (None, 0.0))
        if record is not None and now < until:
            self._cache.move_to_end(key_id)
            return record
        record = self._find(key_id)
        if record is None:
            self._cache.pop(key_id, None)
            return None
        self._cache[key_id] = (record, now + self._cached_s)
        if len(self._cache) > self._cached_max:
            self._cache.popitem(last=False)
        return record
