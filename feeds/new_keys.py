"""New API keys: their secrets are made here, told once, and stored as hashes alone."""

import secrets
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from feeds.credentials import APP_SCOPES, format_api_key, hash_secret
from feeds.engine import FeedEngine
from feeds.model import TenantId

__all__ = ["NewKey", "create_key", "rotate_key"]


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; `api_key` is told to its owner and to nobody else."""

    key_id: str
    api_key: str
    stored: "Future[None]"
    """Done once the key is good."""


def create_key(engine: FeedEngine, tenant: TenantId, scopes: Sequence[str] = APP_SCOPES) -> NewKey:
    """Another key of a tenant, or of an operator; raises as `FeedEngine.add_key`."""
    key_id, secret = _names()
    stored = engine.add_key(tenant, key_id, hash_secret(secret), scopes)
    return NewKey(key_id, format_api_key(key_id, secret), stored)


def rotate_key(engine: FeedEngine, tenant: TenantId, key_id: str, grace_s: int) -> NewKey:
    """A key in place of an old one; raises as `FeedEngine.rotate_key`."""
    new_key_id, secret = _names()
    stored = engine.rotate_key(tenant, key_id, new_key_id, hash_secret(secret), grace_s)
    return NewKey(new_key_id, format_api_key(new_key_id, secret), stored)


def _names() -> tuple[str, str]:
    return secrets.token_hex(6), secrets.token_urlsafe(32)
