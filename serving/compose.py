"""From settings to services: the only place that wires."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from feeds.config import FeedsConfig
from feeds.engine import FeedEngine, system_clock_us
from feeds.errors import FeedsError
from feeds.model import TenantId
from feeds.remote import open_beside
from feeds.replication.base import ReplicaStatus
from serving.activity_table import ActivityTables
from serving.configs import HeldConfigs, service_config
from serving.consistency import FollowedReads, OwnReads, Reads
from serving.cursors import Slates, SlateStore
from serving.departures import Departures
from serving.follows import HeldFollows
from serving.models import ModelCache, ModelCacheConfig, ModelCounts, ModelStatus
from serving.previews import Previews
from serving.quotas import QuotaConfig, TenantQuotas
from serving.reader import FeedReader
from serving.served import Served, ServedMemory
from serving.served_requests import RecentRequests
from serving.settings import Settings
from serving.shadows import ShadowConfig, ShadowTrials
from serving.slate_log.config import config_of, rules_of, shares_of
from serving.slate_log.explain import ModelVersions
from serving.slate_log.requests import LoggedRequests, LoggedSlates
from serving.slate_log.writer import SlateLog
from serving.slate_maker import LiveModels
from serving.telemetry import Metrics
from serving.tenant_metrics import TenantMetrics
from serving.tenants import Authenticator
from serving.tracing import Tracing, open_tracing
from serving.worker import METRICS_DIRECTORY

__all__ = ["Services", "clock_from", "compose"]

SLATE_LOOKUPS_MAX = 2
"""Slates that are looked for in the log at once; the others wait."""

STOPPED_ROLE = "stopped"
NOT_REACHED = ReplicaStatus("unknown", 0, 0, 0, 0)


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

    def forget(self, tenant: TenantId) -> None:
        """The tenant was deleted."""
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
    quotas: TenantQuotas
    tables: ActivityTables
    models: FollowedModels
    reader: FeedReader
    configs: HeldConfigs
    previews: Previews
    reads: Reads
    metrics: Metrics
    departures: Departures
    clock_us: Callable[[], int]
    shadows: ShadowTrials
    slate_log: SlateLog
    shadow_log: SlateLog
    tenant_metrics: TenantMetrics
    tracing: Tracing
    slate_lookups: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(SLATE_LOOKUPS_MAX)
    )

    async def start(self) -> None:
        """Load tables and models, follow what changes, and begin to log slates."""
        self.slate_log.start()
        self.shadow_log.start()
        self.departures.start()
        await self.models.start()
        await self.shadows.start()
        await self.tables.start(self.engine.tenants())

    async def stop(self) -> None:
        """Finish what was proposed, and let go of everything."""
        await self.tables.settled()
        self.tables.stop()
        self.departures.stop()
        await self.shadows.stop()
        await self.models.stop()
        for log in (self.slate_log, self.shadow_log):
            await asyncio.to_thread(log.stop)
        self.engine.close()
        self.reader.slates.close()
        self.reader.served.close()
        await asyncio.to_thread(self.tracing.close)

    async def readiness(self) -> dict[str, Any]:  # Any: JSON for operators
        """What is loaded and running; `problems` says what is missing.

        Anyone may ask, so it holds sentences and numbers: no tenant's name, and none of its models.
        """
        models, problems = self.models.counts(), []
        if not self.tables.following:
            problems.append("the activity tables are being loaded: wait")
        if (stale := self.reads.problem()) is not None:
            problems.append(stale)
        try:
            status = await asyncio.to_thread(self.engine.status)  # a node may be slow to answer
        except FeedsError as error:
            status = NOT_REACHED
            problems.append(f"the engine node does not say how it is: {error}")
        if status.role == STOPPED_ROLE:
            problems.append("the replica stopped: reads go on, writes are refused; see the log")
        elif status.role in ("follower", "candidate") and status.leader is None:
            problems.append("no node leads: reads go on for a moment, writes are refused")
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
            "models_bytes": models.memory_bytes,
            "model_problems": models.problems,
        }


def clock_from(
    start_us: int | None,
    monotonic_ns: Callable[[], int] = time.monotonic_ns,
    started_ns: int | None = None,
) -> Callable[[], int]:
    """The real clock, or one that starts at a time and runs on from there; microseconds.

    It started when the monotonic clock was at `started_ns`: now, unless told.
    """
    if start_us is None:
        return system_clock_us
    began_ns = monotonic_ns() if started_ns is None else started_ns
    return lambda: start_us + (monotonic_ns() - began_ns) // 1_000


def compose(
    settings: Settings,
    feeds: FeedsConfig | None = None,
    models: FollowedModels | None = None,
    slates: Slates | None = None,
    clock_us: Callable[[], int] | None = None,
    served: Served | None = None,
    worker: int | None = None,
    tracing: Tracing | None = None,
) -> Services:
    """The services on the settings' data directory, or beside the engine node that they name.

    `models` in place of the loader's; `slates` and `served` where processes share them, and
    `clock_us` one clock; `worker` is the number of this one; `tracing` in place of the settings'.

    Raises a `StorageError` where the directory is in use, damaged or of another format, or the node
    does not answer; `NoLeader` or `StaleRead` where its cluster does not; `SettingsInvalid` where
    what traces need is not installed.
    """
    clock_us = clock_us or clock_from(settings.clock_start_us)
    tracing = tracing or open_tracing(settings)
    config, metrics = _limits(settings, feeds), Metrics()
    engine, reads = _open_engine(settings, config, metrics, clock_us)
    models = models or ModelCache(
        settings.models_path,
        _model_limits(settings),
        clock_us=clock_us,
        metrics=metrics,
        loaded=lambda model: tracing.model_loaded(model.tenant, model.version, model.load_ms),
    )
    tables = ActivityTables(
        engine,
        metrics,
        bytes_max=settings.tables_bytes_max,
        capacity=settings.table_capacity,
        backlog_max=settings.table_backlog_max,
    )
    if slates is None:  # an empty one is false
        slates = SlateStore(time.monotonic, settings.slates_max, settings.slate_ttl_s)
    authenticator = Authenticator(
        engine.key, time.monotonic, settings.keys_cached_max, settings.keys_cached_s, clock_us
    )
    engine.subscribe(authenticator.changed, authenticator.missed)
    quotas = TenantQuotas(
        lambda tenant: engine.tenant(tenant).quotas, _quotas(settings, config), time.monotonic_ns
    )
    engine.subscribe(quotas.changed, quotas.missed)
    follows = HeldFollows(engine, settings.follows_held_max)
    configs = HeldConfigs(engine, service_config(settings), settings.configs_held_max)
    recent = RecentRequests(settings.preview_requests_max, settings.preview_tenants_max)
    if served is None:
        served = ServedMemory(
            time.monotonic, settings.served_max, settings.served_users_max, settings.served_ttl_s
        )
    slate_log, shadow_log = (
        SlateLog(
            path,
            config_of(settings),
            rules_of(settings),
            metrics,
            clock_us,
            slot=worker or 0,
            shares=shares_of(configs),
        )
        for path in (settings.slate_log_path, settings.shadow_log_path)
    )
    shadows = ShadowTrials(metrics, shadow_log, _shadow_limits(settings))
    tenant_metrics = _tenant_metrics(settings, worker)
    last = LoggedRequests(settings.slate_log_path, recent, settings.preview_log_bytes)
    reader = FeedReader(
        engine,
        tables,
        follows,
        models,
        slates,
        settings,
        metrics,
        clock_us,
        configs,
        recent,
        served=served,
        shadows=shadows,
        slate_log=slate_log,
    )
    return Services(
        settings=settings,
        feeds=config,
        engine=engine,
        authenticator=authenticator,
        quotas=quotas,
        tables=tables,
        models=models,
        reader=reader,
        configs=configs,
        previews=Previews(
            reader,
            last,
            LoggedSlates(settings.slate_log_path, settings.preview_log_bytes, slate_log.flush),
            ModelVersions(models.get, settings.models_path, configs.version),
            configs,
            settings.preview_places_max,
        ),
        reads=reads,
        metrics=metrics,
        departures=Departures(
            engine,
            settings.models_path,
            settings.slate_log_path,
            (models, slates, recent, served, shadows, slate_log, shadow_log, tenant_metrics),
            tenant_metrics.tenants,
        ),
        clock_us=clock_us,
        shadows=shadows,
        slate_log=slate_log,
        shadow_log=shadow_log,
        tenant_metrics=tenant_metrics,
        tracing=tracing,
    )


def _model_limits(settings: Settings) -> ModelCacheConfig:
    return ModelCacheConfig(
        tenants_max=settings.models_max,
        bytes_max=settings.models_bytes_max,
        model_bytes_max=settings.model_bytes_max,
        load_s_max=settings.model_load_s_max,
    )


def _shadow_limits(settings: Settings) -> ShadowConfig:
    return ShadowConfig(sample=settings.shadow_sample, time_share=settings.shadow_time_share)


def _tenant_metrics(settings: Settings, worker: int | None) -> TenantMetrics:
    """A worker has a file of its own among those of Prometheus, whose names end otherwise."""
    directory = os.environ.get(METRICS_DIRECTORY)
    file = None
    if worker is not None and directory is not None:
        file = Path(directory) / f"{worker}.tenants"
    return TenantMetrics(settings.metrics_tenants_max, settings.metrics_tenant_idle_s, file)


def _limits(settings: Settings, feeds: FeedsConfig | None) -> FeedsConfig:
    config = replace(feeds or FeedsConfig(), tenant_storage_bytes=settings.tenant_storage_bytes)
    return replace(config, retry_s=settings.write_retry_s) if settings.engine else config


def _quotas(settings: Settings, config: FeedsConfig) -> QuotaConfig:
    return QuotaConfig(
        requests_per_s=settings.tenant_requests_per_s,
        events_per_s=settings.tenant_events_per_s,
        storage_bytes=settings.tenant_storage_bytes,
        training_minutes=settings.tenant_training_minutes,
        workers=settings.workers,
        burst_s=settings.quota_burst_s,
        events_burst_min=config.events_batch_max,
    )


def _open_engine(
    settings: Settings, config: FeedsConfig, metrics: Metrics, clock_us: Callable[[], int]
) -> tuple[FeedEngine, Reads]:
    if settings.engine is None:
        engine = FeedEngine.open(settings.data_dir, config, clock_us)
        return engine, OwnReads(engine)
    beside = open_beside(settings.engine, config, clock_us)
    reads = FollowedReads(beside.replica, metrics, settings.max_lag_s, settings.read_wait_s)
    return beside.engine, reads
