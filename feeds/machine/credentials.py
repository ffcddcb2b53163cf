"""API keys of tenants and operators: given, exchanged, taken away.

Beside each key stands that its tenant has it, so that one tenant's keys are counted, and those that
are expired are removed, without a look at all others. Keys from before version 3 are not counted.
"""

import msgspec

from feeds.commands import AddKey, RevokeKey, RotateKey
from feeds.credentials import ApiKey
from feeds.keys import ApiKeyKey, TenantKeyKey, after, read_number, write_number
from feeds.machine.changes import Changes
from feeds.model import TenantId
from feeds.results import Accepted, Rejected, RemoveResult
from feeds.rows import scan
from feeds.store.base import View
from feeds.values import decode_api_key, encode

__all__ = ["add_key", "revoke_key", "rotate_key"]


def add_key(command: AddKey, changes: Changes, view: View) -> Accepted | Rejected:
    """Write the API key, unless its id belongs to another key."""
    added = ApiKey(
        TenantId(command.tenant),
        command.key_id,
        command.secret_sha256,
        command.scopes,
        command.now_us,
    )
    return _add(added, command.keys_max, changes, view)


def rotate_key(command: RotateKey, changes: Changes, view: View) -> Accepted | Rejected:
    """Write the new key, and until when the old one is good."""
    old = _key_of(command.tenant, command.key_id, view)
    new = _key_of(command.tenant, command.new_key_id, view)
    if new is not None and new.secret_sha256 == command.secret_sha256:
        return Accepted(changes.index)  # it was rotated, and this is a repeat
    if old is None or old.expired(command.now_us):
        return Rejected(
            "unknown",
            f"there is no key {command.key_id!r} to exchange: `headwater keys list` shows all",
        )
    changes.of_tenant = True
    if command.expires_us > command.now_us:
        until_us = min(old.expires_us or command.expires_us, command.expires_us)
        _put(msgspec.structs.replace(old, expires_us=until_us), changes)
    else:
        _delete(command.tenant, command.key_id, changes)
    added = ApiKey(
        old.tenant, command.new_key_id, command.secret_sha256, old.scopes, command.now_us
    )
    return _add(added, command.keys_max and command.keys_max + 1, changes, view)


def revoke_key(command: RevokeKey, changes: Changes, view: View) -> RemoveResult:
    """Remove the key, if it is this tenant's."""
    key = _key_of(command.tenant, command.key_id, view)
    if key is None:
        return RemoveResult(changes.index, removed=False)
    changes.of_tenant = True
    _delete(command.tenant, command.key_id, changes)
    return RemoveResult(changes.index, removed=True)


def _key_of(tenant: str, key_id: str, view: View) -> ApiKey | None:
    data = view.get("config", ApiKeyKey(key_id).encode())
    key = decode_api_key(data) if data else None
    return key if key is not None and key.tenant == tenant else None


def _add(added: ApiKey, keys_max: int, changes: Changes, view: View) -> Accepted | Rejected:
    data = view.get("config", ApiKeyKey(added.key_id).encode())
    stored = decode_api_key(data) if data else None
    if stored is not None:
        if msgspec.structs.replace(stored, created_us=added.created_us) == added:
            return Accepted(changes.index)
        return Rejected("conflict", f"key id {added.key_id!r} is taken: choose another one")
    if keys_max:
        left = _prune(added, changes, view)
        if left >= keys_max:
            return Rejected(
                "limit",
                f"there are {left} API keys, tenant_keys_max is {keys_max}: revoke one first",
            )
    _put(added, changes, listed=keys_max > 0)
    return Accepted(changes.index)


def _prune(added: ApiKey, changes: Changes, view: View) -> int:
    """Remove the tenant's expired keys; how many are left."""
    prefix = TenantKeyKey.prefix(added.tenant)
    left = 0
    for row, expires in scan(view, "config", prefix, after(prefix)):
        if 0 < read_number(expires) <= added.created_us:
            _delete(added.tenant, TenantKeyKey.decode(row).key_id, changes)
        else:
            left += 1
    return left


def _put(key: ApiKey, changes: Changes, *, listed: bool = True) -> None:
    changes.put("config", ApiKeyKey(key.key_id).encode(), encode(key))
    if listed:
        row = TenantKeyKey(key.tenant, key.key_id).encode()
        changes.put("config", row, write_number(key.expires_us))


def _delete(tenant: str, key_id: str, changes: Changes) -> None:
    changes.delete("config", ApiKeyKey(key_id).encode())
    changes.delete("config", TenantKeyKey(tenant, key_id).encode())
