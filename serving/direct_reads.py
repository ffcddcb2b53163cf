"""Ranked reads on a short way: the commonest request, answered before the router.

From a path to a function by way of router, dependencies and parameters FastAPI takes as long as
ranking 100 candidates does. A read whose head says nothing but plain parameters is parsed here in
one pass, and answered by the function that the route calls too. Whatever else comes goes on to the
route, which knows every rule and says what is wrong: another method, path, parameter or header, a
value that may not be right. The law, in `tests/serving/test_direct_reads.py`: a query that is
parsed here means what FastAPI reads from it.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, cast, get_args

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from feeds.errors import FeedsError
from ranking.candidates import FeedKind
from serving.compose import Services
from serving.consistency import DEFAULT
from serving.errors import on_feeds_error, on_http_error
from serving.routes.ranked import RankedQuery, answer
from serving.tenants import KEY, tenant_of

__all__ = ["DirectReads", "plain_query"]

_PATH: Final = re.compile(rf"/v2/users/([^/]+)/feeds/({'|'.join(get_args(FeedKind))})")

_PLAIN: Final[Mapping[bytes, re.Pattern[bytes]]] = MappingProxyType(
    {
        b"limit": re.compile(rb"0|[1-9]\d{0,3}"),
        b"cursor": re.compile(rb"[A-Za-z0-9_-]+"),
        b"explain": re.compile(rb"true|false"),
        b"exclude": re.compile(rb"[0-9a-f-]+"),
        b"deadline_ms": re.compile(rb"\d{1,4}(?:\.\d{1,3})?"),
    }
)
"""What a value looks like that can be read in one way only: no escapes, no limit in sight."""


def plain_query(query: bytes) -> RankedQuery | None:
    """The parameters of a query, or None where it takes the route to read them.

    >>> plain_query(b"limit=25&explain=true")
    RankedQuery(limit=25, cursor=None, explain=True, exclude=(), deadline_ms=None)
    >>> plain_query(b"limit=a+few") is None
    True
    """
    found: dict[bytes, str] = {}
    exclude: list[str] = []
    for pair in query.split(b"&") if query else ():
        name, _, value = pair.partition(b"=")
        plain = _PLAIN.get(name)
        if plain is None or name in found or plain.fullmatch(value) is None:
            return None
        if name == b"exclude":
            exclude.append(value.decode())
        else:
            found[name] = value.decode()
    limit, deadline_ms = found.get(b"limit"), found.get(b"deadline_ms")
    return RankedQuery(
        limit=None if limit is None else int(limit),
        cursor=found.get(b"cursor"),
        explain=found.get(b"explain") == "true",
        exclude=tuple(exclude),
        deadline_ms=None if deadline_ms is None else float(deadline_ms),
    )


class DirectReads:
    """Answers plain ranked reads; passes on everything else. Stands behind admission."""

    def __init__(self, app: ASGIApp, services: Services, route: BaseRoute) -> None:
        """`route` is what metrics and logs know these reads by."""
        self._app = app
        self._services = services
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        path, query = None, None
        if scope["type"] == "http" and scope["method"] == "GET" and KEY in scope:
            path = _PATH.fullmatch(scope["path"])
        if path is not None and not scope.get("root_path") and not _says_content_type(scope):
            query = plain_query(scope["query_string"])
        if path is None or query is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route
        response = await self._answer(scope, path[1], cast("FeedKind", path[2]), query)
        await response(scope, receive, send)

    async def _answer(
        self, scope: Scope, user: str, kind: FeedKind, query: RankedQuery
    ) -> Response:
        services = self._services
        try:
            tenant = tenant_of(services.authenticator, "read", scope[KEY])
            await services.reads.admit(DEFAULT, 0)
            return await answer(services, scope, tenant, user, kind, query)
        except FeedsError as error:
            return await on_feeds_error(Request(scope), error)
        except HTTPException as error:
            return await on_http_error(Request(scope), error)


def _says_content_type(scope: Scope) -> bool:
    """Whether the content type is to be looked at, which the route does."""
    return any(name == b"content-type" for name, _ in scope["headers"])
