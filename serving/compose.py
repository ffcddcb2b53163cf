"""From settings to services: the only place that wires."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from feeds.config import FeedsConfig
from feeds.engine import FeedEngine, system_clock_us
from feeds.model import TenantId
from serving.activity_table import ActivityTables
from serving.cursors import SlateStore
from serving.follows import HeldFollows
from serving.models import ModelCache, ModelCounts, ModelStatus
from serving.reader import FeedReader, LiveModels
from serving.settings import Settings
from serving.telemetry import Metrics
from serving.tenants import Authenticator

__all__ = ["Services", "clock_from", "compose"]

STOPPED_ROLE = "stopped"


class FollowedModels(LiveModels, Protocol):
    """Live models that follow what the loader hands over."""

    async def start(self) -> None:
        """Load what there is, and follow it."""
        ...

    async def stop(self) -> None:
        """Follow no longer."""
        ...

    def status(self, tenant: TenantId) -> ModelStatus:
        """What ranks the tenant's feeds."""
        ...

    def counts(self) -> ModelCounts:
        """How many models are live, and how many could not be taken up."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes call. `start` and `stop` belong to the app's lifespan."""

    settings: Settings
    feeds: FeedsConfig
    engine: FeedEngine
    authenticator: Authenticator
    tables: ActivityTables
    models: FollowedModels
    reader: FeedReader
    metrics: Metrics
    clock_us: Callable[[], int]

    async def start(self) -> None:
        """Load tables and models, and follow what changes."""
        await self.models.start()
        await self.tables.start(self.engine.tenants())

    async def stop(self) -> None:
        """Finish what was proposed, and let go of everything."""
        await self.tables.settled()
        self.tables.stop()
        await self.models.stop()
        self.engine.close()

    def readiness(self) -> dict[str, Any]:  # Any: JSON for operators
        """What is loaded and running; `problems` says what is missing.

        Anyone may ask, so it holds sentences and numbers: no tenant's name, and none of its models.
        """
        status, models = self.engine.status(), self.models.counts()
        problems = []
        if not self.tables.following:
            problems.append("the activity tables are being loaded: wait")
        if status.role == STOPPED_ROLE:
            problems.append("the replica stopped: reads go on, writes are refused; see the log")
        return {
            "status": "not ready" if problems else "ready",
            "problems": problems,
            "replica": {
                "role": status.role,
                "term": status.term,
                "last_index": status.last_index,
                "applied_index": status.applied_index,
                "log_bytes": status.log_bytes,
            },
            "tables": len(self.tables.loaded()),
            "models": models.live,
            "model_problems": models.problems,
        }


def clock_from(
    start_us: int | None, monotonic_ns: Callable[[], int] = time.monotonic_ns
) -> Callable[[], int]:
    """The real clock, or one that starts at a time and runs on from there; microseconds."""
    if start_us is None:
        return system_clock_us
    started_ns = monotonic_ns()
    return lambda: start_us + (monotonic_ns() - started_ns) // 1_000


def compose(
    settings: Settings, feeds: FeedsConfig | None = None, models: FollowedModels | None = None
) -> Services:
    """The services on the settings' data directory; `models` in place of the loader's.

    Raises a `StorageError` where the directory is in use, damaged or of another format.
    """
    config = feeds or FeedsConfig()
    clock_us = clock_from(settings.clock_start_us)
    engine = FeedEngine.open(settings.data_dir, config, clock_us)
    models = models or ModelCache(settings.models_path, clock_us=clock_us)
    metrics = Metrics()
    tables = ActivityTables(
        engine,
        metrics,
        tables_max=settings.tables_max,
        capacity=settings.table_capacity,
        backlog_max=settings.table_backlog_max,
    )
    slates = SlateStore(time.monotonic, settings.slates_max, settings.slate_ttl_s)
    authenticator = Authenticator(
        engine.key, time.monotonic, settings.keys_cached_max, settings.keys_cached_s
    )
    follows = HeldFollows(engine, settings.follows_held_max)
    reader = FeedReader(engine, tables, follows, models, slates, settings, metrics, clock_us)
    return Services(
        settings, config, engine, authenticator, tables, models, reader, metrics, clock_us
    )
