"""Whose request it is: the tenant that an API key speaks for.

The tenant comes from the key alone: no path, parameter or body names one. How a key is written and
checked is `feeds.credentials`; here keys that were found are held for a moment, so that a request
costs one hash and no look-up.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBearer as HttpBearerModel
from fastapi.security.base import SecurityBase

from feeds.credentials import ApiKey, parse_api_key, verify
from feeds.model import TenantId
from serving.current_request import current_request
from serving.errors import KeyRefused, NotAllowed

__all__ = ["Authenticator", "KeyScheme", "Reader", "Writer"]

Scope = Literal["read", "write"]


class Authenticator:
    """Tells the tenant of a request from its `Authorization` header.

    Keys that were found are held for `cached_s` seconds, at most `cached_max` of them; a key that
    does not exist is never held, so that guessing cannot push the real ones out.
    """

    def __init__(
        self,
        find: Callable[[str], ApiKey | None],
        monotonic: Callable[[], float],
        cached_max: int,
        cached_s: float,
    ) -> None:
        self._find = find
        self._monotonic = monotonic
        self._cached_max = cached_max
        self._cached_s = cached_s
        self._cache: OrderedDict[str, tuple[ApiKey, float]] = OrderedDict()

    def tenant(self, authorization: str | None, scope: Scope) -> TenantId:
        """The tenant whose key the header holds.

        Raises `KeyRefused` where there is no valid key, `NotAllowed` where it lacks the scope.
        """
        key = self.key(authorization)
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
        if not verify(key, written[1]) or key is None:
            raise KeyRefused("this API key is not valid")
        return key

    def _found(self, key_id: str) -> ApiKey | None:
        now = self._monotonic()
        key, until = self._cache.get(key_id, (None, 0.0))
        if key is not None and now < until:
            self._cache.move_to_end(key_id)
            return key
        key = self._find(key_id)
        if key is None:
            self._cache.pop(key_id, None)
            return None
        self._cache[key_id] = (key, now + self._cached_s)
        self._cache.move_to_end(key_id)
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
        tenant = authenticator.tenant(request.headers.get("authorization"), self._scope)
        if (answered := current_request()) is not None:
            answered.tenant = tenant
        return tenant


Reader = Annotated[TenantId, Depends(KeyScheme("read"))]
"""The tenant of a key that may read."""

Writer = Annotated[TenantId, Depends(KeyScheme("write"))]
"""The tenant of a key that may write."""
