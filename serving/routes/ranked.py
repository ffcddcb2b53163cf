"""Ranked feeds, and ranking what the caller brings."""

from typing import Annotated, NamedTuple

import orjson
from fastapi import APIRouter, Query, Request, Response
from starlette.routing import BaseRoute
from starlette.types import Scope

from feeds.model import TenantId, check_user_id
from ranking.candidates import FeedKind
from ranking.extractors.caller import CALLER
from serving.compose import Services
from serving.consistency import Consistent
from serving.http_protocol import BEGAN_NS
from serving.pages import explanation_bytes, slate_head
from serving.quality import TimeGiven
from serving.requests import JsonRoute, RankBody
from serving.routes import replies
from serving.routes.feeds import json_reply
from serving.routes.replies import ERRORS, Responses, page_size, services_of
from serving.tenants import Reader

__all__ = ["RankedQuery", "answer", "read_route", "router"]

router = APIRouter(prefix="/v2/users", route_class=JsonRoute, responses=ERRORS, tags=["ranked"])

EXPIRED: Responses = {
    410: {"model": replies.Error, "description": "The slate is gone: read again."}
}


class RankedQuery(NamedTuple):
    """What a ranked read asks for; `serving.direct_reads` parses it too."""

    limit: int | None
    cursor: str | None
    explain: bool
    exclude: tuple[str, ...]
    deadline_ms: float | None


async def answer(
    services: Services,
    scope: Scope,
    tenant: TenantId,
    user: str,
    kind: FeedKind,
    query: RankedQuery,
) -> Response:
    """The page that a read asks for; raises what the engine and the reader do."""
    page = await services.reader.read(
        tenant,
        check_user_id(user),
        kind,
        limit=page_size(services, query.limit),
        cursor=query.cursor,
        explain=query.explain,
        exclude=query.exclude,
        time=TimeGiven(query.deadline_ms, scope.get(BEGAN_NS)),
    )
    return json_reply(page.content)


@router.get(
    "/{user}/feeds/{kind}",
    response_model=replies.RankedPage,
    responses=EXPIRED,
    summary="Read a ranked feed",
)
async def read(
    request: Request,
    tenant: Reader,
    _: Consistent,
    user: str,
    kind: FeedKind,
    limit: Annotated[int | None, Query(description="Activities, 25 unless told, 100 most.")] = None,
    cursor: Annotated[str | None, Query(description="`next` of the page before.")] = None,
    explain: Annotated[
        bool, Query(description="Whether the reply says how it came about.")
    ] = False,
    exclude: Annotated[
        tuple[str, ...],
        Query(description="Ids of activities to leave out, 200 at most, each as `exclude=`."),
    ] = (),
    deadline_ms: Annotated[
        float | None,
        Query(
            ge=0, le=60_000, description="Milliseconds that it may take; 0: the cheapest answer."
        ),
    ] = None,
) -> Response:
    """`personalized`: what the user follows, in the best order. `explore`: what lies outside."""
    query = RankedQuery(limit, cursor, explain, exclude, deadline_ms)
    return await answer(services_of(request), request.scope, tenant, user, kind, query)


def read_route() -> BaseRoute:
    """The route of `read`."""
    return next(each for each in router.routes if getattr(each, "endpoint", None) is read)


@router.post("/{user}/rank", response_model=replies.RankedReply, summary="Rank my candidates")
async def rank(
    request: Request, tenant: Reader, _: Consistent, user: str, body: RankBody
) -> Response:
    """The caller's activities in the best order for the user; nothing vanishes without a reason."""
    services = services_of(request)
    time = TimeGiven(body.deadline_ms, request.scope.get(BEGAN_NS))
    slate, unknown = await services.reader.rank(
        tenant, check_user_id(user), body.candidates, caller=body.caller, time=time
    )
    results = [
        {
            "id": place.activity_id,
            "position": place.position,
            "score": place.score,
            "reason": place.reason,
        }
        for place in slate.ranked
    ]
    explained = slate.explanation.activities if slate.explanation else ()
    read = {name for activity in explained[:1] for name in activity.features}
    unread = [name for name in body.features if explained and CALLER + name not in read]
    rest = {
        "results": results,
        "removed": slate.removed,
        "unknown": unknown,
        "unread_features": unread,
    }
    parts = [slate_head(slate)[:-1], b",", orjson.dumps(rest)[1:-1]]
    if body.explain and slate.explanation is not None:
        parts += [b',"explanation":', explanation_bytes(slate, range(len(slate.ranked)))]
    return json_reply(b"".join([*parts, b"}"]))
