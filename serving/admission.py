"""Who comes in, and when: the key, the quota, and turns; before anything of a request is read.

A request over its tenant's quota is answered here, for a few microseconds of this process. One that
is within it takes its turn: in each turn of the event loop one request of each tenant begins, those
of one tenant in the order in which they came. So whoever sends a thousand requests at once waits
for himself, and the next request of another tenant waits for one of them.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from feeds.credentials import NO_TENANT, ApiKey
from feeds.errors import NotFound
from feeds.model import TenantId
from serving.errors import KeyRefused, OverQuota, error_response
from serving.quotas import TenantQuotas
from serving.telemetry import Metrics
from serving.tenants import KEY, Authenticator

__all__ = ["AdmissionConfig", "AdmissionMiddleware", "Turns"]

API: Final = "/v2/"
"""What needs a key begins so."""

EVENTS: Final = "/v2/events"
"""The path whose bodies are events."""


_PASSES: Final = 3
"""Passes of the event loop between two turns: one works, one reads what arrived, one begins it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionConfig:
    """How those who are over their quota are answered."""

    pause_s: float = 0.05
    """Seconds that a refusal waits: who asks again at once costs a twentieth then."""
    paused_max: int = 64
    """Refusals of a tenant that wait at once at most; others are answered at once."""


class Turns:
    """In each turn of the running event loop, one of each tenant begins.

    Between two turns the loop looks at its sockets once: who came meanwhile begins before the next
    of a tenant who has begun already.
    """

    def __init__(self) -> None:
        self._waiting: dict[TenantId, deque[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        """How many wait."""
        return sum(len(queue) for queue in self._waiting.values())

    async def take(self, tenant: TenantId) -> None:
        """Return when it is the caller's turn; at once where none of the tenant began in this."""
        loop = asyncio.get_running_loop()
        queue = self._waiting.get(tenant)
        if queue is None:
            if not self._waiting:
                self._look_first(loop)
            self._waiting[tenant] = deque()
            return
        turn = loop.create_future()
        queue.append(turn)
        await turn

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        for tenant, queue in list(self._waiting.items()):
            while queue and queue[0].done():  # who waited was cancelled
                queue.popleft()
            if queue:
                queue.popleft().set_result(None)
            else:
                del self._waiting[tenant]
        if self._waiting:
            self._look_first(loop)

    def _look_first(self, loop: asyncio.AbstractEventLoop, passes: int = _PASSES) -> None:
        """Take the next turn once what has arrived by then was read, and has begun."""
        if passes:
            loop.call_soon(self._look_first, loop, passes - 1)
        else:
            self._next(loop)


class AdmissionMiddleware:
    """Looks at the key of a request once, counts it, and lets it take its turn.

    Without a good key it is passed on as it is: what is there for it, if anything, the routes know.
    """

    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        quotas: TenantQuotas,
        metrics: Metrics,
        config: AdmissionConfig = AdmissionConfig(),
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._quotas = quotas
        self._metrics = metrics
        self._config = config
        self._turns = Turns()
        self._paused: dict[TenantId, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and scope["path"].startswith(API):
            try:
                key = self._authenticator.key(_authorization(scope["headers"]))
            except KeyRefused:
                pass
            else:
                scope[KEY] = key
                if key.tenant != NO_TENANT and await self._refused(key, scope, receive, send):
                    return
        await self._app(scope, receive, send)

    async def _refused(self, key: ApiKey, scope: Scope, receive: Receive, send: Send) -> bool:
        """Count the request, and answer it where it is too many; else wait for its turn."""
        tenant = key.tenant
        try:
            self._quotas.request(tenant)
            if scope["path"] == EVENTS and scope["method"] == "POST":
                self._quotas.check_events(tenant)
        except NotFound:
            return False  # the tenant was deleted a moment ago: the routes say so
        except OverQuota as error:
            self._metrics.quota_refusals.labels(error.quota).inc()
            await self._pause(tenant, error.wait_s)
            answer = error_response(error.answer, error.detail, error.more_info, error.headers)
            await answer(scope, receive, send)
            return True
        await self._turns.take(tenant)
        return False

    async def _pause(self, tenant: TenantId, wait_s: float) -> None:
        paused = self._paused.get(tenant, 0)
        if paused >= self._config.paused_max:
            return
        self._paused[tenant] = paused + 1
        try:
            await asyncio.sleep(min(wait_s, self._config.pause_s))
        finally:
            self._paused[tenant] -= 1
            if not self._paused[tenant]:
                del self._paused[tenant]


def _authorization(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        if name == b"authorization":
            return value.decode("latin-1")
    return None
