"""The live model of each tenant in a request process: watched, loaded aside, swapped at once.

The loader verified what it hands over; this process reads it again with every checksum and the
golden slate, in a thread, and then exchanges one immutable object. A request that got the old
object ends with it. Nothing here talks to a registry.
"""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from feeds.engine import system_clock_us
from feeds.errors import InvalidInput
from feeds.model import TenantId, check_tenant_id
from ranking.bundle import ModelBundle
from ranking.errors import BundleDamaged, RankingError
from ranking.features import FeatureSpec
from ranking.scorers.base import Scorer
from ranking.scorers.factorization import FactorTable
from serving.handover import LIVE, Live, read_live, read_problem

__all__ = ["LoadedModel", "ModelCache", "ModelCacheConfig", "ModelCounts", "ModelStatus"]

_log = structlog.get_logger(__name__)

Stamp = tuple[int, int, int]
"""What changes when a file is replaced: inode, size and time of change."""

_NO_FILE: Final[Stamp] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class ModelCacheConfig:
    """Limits of the models in one request process."""

    poll_s: float = 0.5
    """Seconds between two looks at the directory."""
    tenants_max: int = 100
    """Tenants whose model, and the one before, is in memory; who asked longest ago leaves."""
    seen_max: int = 10_000
    """Tenants whose directory is looked at."""
    retry_s: float = 30.0
    """Seconds until a model that failed to load is tried again, if it is not replaced before."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A tenant's model, ready to score. Immutable: a request keeps the one that it got."""

    tenant: TenantId
    version: str
    digest: str
    bundle: ModelBundle
    scorer: Scorer
    factors: FactorTable | None
    spec: FeatureSpec
    load_ms: float


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What ranks a tenant's feeds: all None where no model does.

    `since_us` is when this process took the version up, by the service's clock. `cause` is why the
    newest version was not: for operators, since it may name paths.
    """

    version: str | None = None
    previous: str | None = None
    scorer: str | None = None
    spec_fingerprint: str | None = None
    since_us: int | None = None
    load_ms: float | None = None
    cause: str | None = None


class ModelCounts(NamedTuple):
    """How many tenants have a live model, and how many one that could not be taken up."""

    live: int
    problems: int


@dataclass(frozen=True, slots=True)
class _Sight:
    """What a look at a tenant's directory found."""

    stamp: Stamp
    problem: str | None


@dataclass(slots=True)
class _Followed:
    """What is known of a tenant: the file that was last tried, and how that went."""

    stamp: Stamp | None = None
    failed: str | None = None
    retry_at_s: float = 0.0
    previous: LoadedModel | None = None
    since_us: int | None = None
    loader_problem: str | None = None

    @property
    def cause(self) -> str | None:
        """Why the newest version is not live; None if it is."""
        return self.failed or self.loader_problem


class ModelCache:
    """The live models under the loader's directory. To be used on one event loop.

    While there is room every tenant's model is loaded; beyond `tenants_max`, a model is loaded once
    it was asked for, and the one not asked for longest leaves.
    """

    def __init__(
        self,
        directory: Path,
        config: ModelCacheConfig = ModelCacheConfig(),
        monotonic_s: Callable[[], float] = time.monotonic,
        clock_us: Callable[[], int] = system_clock_us,
    ) -> None:
        self._directory = directory
        self._config = config
        self._monotonic_s = monotonic_s
        self._clock_us = clock_us
        self._models: OrderedDict[TenantId, LoadedModel] = OrderedDict()
        self._followed: dict[TenantId, _Followed] = {}
        self._wanted: set[TenantId] = set()
        self._task: asyncio.Task[None] | None = None

    def get(self, tenant: TenantId) -> LoadedModel | None:
        """The tenant's live model, None where there is none in memory; under a microsecond."""
        model = self._models.get(tenant)
        if model is None:
            if tenant in self._followed:
                self._wanted.add(tenant)
            return None
        self._models.move_to_end(tenant)
        return model

    async def start(self) -> None:
        """Load what there is, then watch until `stop`."""
        await self.refresh()
        self._task = asyncio.create_task(self._watch(), name="models")

    async def stop(self) -> None:
        """Watch no longer; the models stay. Stopping twice is harmless."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def refresh(self) -> None:
        """Look at the directory once, and load what changed, one model after another."""
        try:
            sights = await asyncio.to_thread(_look, self._directory, self._config.seen_max)
        except OSError as error:
            _log.error("models_not_watched", problem=str(error))
            return
        for tenant in [known for known in self._followed if known not in sights]:
            self._forget(tenant)
        for tenant, sight in sights.items():
            followed = self._followed.setdefault(tenant, _Followed())
            followed.loader_problem = sight.problem
            if self._is_due(tenant, followed, sight.stamp):
                await self._reload(tenant, followed, sight.stamp)

    def status(self, tenant: TenantId) -> ModelStatus:
        """What ranks the tenant's feeds, and why nothing newer does."""
        model, followed = self._models.get(tenant), self._followed.get(tenant, _Followed())
        if model is None:
            return ModelStatus(cause=followed.cause)
        return ModelStatus(
            version=model.version,
            previous=followed.previous.version if followed.previous else None,
            scorer=model.scorer.name,
            spec_fingerprint=model.spec.fingerprint,
            since_us=followed.since_us,
            load_ms=model.load_ms,
            cause=followed.cause,
        )

    def forget(self, tenant: TenantId) -> None:
        """The tenant was deleted: let go of its model at once."""
        if tenant in self._followed:
            self._forget(tenant)

    def counts(self) -> ModelCounts:
        """Over all tenants: numbers alone, so that none learns of another."""
        problems = sum(followed.cause is not None for followed in self._followed.values())
        return ModelCounts(len(self._models), problems)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._config.poll_s)
            await self.refresh()

    def _is_due(self, tenant: TenantId, followed: _Followed, stamp: Stamp) -> bool:
        if stamp == _NO_FILE:
            return False
        if followed.failed is not None and followed.stamp == stamp:
            return self._monotonic_s() >= followed.retry_at_s
        if tenant in self._models:
            return followed.stamp != stamp
        return len(self._models) < self._config.tenants_max or tenant in self._wanted

    async def _reload(self, tenant: TenantId, followed: _Followed, stamp: Stamp) -> None:
        followed.stamp = stamp
        self._wanted.discard(tenant)
        now = self._models.get(tenant)
        try:
            model = await asyncio.to_thread(
                _load, self._directory / tenant, tenant, (now, followed.previous)
            )
        except Exception as error:  # noqa: BLE001 - whatever a model does, the service goes on
            followed.failed = _sentence(error)
            followed.retry_at_s = self._monotonic_s() + self._config.retry_s
            _log.error("model_not_loaded", tenant=tenant, problem=followed.failed)
            return
        followed.failed = None
        if model is None or model is now:
            return
        followed.previous = now
        followed.since_us = self._clock_us()
        self._put(model)
        _log.info("model_swapped", tenant=tenant, version=model.version, load_ms=model.load_ms)

    def _put(self, model: LoadedModel) -> None:
        self._models[model.tenant] = model
        self._models.move_to_end(model.tenant)
        while len(self._models) > self._config.tenants_max:
            tenant, _ = self._models.popitem(last=False)
            self._followed[tenant].previous = None

    def _forget(self, tenant: TenantId) -> None:
        """The loader's directory of the tenant was removed."""
        del self._followed[tenant]
        self._wanted.discard(tenant)
        if self._models.pop(tenant, None) is not None:
            _log.info("model_dropped", tenant=tenant)


def _look(directory: Path, seen_max: int) -> dict[TenantId, _Sight]:
    """The tenants that the loader handed something over for."""
    try:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in islice(entries, seen_max) if entry.is_dir())
    except FileNotFoundError:
        return {}
    sights = {}
    for name in names:
        with suppress(InvalidInput):
            tenant = check_tenant_id(name)
            sights[tenant] = _Sight(_stamp(directory / name / LIVE), _problem(directory / name))
    return sights


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return _NO_FILE
    return status.st_ino, status.st_size, status.st_mtime_ns


def _problem(home: Path) -> str | None:
    try:
        problem = read_problem(home)
    except RankingError as error:
        return str(error)
    return None if problem is None else f"version {problem.version}: {problem.sentence}"


def _load(
    home: Path, tenant: TenantId, held: tuple[LoadedModel | None, LoadedModel | None]
) -> LoadedModel | None:
    """The live model of a directory, one of those `held` where it is that; None if none is live."""
    live = read_live(home)
    if live is None:
        return held[0]
    for model in held:
        if model is not None and (model.version, model.digest) == (str(live.version), live.digest):
            return model
    return _load_bundle(home, tenant, live)


def _load_bundle(home: Path, tenant: TenantId, live: Live) -> LoadedModel:
    began_ns = time.perf_counter_ns()
    bundle = ModelBundle.load(home / live.path, digest=live.digest)  # scores the golden slate: warm
    if bundle.tenant != tenant:
        raise BundleDamaged(
            f"{home / live.path} belongs to tenant {bundle.tenant}: publish a model of {tenant}"
        )
    return LoadedModel(
        tenant=tenant,
        version=str(live.version),
        digest=live.digest,
        bundle=bundle,
        scorer=bundle.scorer(),
        factors=bundle.factors(),
        spec=bundle.spec,
        load_ms=round((time.perf_counter_ns() - began_ns) / 1e6, 1),
    )


def _sentence(error: Exception) -> str:
    if isinstance(error, RankingError):
        return str(error)
    return f"the model could not be loaded ({type(error).__name__}: {error}): see the log"
