"""Creating tenants."""

from feeds.commands import CreateTenant
from feeds.keys import TenantKey
from feeds.machine.changes import Changes
from feeds.results import Accepted
from feeds.store.base import View
from feeds.values import TenantRecord, decode_tenant, encode

__all__ = ["create_tenant"]


def create_tenant(command: CreateTenant, changes: Changes, view: View) -> Accepted:
    """Write the tenant's record once."""
    key = TenantKey(command.tenant).encode()
    stored = view.get("config", key)
    if stored is not None:
        return Accepted(decode_tenant(stored).index)
    changes.put("config", key, encode(TenantRecord(command.now_us, changes.index)))
    return Accepted(changes.index)
