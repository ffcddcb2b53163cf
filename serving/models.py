"""The live model of each tenant in a request process: watched, loaded aside, swapped at once.

A model is loaded in a thread, and then one immutable object takes the place of another: a request
that got the old one ends with it. Nothing here talks to a registry; the loader hands models over.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, NamedTuple

import structlog

from feeds.engine import system_clock_us
from feeds.model import TenantId
from ranking.bundle import BundleLimits
from ranking.errors import RankingError
from serving.model_loading import (
    NO_FILE,
    LoadBundle,
    LoadedModel,
    Sight,
    Stamp,
    load_bundle,
    load_handed,
    look,
)
from serving.telemetry import Metrics

__all__ = ["LoadedModel", "ModelCache", "ModelCacheConfig", "ModelCounts", "ModelStatus"]

_log = structlog.get_logger(__name__)

Loaded = Literal["live", "shadow"]
"""The aliases whose models are loaded; what was live before stays while there is room."""

NO_ROOM: Final = "there is no room for it in models_bytes_max: raise it, or use a smaller model"


@dataclass(frozen=True, slots=True)
class ModelCacheConfig:
    """Limits of the models in one request process."""

    poll_s: float = 0.5
    """Seconds between two looks at the directory."""
    tenants_max: int = 1_000
    """Tenants whose model is in memory; who asked longest ago leaves."""
    bytes_max: int = 268_435_456
    """Bytes of memory that all models count for, those that were live before and shadows too."""
    model_bytes_max: int = 67_108_864
    """Bytes of one model's files."""
    load_s_max: float = 10.0
    """Seconds that loading one model may take."""
    loads_asked_max: int = 2
    """Models that requests wait for which are loaded at once; others are loaded one by one."""
    start_s: float = 3.0
    """Seconds that the start waits for models; those that are left are loaded behind it."""
    seen_max: int = 10_000
    """Tenants whose directory is looked at."""
    retry_s: float = 30.0
    """Seconds until a model that failed to load is tried again, if it is not replaced before."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What ranks a tenant's feeds: all None where no model does.

    `previous` is at hand for a roll-back, `shadow` on trial, and `loading` says that a model is
    being loaded. `since_us` is when this process took the version up, by the service's clock. The
    causes say why the newest version was not: for operators, since they may name paths.
    """

    version: str | None = None
    previous: str | None = None
    shadow: str | None = None
    loading: bool = False
    scorer: str | None = None
    spec_fingerprint: str | None = None
    since_us: int | None = None
    load_ms: float | None = None
    cause: str | None = None
    shadow_cause: str | None = None


class ModelCounts(NamedTuple):
    """Over all tenants: live models in memory, those not taken up, and bytes that all count for."""

    live: int
    problems: int
    memory_bytes: int = 0


@dataclass(slots=True)
class _Try:
    """The file of an alias that was tried last, and how that went."""

    stamp: Stamp | None = None
    failed: str | None = None
    retry_at_s: float = 0.0

    def is_due(self, stamp: Stamp, now_s: float) -> bool:
        """Whether there is something to load that was not tried, or failed a while ago."""
        if stamp == NO_FILE:
            return False
        return self.stamp != stamp or (self.failed is not None and now_s >= self.retry_at_s)


@dataclass(slots=True)
class _Followed:
    """What is known of a tenant; `hung` is a load that was given up and may not have ended."""

    sight: Sight
    live: _Try = field(default_factory=_Try)
    shadow: _Try = field(default_factory=_Try)
    since_us: int | None = None
    loading: bool = False
    hung: Future[LoadedModel | None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a model is being loaded, or a load that was given up goes on."""
        return self.loading or (self.hung is not None and not self.hung.done())

    @property
    def cause(self) -> str | None:
        """Why the newest version is not live; None if it is."""
        return self.live.failed or self.sight.problem

    @property
    def shadow_cause(self) -> str | None:
        """Why the newest version on trial is not; None if it is."""
        return self.shadow.failed or self.sight.shadow_problem

    def attempt(self, alias: Loaded) -> _Try:
        """What was tried for an alias."""
        return self.live if alias == "live" else self.shadow


@dataclass(slots=True)
class _Held:
    """A tenant's models in memory."""

    live: LoadedModel
    previous: LoadedModel | None = None
    shadow: LoadedModel | None = None

    def models(self) -> Iterator[LoadedModel]:
        """Each once."""
        yield self.live
        for model in (self.previous, self.shadow):
            if model is not None and model is not self.live:
                yield model

    @property
    def memory_bytes(self) -> int:
        """What they count for."""
        return sum(model.memory_bytes for model in self.models())


class ModelCache:
    """The live models under the loader's directory. To be used on one event loop.

    While there is room every tenant's model is loaded. Beyond, a request that finds none has it
    loaded at once, and the models not asked for longest leave. `load` makes a model of a bundle.
    """

    def __init__(
        self,
        directory: Path,
        config: ModelCacheConfig = ModelCacheConfig(),
        monotonic_s: Callable[[], float] = time.monotonic,
        clock_us: Callable[[], int] = system_clock_us,
        metrics: Metrics | None = None,
        load: LoadBundle = load_bundle,
        loaded: Callable[[LoadedModel], None] = lambda _: None,
    ) -> None:
        """`loaded` is told of each model that is taken up."""
        self._told_of_load = loaded
        self._directory = directory
        self._config = config
        self._limits = BundleLimits(bytes_max=config.model_bytes_max)
        self._monotonic_s = monotonic_s
        self._clock_us = clock_us
        self._metrics = metrics or Metrics()
        self._bundle_loader = load
        self._held: OrderedDict[TenantId, _Held] = OrderedDict()
        self._memory_bytes = 0
        self._full = False
        self._followed: dict[TenantId, _Followed] = {}
        self._pending: set[TenantId] = set()
        self._asked = asyncio.Semaphore(config.loads_asked_max)
        self._tasks: set[asyncio.Task[None]] = set()
        # Two more than load at once, so that as many may hang before others are held up.
        self._threads = ThreadPoolExecutor(config.loads_asked_max + 3, "models")

    def get(self, tenant: TenantId) -> LoadedModel | None:
        """The tenant's live model; under a microsecond where it is in memory.

        None where it is not: then it is being loaded, if there is one.
        """
        held = self._held.get(tenant)
        if held is None:
            self._ask(tenant)
            return None
        self._held.move_to_end(tenant)
        return held.live

    def loading(self, tenant: TenantId) -> bool:
        """Whether a model is being loaded for the tenant."""
        followed = self._followed.get(tenant)
        return followed is not None and followed.loading

    def shadow(self, tenant: TenantId) -> LoadedModel | None:
        """The tenant's model on trial, None where there is none in memory."""
        held = self._held.get(tenant)
        return None if held is None or held.shadow is held.live else held.shadow

    async def start(self) -> None:
        """Load what there is, for a while, then go on and watch until `stop`."""
        first = self._begin(self.refresh())
        await asyncio.wait({first}, timeout=self._config.start_s)
        self._begin(self._watch(first))

    async def stop(self) -> None:
        """Watch no longer; the models stay. Stopping twice is harmless."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def refresh(self) -> None:
        """Look at the directory once, and load what changed, one model after another."""
        before = {tenant: followed.sight for tenant, followed in self._followed.items()}
        try:
            sights = await asyncio.to_thread(look, self._directory, self._config.seen_max, before)
        except OSError as error:
            _log.error("models_not_watched", problem=str(error))
            return
        for tenant in [known for known in self._followed if known not in sights]:
            self._forget(tenant)
        changed, self._pending = self._pending, set()
        changed |= {tenant for tenant, sight in sights.items() if self._note(tenant, sight)}
        for tenant in sorted(changed, key=lambda tenant: (tenant not in self._held, tenant)):
            if (followed := self._followed.get(tenant)) is not None:
                await self._follow(tenant, followed)

    def status(self, tenant: TenantId) -> ModelStatus:
        """What ranks the tenant's feeds, and why nothing newer does."""
        held, followed = self._held.get(tenant), self._followed.get(tenant)
        if followed is None:
            return ModelStatus()
        known = ModelStatus(
            previous=followed.sight.previous,
            loading=self.loading(tenant),
            cause=followed.cause,
            shadow_cause=followed.shadow_cause,
        )
        if held is None:
            return known
        return replace(
            known,
            version=held.live.version,
            previous=held.previous.version if held.previous else known.previous,
            shadow=held.shadow.version if held.shadow else None,
            scorer=held.live.scorer.name,
            spec_fingerprint=held.live.spec.fingerprint,
            since_us=followed.since_us,
            load_ms=held.live.load_ms,
        )

    def forget(self, tenant: TenantId) -> None:
        """The tenant was deleted: let go of its model at once."""
        if tenant in self._followed:
            self._forget(tenant)

    def counts(self) -> ModelCounts:
        """Over all tenants: numbers alone, so that none learns of another."""
        problems = sum(followed.cause is not None for followed in self._followed.values())
        return ModelCounts(len(self._held), problems, self._memory_bytes)

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Do something beside; `stop` ends it."""
        task = asyncio.get_running_loop().create_task(work, name="models")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _watch(self, first: asyncio.Task[None]) -> None:
        await asyncio.wait({first})
        while True:
            await asyncio.sleep(self._config.poll_s)
            await self.refresh()

    def _note(self, tenant: TenantId, sight: Sight) -> bool:
        """Keep what a look found; whether that is news."""
        followed = self._followed.get(tenant)
        if followed is None:
            self._followed[tenant] = _Followed(sight)
            return True
        news = followed.sight is not sight
        followed.sight = sight
        return news

    def _ask(self, tenant: TenantId) -> None:
        """Have the model loaded that a request asked for, unless it is being loaded."""
        followed = self._followed.get(tenant)
        if followed is None or followed.is_busy:
            return
        if followed.live.failed is None:
            followed.live.stamp = None  # it was in memory, and had to leave
        if followed.live.is_due(followed.sight.live, self._monotonic_s()):
            followed.loading = True
            self._begin(self._load_asked(tenant, followed))

    async def _load_asked(self, tenant: TenantId, followed: _Followed) -> None:
        try:
            async with self._asked:
                await self._load(tenant, followed, "live", evict=True)
            self._pending.add(tenant)  # its shadow, behind it
        finally:
            followed.loading = False

    async def _follow(self, tenant: TenantId, followed: _Followed) -> None:
        """Load what changed of a tenant whose model is in memory, or would have room there."""
        if followed.is_busy:
            self._pending.add(tenant)
            return
        followed.loading = True
        try:
            held, now_s = tenant in self._held, self._monotonic_s()
            if (held or not self._full) and followed.live.is_due(followed.sight.live, now_s):
                await self._load(tenant, followed, "live", evict=held)
            if tenant in self._held:
                await self._follow_shadow(tenant, followed)
        finally:
            followed.loading = False
        if followed.live.failed is not None or followed.shadow.failed is not None:
            self._pending.add(tenant)

    async def _follow_shadow(self, tenant: TenantId, followed: _Followed) -> None:
        if followed.sight.shadow == NO_FILE:
            followed.shadow = _Try()
            if self._held[tenant].shadow is not None:
                self._put(tenant, replace(self._held[tenant], shadow=None))
        elif followed.shadow.is_due(followed.sight.shadow, self._monotonic_s()):
            await self._load(tenant, followed, "shadow", evict=False)

    async def _load(
        self, tenant: TenantId, followed: _Followed, alias: Loaded, *, evict: bool
    ) -> None:
        """Load what an alias names, and take it up; where that fails, what was there stays.

        With `evict` others make room for it.
        """
        attempt = followed.attempt(alias)
        attempt.stamp = followed.sight.stamp(alias)
        try:
            model = await self._loaded(tenant, followed, alias)
            attempt.failed = None
            if model is not None and self._followed.get(tenant) is followed:
                self._take_up(model, followed, alias, evict=evict)
        except Exception as error:  # noqa: BLE001 - whatever a model does, the service goes on
            attempt.failed = _sentence(error)
            attempt.retry_at_s = self._monotonic_s() + self._config.retry_s
            self._metrics.model_loads.labels(alias, "failed").inc()
            _log.error("model_not_loaded", tenant=tenant, alias=alias, problem=attempt.failed)

    async def _loaded(
        self, tenant: TenantId, followed: _Followed, alias: Loaded
    ) -> LoadedModel | None:
        """The model that an alias names, from memory or loaded in a thread.

        A thread cannot be ended: what it brings after `load_s_max` is let go.
        """
        held = self._held.get(tenant)
        future = self._threads.submit(
            load_handed,
            self._directory / tenant,
            tenant,
            alias,
            tuple(held.models()) if held else (),
            self._limits,
            self._bundle_loader,
        )
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._config.load_s_max)
        except TimeoutError:
            followed.hung = future
            raise RankingError(
                f"the model did not load within {self._config.load_s_max:g} s (model_load_s_max): "
                "train anew, with a smaller model, or look at the disk"
            ) from None

    def _take_up(
        self, model: LoadedModel, followed: _Followed, alias: Loaded, *, evict: bool
    ) -> None:
        tenant = model.tenant
        held = self._held.get(tenant)
        if held is not None and model is (held.live if alias == "live" else held.shadow):
            return
        if not evict and not self._has_room(model, held):
            if held is not None:
                raise RankingError(NO_ROOM)
            self._full = True
            return
        self._metrics.model_loads.labels(alias, "loaded").inc()
        if held is not None and alias == "shadow":
            self._put(tenant, replace(held, shadow=model))
            _log.info("shadow_taken_up", tenant=tenant, version=model.version)
            return
        followed.since_us = self._clock_us()
        former = (None, None) if held is None else (held.live, held.shadow)
        self._put(tenant, _Held(model, *former))
        self._metrics.model_load_seconds.observe(model.load_ms / 1e3)
        self._told_of_load(model)
        _log.info("model_swapped", tenant=tenant, version=model.version, load_ms=model.load_ms)

    def _has_room(self, model: LoadedModel, held: _Held | None) -> bool:
        return (
            self._memory_bytes + model.memory_bytes <= self._config.bytes_max
            and len(self._held) + (held is None) <= self._config.tenants_max
        )

    def _put(self, tenant: TenantId, held: _Held) -> None:
        """Hold these models of a tenant, the one asked for last; others leave where they must."""
        self._let_go(tenant)
        self._held[tenant] = held
        self._memory_bytes += held.memory_bytes
        if self._is_over():
            self._make_room()
        self._metrics.models.set(len(self._held))
        self._metrics.models_bytes.set(self._memory_bytes)

    def _make_room(self) -> None:
        """First the versions that do not rank leave, then tenants; asked longest ago first."""
        for tenant, held in list(self._held.items()):
            if self._memory_bytes <= self._config.bytes_max:
                break
            self._held[tenant] = bare = _Held(held.live)
            self._memory_bytes += bare.memory_bytes - held.memory_bytes
        while self._is_over() and len(self._held) > 1:
            tenant = next(iter(self._held))
            self._let_go(tenant)
            self._followed[tenant].shadow = _Try()
            self._metrics.model_evictions.inc()
            _log.debug("model_evicted", tenant=tenant)

    def _is_over(self) -> bool:
        return (
            self._memory_bytes > self._config.bytes_max
            or len(self._held) > self._config.tenants_max
        )

    def _let_go(self, tenant: TenantId) -> bool:
        held = self._held.pop(tenant, None)
        if held is not None:
            self._memory_bytes -= held.memory_bytes
        return held is not None

    def _forget(self, tenant: TenantId) -> None:
        """The loader's directory of the tenant was removed."""
        del self._followed[tenant]
        self._full = False
        if self._let_go(tenant):
            _log.info("model_dropped", tenant=tenant)


def _sentence(error: Exception) -> str:
    if isinstance(error, RankingError):
        return str(error)
    return f"the model could not be loaded ({type(error).__name__}: {error}): see the log"
