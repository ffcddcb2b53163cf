"""Creating tenants and their API keys."""

from feeds.commands import AddKey, CreateTenant
from feeds.credentials import ApiKey
from feeds.keys import ApiKeyKey, TenantKey
from feeds.machine.changes import Changes
from feeds.model import TenantId
from feeds.results import Accepted, Rejected
from feeds.store.base import View
from feeds.values import TenantRecord, decode_tenant, encode

__all__ = ["add_key", "create_tenant"]


def create_tenant(command: CreateTenant, changes: Changes, view: View) -> Accepted:
    """Write the tenant's record once."""
    key = TenantKey(command.tenant).encode()
    stored = view.get("config", key)
    if stored is not None:
        return Accepted(decode_tenant(stored).index)
    changes.put("config", key, encode(TenantRecord(command.now_us, changes.index)))
    return Accepted(changes.index)


def add_key(command: AddKey, changes: Changes, view: View) -> Accepted | Rejected:
    """Write the API key, unless its id belongs to another key."""
    key = ApiKeyKey(command.key_id).encode()
    record = encode(
        ApiKey(TenantId(command.tenant), command.key_id, command.secret_sha256, command.scopes)
    )
    stored = view.get("config", key)
    if stored is not None and stored != record:
        return Rejected("conflict", f"key id {command.key_id!r} is taken: choose another one")
    changes.put("config", key, record)
    return Accepted(changes.index)
