"""For tests of whatever uses the engine: one without a disk, and a clock that stands still."""

from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.model import TenantId
from feeds.replication.memory import MemoryReplica
from feeds.store.base import Store
from feeds.store.memory import MemoryStore

__all__ = ["NOW_US", "ManualClock", "memory_engine"]

NOW_US = 1_600_000_000_000_000
"""Where a `ManualClock` starts: 2020-09-13, in microseconds since the epoch."""


class ManualClock:
    """A clock that moves when it is told to; microseconds since the epoch."""

    def __init__(self, now_us: int = NOW_US) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        """The time."""
        return self.now_us

    def advance(self, seconds: float) -> None:
        """Move on."""
        self.now_us += round(seconds * 1_000_000)


def memory_engine(
    config: FeedsConfig | None = None,
    clock: ManualClock | None = None,
    tenants: tuple[str, ...] = ("demo",),
    store: Store | None = None,
) -> FeedEngine:
    """An engine in memory with these tenants; each write is applied before its call returns."""
    engine = FeedEngine(store or MemoryStore(), MemoryReplica, config, clock or ManualClock())
    for tenant in tenants:
        engine.create_tenant(TenantId(tenant)).result()
    return engine
