"""Whose request it is: the tenant that an API key speaks for.

The tenant comes from the key alone: no path, parameter or body names one, but an operator's. How a
key is written and checked is `feeds.credentials`; here keys that were found are held for a moment,
so that a request costs one hash and no look-up.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal

from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBearer as HttpBearerModel
from fastapi.security.base import SecurityBase

from feeds.credentials import ApiKey, parse_api_key, verify
from feeds.engine import system_clock_us
from feeds.events import Event
from feeds.model import TenantId
from serving.current_request import current_request
from serving.errors import KeyRefused, NotAllowed

__all__ = [
    "KEY",
    "Admin",
    "Authenticator",
    "KeyScheme",
    "Operator",
    "Reader",
    "Writer",
    "tenant_of",
]

KEY: Final = "headwater.key"
"""Key of a request's scope under which its `ApiKey` stands, once it was found good."""

Scope = Literal["read", "write", "admin", "operator"]


class Authenticator:
    """Tells the tenant of a request from its `Authorization` header.

    Keys that were found are held for `cached_s` seconds, at most `cached_max` of them; a key that
    does not exist is never held, so that guessing cannot push the real ones out. `changed` lets go
    of a tenant's: so a key that was revoked is refused once this process has heard of it.
    """

    def __init__(
        self,
        find: Callable[[str], ApiKey | None],
        monotonic: Callable[[], float],
        cached_max: int,
        cached_s: float,
        clock_us: Callable[[], int] = system_clock_us,
    ) -> None:
        self._find = find
        self._clock_us = clock_us
        self._monotonic = monotonic
        self._cached_max = cached_max
        self._cached_s = cached_s
        self._lock = threading.Lock()
        self._changes = 0
        self._cache: OrderedDict[str, tuple[ApiKey, float]] = OrderedDict()

    def tenant(
        self, authorization: str | None, scope: Scope, known: ApiKey | None = None
    ) -> TenantId:
        """The tenant whose key the header holds; `known` is that key, if it was looked at before.

        Raises `KeyRefused` where there is no valid key, `NotAllowed` where it lacks the scope.
        """
        key = known or self.key(authorization)
        if scope not in key.scopes:
            raise NotAllowed(
                f"this API key may not {scope}: it allows {', '.join(key.scopes) or 'nothing'}",
                more_info="Use a key with that scope.",
            )
        return key.tenant

    def key(self, authorization: str | None) -> ApiKey:
        """The key that the header holds; raises `KeyRefused` where that is no valid one."""
        if not authorization:
            raise KeyRefused("this request has no API key")
        scheme, _, text = authorization.partition(" ")
        written = parse_api_key(text.strip()) if scheme.lower() == "bearer" else None
        if written is None:
            raise KeyRefused("the Authorization header does not hold a Headwater key")
        key = self._found(written[0])
        if not verify(key, written[1]) or key is None or key.expired(self._clock_us()):
            raise KeyRefused("this API key is not valid")
        return key

    def changed(self, tenant: TenantId, index: int, events: Sequence[Event]) -> None:
        """Let go of a tenant's keys where the tenant itself was changed; any thread may tell."""
        del index
        if not events:
            with self._lock:
                self._changes += 1
                held = [one for one, (key, _) in self._cache.items() if key.tenant == tenant]
                for key_id in held:
                    del self._cache[key_id]

    def missed(self) -> None:
        """Let go of every key, where changes were missed."""
        with self._lock:
            self._changes += 1
            self._cache.clear()

    def _found(self, key_id: str) -> ApiKey | None:
        now = self._monotonic()
        with self._lock:
            key, until = self._cache.get(key_id, (None, 0.0))
            if key is not None and now < until:
                self._cache.move_to_end(key_id)
                return key
            changes = self._changes
        key = self._find(key_id)
        with self._lock:
            self._cache.pop(key_id, None)
            # What was changed while it was read may be older than the change: not worth holding.
            if key is not None and changes == self._changes:
                self._cache[key_id] = (key, now + self._cached_s)
                if len(self._cache) > self._cached_max:
                    self._cache.popitem(last=False)
        return key


class KeyScheme(SecurityBase):
    """The dependency that gives a route its tenant, and its place in the OpenAPI document."""

    def __init__(self, scope: Scope) -> None:
        self.model = HttpBearerModel(
            bearerFormat="hw_<key id>_<secret>", description="An API key of the tenant."
        )
        self.scheme_name = "ApiKey"
        self._scope: Scope = scope

    async def __call__(self, request: Request) -> TenantId:
        """The tenant of the request's key."""
        authenticator: Authenticator = request.app.state.services.authenticator
        authorization = request.headers.get("authorization")
        return tenant_of(authenticator, self._scope, request.scope.get(KEY), authorization)


def tenant_of(
    authenticator: Authenticator,
    scope: Scope,
    key: ApiKey | None,
    authorization: str | None = None,
) -> TenantId:
    """The tenant of a request, by the key found before or its header; the request notes it.

    Raises as `Authenticator.tenant`.
    """
    tenant = authenticator.tenant(authorization, scope, key)
    if (answered := current_request()) is not None:
        answered.tenant = tenant
    return tenant


Reader = Annotated[TenantId, Depends(KeyScheme("read"))]
"""The tenant of a key that may read."""

Writer = Annotated[TenantId, Depends(KeyScheme("write"))]
"""The tenant of a key that may write."""

Admin = Annotated[TenantId, Depends(KeyScheme("admin"))]
"""The tenant of a key that may manage the tenant: its keys, and how its feeds are ranked."""

Operator = Annotated[TenantId, Depends(KeyScheme("operator"))]
"""Nobody: the key is an operator's, who may make, bound and delete tenants."""
