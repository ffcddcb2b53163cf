"""Deleting a tenant: at once for whoever asks, and then row by row, in bounded commands.

The law: once the task is done, no key and no value of the store holds the tenant's name, and the
store is as if the tenant had never been, but for the log index and for slots of the change journal
that are void. None of its name can be created before, so nothing of the old one meets the new.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from feeds.commands import Command, DeleteTenant, WipeTenant
from feeds.keys import ApiKeyKey, RankingConfigsKey, TenantKey, WipeKey, after, write_number
from feeds.machine.changes import Changes
from feeds.quotas import Quotas
from feeds.results import Accepted, Drained, Rejected
from feeds.store.base import View
from feeds.values import (
    TenantRecord,
    Wiping,
    decode_api_key,
    decode_tenant,
    decode_wiping,
    encode,
)

__all__ = ["delete_tenant", "deleted", "unknown", "wipe"]

_DATA: Final = (
    *("outbox", "feeds", "follows", "activities", "reactions", "objects"),
    *("counters", "dedup", "events"),
)
"""Families whose keys begin with the tenant, in the order in which they are wiped.

The order is part of the command's meaning: another one needs another version.
"""

_STAGES: Final = (*_DATA, "config", "meta")
_JOURNAL: Final = b"c\0"
"""What the slots of the change journal begin with in `meta`."""

_RECORDS_KEPT: Final = 1_024
"""Tenants' records that are kept decoded."""

_VOID: Final = write_number(0)
"""A slot of no command: who looks for one there has missed it, and reads everything anew."""


def unknown(command: Command, view: View) -> Rejected | None:
    """Why a command is refused that was made for a tenant which is no more; None if it is not."""
    incarnation: int | None = getattr(command, "incarnation", None)
    if incarnation is None or not command.tenant:
        return None
    record = _record(command.tenant, view)
    if record is None:
        gone = incarnation > 0
    else:
        gone = record.deleted > 0 or incarnation not in (0, record.index)
    if not gone or isinstance(command, DeleteTenant):
        return None
    return Rejected(
        "unknown",
        f"tenant {command.tenant!r} does not exist: create it with `headwater tenants create`",
    )


def deleted(tenant: str, view: View) -> bool:
    """Whether a tenant is deleted, and what it left not yet removed."""
    record = _record(tenant, view)
    return record is not None and record.deleted > 0


def delete_tenant(command: DeleteTenant, changes: Changes, view: View) -> Accepted:
    """Note that the tenant is no more, and leave the task of removing what it left."""
    record = _record(command.tenant, view)
    if record is None or record.index != command.incarnation or record.deleted:
        return Accepted(changes.index)  # it was deleted before
    gone = msgspec.structs.replace(record, quotas=Quotas(), deleted=changes.index)
    changes.put("config", TenantKey(command.tenant).encode(), encode(gone))
    changes.put("outbox", WipeKey(command.tenant).encode(), encode(Wiping()))
    changes.of_tenant = True
    return Accepted(changes.index)


def wipe(command: WipeTenant, changes: Changes, view: View) -> Drained:
    """Go on with the task, if it is still to be done."""
    key = WipeKey(command.tenant).encode()
    data = view.get("outbox", key)
    if data is None:
        return Drained(changes.index)
    task, left = decode_wiping(data), command.rows_max
    while left > 0 and task.stage < len(_STAGES):
        family = _STAGES[task.stage]
        rows = _Rows.of(family, command.tenant)
        looked = list(view.scan(family, task.start or rows.start, rows.stop, left))
        for found, value in rows.own(looked):
            if found != key:
                changes.put(family, found, value)
        full = len(looked) == left
        left -= len(looked)
        task = Wiping(task.stage, looked[-1][0] + b"\0") if full else Wiping(task.stage + 1)
    unfinished = task.stage < len(_STAGES)
    if unfinished:
        changes.put("outbox", key, encode(task))
    else:
        changes.delete("outbox", key)
        changes.delete("config", TenantKey(command.tenant).encode())
    return Drained(changes.index, unfinished)


def _record(tenant: str, view: View) -> TenantRecord | None:
    data = view.get("config", TenantKey.of(tenant))
    return _decoded(data) if data else None


@lru_cache(maxsize=_RECORDS_KEPT)
def _decoded(data: bytes) -> TenantRecord:
    """Every command looks at its tenant's record, which hardly ever changes."""
    record: TenantRecord = decode_tenant(data)
    return record


class _Rows(NamedTuple):
    """Where in a family the rows of a tenant are, perhaps among those of others."""

    family: str
    tenant: bytes
    start: bytes
    stop: bytes

    @classmethod
    def of(cls, family: str, tenant: str) -> "_Rows":
        name = tenant.encode()
        if family in _DATA:
            return cls(family, name, name + b"\0", after(name + b"\0"))
        return cls(family, name, b"", b"\xff")

    def own(self, looked: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes | None]]:
        """The tenant's own keys among rows, and what comes in place of each value."""
        for key, value in looked:
            if self.family in _DATA or self._has(key, value):
                yield key, None
            elif self.family == "meta" and key.startswith(_JOURNAL) and value[8:] == self.tenant:
                yield key, _VOID

    def _has(self, key: bytes, value: bytes) -> bool:
        """Whether a row of `config` or `meta` is the tenant's; its record goes last of all."""
        if self.family == "meta":
            return not key.startswith(_JOURNAL) and key.partition(b"\0")[2] == self.tenant
        if key.startswith(ApiKeyKey.prefix()):
            return decode_api_key(value).tenant.encode() == self.tenant
        if key == RankingConfigsKey(self.tenant.decode()).encode():
            return True
        return key[1:].startswith(self.tenant + b"\0")
