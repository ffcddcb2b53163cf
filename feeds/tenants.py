"""What may be told of a tenant as such."""

from typing import Any

import msgspec

from feeds.model import TenantId, format_time
from feeds.reader import StoreReader

__all__ = ["describe_tenant"]


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
