"""What a service lets go of where a tenant is deleted: its slates, its models.

Tables, follows, keys and quotas listen for themselves. Here is the rest, which is touched on the
event loop alone. A model that the loader handed over for the old tenant must not rank the feeds of
a new one of the same name: the loader is left word up to which version they are the old one's.
"""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import structlog

from feeds.engine import FeedEngine
from feeds.errors import InvalidInput, NotFound
from feeds.events import Event
from feeds.model import TenantId, check_tenant_id
from serving.handover import leave_behind

__all__ = ["Departures", "Forgetful"]

_log = structlog.get_logger(__name__)


class Forgetful(Protocol):
    """Whatever holds something of tenants."""

    def forget(self, tenant: TenantId) -> None:
        """Hold nothing of the tenant any more; on the event loop."""
        ...


class Departures:
    """Hears of tenants that are deleted, and lets everyone forget them."""

    def __init__(self, engine: FeedEngine, models: Path, holders: Sequence[Forgetful]) -> None:
        self._engine = engine
        self._models = models
        self._holders = tuple(holders)
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
        if not events and self._loop is not None and not self._exists(tenant):
            self._loop.call_soon_threadsafe(self._forget, tenant)

    def _missed(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._sweep)

    def _exists(self, tenant: TenantId) -> bool:
        try:
            self._engine.tenant(tenant)
        except NotFound:
            return False
        return True

    def _sweep(self) -> None:
        """Forget the tenants that a model was handed over for and that do not exist."""
        if not self._models.is_dir():
            return
        for home in self._models.iterdir():
            try:
                tenant = check_tenant_id(home.name)
            except InvalidInput:
                continue
            if home.is_dir() and not self._exists(tenant):
                self._forget(tenant)

    def _forget(self, tenant: TenantId) -> None:
        for holder in self._holders:
            holder.forget(tenant)
        home = self._models / tenant
        try:
            leave_behind(self._models, tenant)
        except OSError as error:
            _log.error("models_not_removed", tenant=tenant, problem=str(error))
        shutil.rmtree(home, ignore_errors=True)
        _log.info("tenant_forgotten", tenant=tenant)
