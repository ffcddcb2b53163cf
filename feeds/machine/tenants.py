"""Tenants: created, and what they may use."""

import msgspec

from feeds.commands import CreateTenant, SetQuotas
from feeds.keys import TenantKey
from feeds.machine.changes import Changes
from feeds.quotas import check_quotas, with_changes
from feeds.results import Accepted, Rejected
from feeds.store.base import View
from feeds.values import TenantRecord, decode_tenant, encode

__all__ = ["create_tenant", "note_merging", "set_quotas"]


def create_tenant(command: CreateTenant, changes: Changes, view: View) -> Accepted | Rejected:
    """Write the tenant's record once."""
    key = TenantKey(command.tenant).encode()
    stored = view.get("config", key)
    if stored is not None:
        record = decode_tenant(stored)
        if record.deleted:
            return Rejected(
                "conflict",
                f"a tenant {command.tenant!r} was deleted and what it left is being removed: "
                "create this one in a moment",
            )
        return Accepted(record.index)
    record = TenantRecord(command.now_us, changes.index, merging=False)
    changes.put("config", key, encode(record))
    return Accepted(changes.index)


def set_quotas(command: SetQuotas, changes: Changes, view: View) -> Accepted | Rejected:
    """Write the tenant's record with its quotas; raises `InvalidInput` for what are none."""
    key = TenantKey(command.tenant).encode()
    stored = view.get("config", key)
    if stored is None:
        return Rejected("unknown", f"tenant {command.tenant!r} does not exist: create it first")
    record = decode_tenant(stored)
    quotas = with_changes(record.quotas, check_quotas(command.quotas))
    changes.put("config", key, encode(msgspec.structs.replace(record, quotas=quotas)))
    changes.of_tenant = True
    return Accepted(changes.index)


def note_merging(changes: Changes, view: View) -> None:
    """Write down that a feed of the tenant is merged at read time, from now on."""
    key = TenantKey(changes.tenant).encode()
    stored = view.get("config", key)
    record = decode_tenant(stored) if stored is not None else None
    if record is not None and not record.merging:
        changes.put("config", key, encode(msgspec.structs.replace(record, merging=True)))
