"""Ranked feeds, and ranking what the caller brings."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response

from feeds.errors import LimitExceeded
from feeds.model import check_user_id
from ranking.candidates import FeedKind
from serving.consistency import Consistent
from serving.http_protocol import BEGAN_NS
from serving.pages import explanation_bytes, slate_head
from serving.quality import TimeGiven
from serving.requests import JsonRoute, RankBody
from serving.routes import replies
from serving.routes.feeds import json_reply
from serving.routes.replies import ERRORS, Responses, services_of
from serving.tenants import Reader

__all__ = ["router"]

router = APIRouter(prefix="/v2/users", route_class=JsonRoute, responses=ERRORS, tags=["ranked"])

EXPIRED: Responses = {
    410: {"model": replies.Error, "description": "The slate is gone: read again."}
}


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
    deadline_ms: Annotated[
        float | None,
        Query(
            ge=0, le=60_000, description="Milliseconds that it may take; 0: the cheapest answer."
        ),
    ] = None,
) -> Response:
    """`personalized`: what the user follows, in the best order. `explore`: what lies outside."""
    services = services_of(request)
    time = TimeGiven(deadline_ms, request.scope.get(BEGAN_NS))
    size = services.feeds.page_size_default if limit is None else limit
    if not 1 <= size <= services.feeds.page_size_max:
        raise LimitExceeded(
            f"limit is {size}, page_size_max is {services.feeds.page_size_max}: ask for 1 to "
            f"{services.feeds.page_size_max}"
        )
    page = await services.reader.read(
        tenant, check_user_id(user), kind, limit=size, cursor=cursor, explain=explain, time=time
    )
    return json_reply(page.content)


@router.post("/{user}/rank", response_model=replies.RankedReply, summary="Rank my candidates")
async def rank(
    request: Request, tenant: Reader, _: Consistent, user: str, body: RankBody
) -> Response:
    """The caller's activities in the best order for the user; nothing vanishes without a reason."""
    services = services_of(request)
    time = TimeGiven(body.deadline_ms, request.scope.get(BEGAN_NS))
    slate, unknown = await services.reader.rank(
        tenant, check_user_id(user), body.candidates, explain=body.explain, time=time
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
    rest = {"results": results, "removed": slate.removed, "unknown": unknown}
    parts = [slate_head(slate)[:-1], b",", orjson.dumps(rest)[1:-1]]
    if slate.explanation is not None:
        parts += [b',"explanation":', explanation_bytes(slate, range(len(slate.ranked)))]
    return json_reply(b"".join([*parts, b"}"]))
