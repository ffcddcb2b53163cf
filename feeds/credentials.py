"""API keys: how one is written, and how its secret is checked without being stored. Pure.

A key is written `hw_<key id>_<secret>`. The key id is public and finds the record; of the secret
only the SHA-256 is stored, which is enough because the secret is 32 random bytes, not a password.
"""

import hashlib
import hmac
import re
from typing import Any, Final

import msgspec

from feeds.errors import InvalidInput
from feeds.model import TenantId, format_time

__all__ = [
    "APP_SCOPES",
    "NO_TENANT",
    "OPERATOR",
    "SCOPES",
    "ApiKey",
    "check_key_id",
    "describe_key",
    "format_api_key",
    "hash_secret",
    "parse_api_key",
    "verify",
]

SCOPES: Final = ("read", "write", "admin")
"""What an API key of a tenant may allow; `admin` is to manage the tenant's keys."""

APP_SCOPES: Final = ("read", "write")
"""What a key allows unless it is told: what an app needs."""

OPERATOR: Final = "operator"
"""The one scope of a key that belongs to no tenant: to make, bound and delete tenants."""

NO_TENANT: Final = TenantId("")
"""What stands in place of the tenant in an operator's key; no tenant can have this name."""

_KEY_ID = re.compile(r"[a-z0-9]{4,64}")
_WRITTEN = re.compile(r"hw_([a-z0-9]{4,64})_([A-Za-z0-9_-]{16,256})")


class ApiKey(msgspec.Struct, frozen=True, array_like=True):
    """An API key of a tenant, or of an operator; `secret_sha256` is 32 bytes.

    It is good until `expires_us` (0: for ever). `created_us` is 0 where it was not noted.
    """

    tenant: TenantId
    key_id: str
    secret_sha256: bytes
    scopes: tuple[str, ...] = APP_SCOPES
    created_us: int = 0
    expires_us: int = 0

    def expired(self, now_us: int) -> bool:
        """Whether it is good no more."""
        return 0 < self.expires_us <= now_us


def describe_key(key: ApiKey) -> dict[str, Any]:  # Any: JSON
    """What may be told of a key: nothing of its secret."""
    return {
        "key_id": key.key_id,
        "scopes": list(key.scopes),
        "created": format_time(key.created_us) if key.created_us else None,
        "expires": format_time(key.expires_us) if key.expires_us else None,
    }


def check_key_id(key_id: str) -> str:
    """The text as a key id; raises `InvalidInput` where it cannot be one."""
    if not _KEY_ID.fullmatch(key_id):
        raise InvalidInput(
            f"key id {key_id[:80]!r} cannot be used: write 4 to 64 lower-case letters and digits"
        )
    return key_id


def format_api_key(key_id: str, secret: str) -> str:
    """The key as its owner keeps it.

    >>> format_api_key("demo1", "0123456789abcdef")
    'hw_demo1_0123456789abcdef'
    """
    return f"hw_{key_id}_{secret}"


def parse_api_key(text: str) -> tuple[str, str] | None:
    """(key id, secret) of a written key, or None if it is not one."""
    match = _WRITTEN.fullmatch(text)
    return (match[1], match[2]) if match else None


def hash_secret(secret: str) -> bytes:
    """What is stored of a secret: its SHA-256, 32 bytes."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def verify(api_key: ApiKey | None, secret: str) -> bool:
    """True if this is the key's secret; takes as long for every wrong one, or for no key."""
    stored = api_key.secret_sha256 if api_key is not None else bytes(32)
    return hmac.compare_digest(stored, hash_secret(secret)) and api_key is not None
