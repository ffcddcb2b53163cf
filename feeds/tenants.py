"""What may be told of a tenant as such."""

from pathlib import Path
from typing import Any, Final

import msgspec

from feeds.model import TenantId, format_time
from feeds.reader import StoreReader
from feeds.training_time import minutes_trained

__all__ = ["TOLD_S_MAX", "TRAINED_FILE", "Trained", "describe_tenant", "read_trained"]

TRAINED_FILE: Final = "trained_hours.json"
"""The file beside the models in which the service's loader leaves a `Trained`."""

TOLD_S_MAX: Final = 600
"""Seconds after which what the loader told is no longer true; it tells every minute."""

_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of that file; 10,000 tenants that were trained in every hour have 6 MB."""


class Trained(msgspec.Struct, frozen=True):
    """How long each tenant was trained of late, as the model registry knew it at a time."""

    at_us: int
    hours: dict[str, dict[int, float]]

    def minutes(self, tenant: TenantId, now_us: int) -> float | None:
        """Minutes within the last day; None where the registry was asked too long ago.

        It knows all that were trained: who is not among them was not.
        """
        if now_us - self.at_us > TOLD_S_MAX * 1_000_000:
            return None
        return round(minutes_trained(self.hours.get(tenant, {}), now_us), 1)


def read_trained(models_dir: Path) -> Trained:
    """What the loader told last; of a time long ago where it told nothing, or not readably."""
    try:
        with (models_dir / TRAINED_FILE).open("rb") as file:
            return msgspec.json.decode(file.read(_BYTES_MAX), type=Trained)
    except (OSError, msgspec.MsgspecError):
        return Trained(0, {})


def describe_tenant(reader: StoreReader, tenant: TenantId, keys: int) -> dict[str, Any]:
    """A tenant with so many keys: since when, what it stores, and its own quotas. Any: JSON.

    A quota is None where the server's default holds. Raises `NotFound`.
    """
    record, usage = reader.tenant(tenant), reader.usage(tenant)
    return {
        "tenant": tenant,
        "created": format_time(record.created_us),
        "keys": keys,
        "activities": usage.activities,
        "storage_bytes": usage.storage_bytes,
        "quotas": msgspec.structs.asdict(record.quotas),
    }
