"""What a service lets go of where a tenant is deleted: slates, logs, metrics, models, and so on.

Tables, follows, configs, keys and quotas listen for themselves. Here is the rest, which is touched
on the event loop alone. A model that the loader handed over for the old tenant must not rank the
feeds of a new one of the same name: the loader is left word up to which version they are the old
one's.
"""

import asyncio
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from feeds.credentials import NO_TENANT
from feeds.engine import FeedEngine
from feeds.errors import NotFound
from feeds.events import Event
from feeds.model import TenantId
from ranking.errors import RankingError
from serving.handover import leave_behind
from serving.slate_log.shelf import tenants_of

__all__ = ["Departures", "Forgetful"]

_log = structlog.get_logger(__name__)


class Forgetful(Protocol):
    """Whatever holds something of tenants."""

    def forget(self, tenant: TenantId) -> None:
        """Hold nothing of the tenant any more; on the event loop."""
        ...


class Departures:
    """Hears of tenants that are deleted, and lets everyone forget them.

    A tenant is known by the log index at which it was created: one of the same name is another,
    also where both the end of the first and the begin of the second were missed.
    """

    def __init__(
        self,
        engine: FeedEngine,
        models: Path,
        slate_log: Path,
        holders: Sequence[Forgetful],
        remembered: Callable[[], Iterable[TenantId]] = tuple,
    ) -> None:
        """`remembered` are those of whom a holder knows from before this process began."""
        self._engine = engine
        self._models = models
        self._slate_log = slate_log
        self._holders = tuple(holders)
        self._remembered = remembered
        self._known: dict[TenantId, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        engine.subscribe(self._listen, self._missed)

    def start(self) -> None:
        """Listen on the running event loop, and forget whoever was deleted before."""
        self._loop = asyncio.get_running_loop()
        self._sweep()

    def stop(self) -> None:
        """Listen no longer."""
        self._loop = None

    def _listen(self, tenant: TenantId, index: int, events: Sequence[Event]) -> None:
        """Called by the thread that applies commands, after each."""
        del index
        if not events and self._loop is not None:
            self._loop.call_soon_threadsafe(self._look, tenant)

    def _missed(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._sweep)

    def _created(self, tenant: TenantId) -> int:
        """The log index at which the tenant was created; 0 where there is none."""
        try:
            return self._engine.tenant(tenant).index
        except NotFound:
            return 0

    def _look(self, tenant: TenantId) -> None:
        """Forget the tenant that was known by this name, if it is no more."""
        if tenant == NO_TENANT:
            return  # the operators' keys
        created, known = self._created(tenant), self._known.pop(tenant, 0)
        if created:
            self._known[tenant] = created
        if not created or known not in (0, created):
            self._forget(tenant)

    def _sweep(self) -> None:
        """Forget all that were known, are remembered or left files here, and are no more."""
        there = {tenant: self._created(tenant) for tenant in self._engine.tenants()}
        gone = [tenant for tenant, created in self._known.items() if there.get(tenant) != created]
        left = {
            *self._remembered(),
            *_tenants_in(self._models),
            *_tenants_in(self._slate_log),
        }
        self._known = there
        for tenant in sorted({*gone, *(left - there.keys())}):
            self._forget(tenant)

    def _forget(self, tenant: TenantId) -> None:
        for holder in self._holders:
            holder.forget(tenant)
        home = self._models / tenant
        try:
            leave_behind(self._models, tenant)
        except (OSError, RankingError) as error:
            _log.error("models_not_removed", tenant=tenant, problem=str(error))
        shutil.rmtree(home, ignore_errors=True)
        _log.info("tenant_forgotten", tenant=tenant)


def _tenants_in(directory: Path) -> list[TenantId]:
    """Those that have a directory there; none where it cannot be read, which its user tells of."""
    try:
        return tenants_of(directory)
    except OSError as error:
        _log.error("departures_not_seen", path=str(directory), problem=str(error))
        return []
