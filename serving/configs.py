"""Which ranking config a tenant's feeds follow: its active version, or the service's default.

A config is read from the store and parsed once, and held until the engine tells that the tenant was
changed; so a read asks no store, and an activation is followed by every worker as soon as it sees
it. A document that this release cannot read, since another one saved it, is told as a problem, and
the default ranks meanwhile: a feed is never refused because of its config.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson
import structlog

from feeds.engine import FeedEngine
from feeds.events import Event
from feeds.model import TenantId
from feeds.reader import StoreReader
from ranking.config import RankingConfig
from ranking.config_options import ExplorationOptions, SourcesOptions
from ranking.errors import InvalidRankingConfig
from ranking.sources import CANDIDATES_MAX
from serving.settings import Settings

__all__ = [
    "ActiveVersion",
    "HeldConfigs",
    "RankingConfigs",
    "active_version",
    "read_config",
    "service_config",
    "write_config",
]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ActiveVersion:
    """A config and its version: 0 is the default. `problem` says why another one is not read."""

    version: int
    config: RankingConfig
    problem: str | None = None


class RankingConfigs(Protocol):
    """The ranking config of each tenant."""

    def of(self, tenant: TenantId) -> ActiveVersion:
        """What ranks the tenant's feeds; raises `NotFound` where there is no such tenant."""
        ...


class HeldConfigs:
    """The configs of the tenants that were asked for last, at most `held_max`. Any thread may ask.

    What changed is asked for anew: the engine tells it before the change is acknowledged.
    """

    def __init__(self, engine: FeedEngine, default: RankingConfig, held_max: int) -> None:
        """`default` is of tenants that have activated none of their own."""
        self.default = ActiveVersion(0, default)
        self._engine = engine
        self._held_max = held_max
        self._lock = threading.Lock()
        self._held: OrderedDict[TenantId, ActiveVersion] = OrderedDict()
        self._changes = 0
        engine.subscribe(self._listen, self._missed)

    def __len__(self) -> int:
        """How many are held."""
        return len(self._held)

    def of(self, tenant: TenantId) -> ActiveVersion:
        """As `RankingConfigs.of`."""
        with self._lock:
            held = self._held.get(tenant)
            if held is not None:
                self._held.move_to_end(tenant)
                return held
            changes = self._changes
        found = self._read(tenant)
        with self._lock:
            # What was changed while it was read may be older than the change: not worth holding.
            if changes == self._changes:
                self._held[tenant] = found
                if len(self._held) > self._held_max:
                    self._held.popitem(last=False)
        return found

    def version(self, tenant: TenantId, version: int) -> RankingConfig:
        """One that is kept, 0 for the default; read from the store, from any thread.

        Raises `NotFound` where it is not kept, `InvalidRankingConfig` where this release cannot
        read it.
        """
        if version == self.default.version:
            return self.default.config
        return read_config(self._engine.ranking_config(tenant, version))

    def _read(self, tenant: TenantId) -> ActiveVersion:
        return active_version(self._engine, tenant, self.default)

    def _listen(self, tenant: TenantId, index: int, events: Sequence[Event]) -> None:
        """Called by the thread that applies commands, after each."""
        del index
        if not events:
            with self._lock:
                self._changes += 1
                self._held.pop(tenant, None)

    def _missed(self) -> None:
        """Called by the thread that catches up with a node's store, where commands were missed."""
        with self._lock:
            self._changes += 1
            self._held.clear()


def active_version(store: StoreReader, tenant: TenantId, default: ActiveVersion) -> ActiveVersion:
    """What ranks a tenant's feeds; the default where nothing was activated, or is not read."""
    version, document = store.active_ranking_config(tenant)
    if document is None:
        return default
    try:
        return ActiveVersion(version, read_config(document))
    except InvalidRankingConfig as error:
        _log.error("ranking_config_unread", tenant=tenant, version=version, why=str(error))
        problem = (
            f"version {version} is active and cannot be read by this release, so the default "
            f"ranks: {error}"
        )
        return ActiveVersion(default.version, default.config, problem)


def read_config(document: bytes) -> RankingConfig:
    """The config of a stored document; raises `InvalidRankingConfig` with every problem."""
    try:
        content = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise InvalidRankingConfig(
            [f"a ranking config is JSON, and this is not: {error}"]
        ) from None
    return RankingConfig.parse(content)


def write_config(config: RankingConfig) -> bytes:
    """The config as it is stored: whole, so that it means the same under other defaults."""
    return orjson.dumps(config.to_document())


def service_config(settings: Settings) -> RankingConfig:
    """The config of tenants that have none: the default, with what the service's settings say."""
    default = RankingConfig.default()
    common = {"deadline_ms": settings.deadline_ms, "slate_size": settings.slate_size_max}
    chance = ExplorationOptions(policy="epsilon", rate=settings.explore_epsilon)
    more = max(1.0, settings.candidates_max / CANDIDATES_MAX)
    personalized, explore = (
        feed.model_copy(update={**common, "sources": _grown(feed.sources, more)})
        for feed in (default.personalized, default.explore)
    )
    return RankingConfig(
        personalized=personalized, explore=explore.model_copy(update={"exploration": chance})
    )


def _grown(sources: SourcesOptions, factor: float) -> SourcesOptions:
    """The sources with quotas so many times as large."""
    return sources.model_copy(
        update={
            name: each.model_copy(update={"quota": round(each.quota * factor)})
            for name, each in sources.named().items()
        }
    )
