"""What a tenant may use, and what it has stored. Pure."""

from typing import Final

import msgspec

from feeds.errors import InvalidInput

__all__ = ["QUOTAS", "QUOTA_MAX", "Quotas", "Usage", "check_quotas", "with_changes"]

QUOTA_MAX: Final = 10**15
"""The largest number of a quota."""


class Quotas(msgspec.Struct, frozen=True, array_like=True):
    """What a tenant may use; None is the server's default, 0 is nothing at all."""

    requests_per_s: int | None = None
    """Requests a second, over all workers of a service."""

    events_per_s: int | None = None
    """Impressions and engagements a second, over all workers of a service."""

    storage_bytes: int | None = None
    """Bytes of the encoded activities that are stored at once."""

    training_minutes: int | None = None
    """Minutes of training within 24 hours; an export tells it to those who train."""


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """What a tenant has stored; what was posted before version 3 of the commands is not in it."""

    activities: int = 0
    storage_bytes: int = 0

    def plus(self, activities: int, storage_bytes: int) -> "Usage":
        """With so much more, or less; never below nothing."""
        return Usage(
            max(0, self.activities + activities), max(0, self.storage_bytes + storage_bytes)
        )


QUOTAS: Final = tuple(Quotas.__struct_fields__)
"""The names of the quotas."""


def check_quotas(changes: dict[str, int | None]) -> dict[str, int | None]:
    """Changes of quotas by name; raises `InvalidInput` naming every mistake."""
    problems = [
        f"{name[:80]!r} is no quota: use {', '.join(QUOTAS)}"
        for name in changes
        if name not in QUOTAS
    ]
    problems += [
        f"{name} is {str(value)[:80]}: give a whole number from 0 to {QUOTA_MAX}, or none for the "
        "server's default"
        for name, value in changes.items()
        if value is not None and not (type(value) is int and 0 <= value <= QUOTA_MAX)
    ]
    if problems:
        raise InvalidInput("; ".join(problems))
    return changes


def with_changes(quotas: Quotas, changes: dict[str, int | None]) -> Quotas:
    """The quotas with some of them changed; names that are none are passed over."""
    known = {name: value for name, value in changes.items() if name in QUOTAS}
    return msgspec.structs.replace(quotas, **known)
