"""Posting to feeds, following them and reading them newest first."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Header, Query, Request, Response

from feeds.model import FeedId, encode_body
from serving.consistency import Consistent
from serving.current_request import applied
from serving.requests import ActivityBody, FollowBody, JsonRoute
from serving.routes import replies
from serving.routes.replies import ERRORS, Responses, services_of
from serving.tenants import Reader, Writer

__all__ = ["router"]

router = APIRouter(prefix="/v2", route_class=JsonRoute, responses=ERRORS, tags=["feeds"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A text of your own: sent again within a day, nothing is done again.",
    ),
]
CONFLICT: Responses = {
    409: {
        "model": replies.Error,
        "description": "The idempotency key was used with other content.",
    }
}


def json_reply(content: bytes, status: int = 200) -> Response:
    """Encoded JSON as it is."""
    return Response(content, status, media_type="application/json")


@router.get("/feeds/{group}/{feed}", response_model=replies.FeedPage, summary="Read a feed")
async def read(
    request: Request,
    tenant: Reader,
    _: Consistent,
    group: str,
    feed: str,
    limit: Annotated[int | None, Query(description="Activities, 25 unless told, 100 most.")] = None,
    cursor: Annotated[str | None, Query(description="`next` of the page before.")] = None,
) -> Response:
    """A page of a feed, newest first."""
    engine = services_of(request).engine
    page = engine.read(tenant, FeedId.parse(f"{group}:{feed}"), limit, cursor)
    parts = [b'{"results":[', b",".join(page.bodies), b'],"next":', orjson.dumps(page.next), b"}"]
    return json_reply(b"".join(parts))


@router.post(
    "/feeds/{group}/{feed}/activities",
    status_code=201,
    response_model=replies.Posted,
    responses=CONFLICT,
    summary="Post an activity",
)
async def post(
    request: Request,
    tenant: Writer,
    group: str,
    feed: str,
    body: ActivityBody,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Post an activity to a feed, and before its followers; durable when it is answered."""
    engine = services_of(request).engine
    home = FeedId.parse(f"{group}:{feed}")
    future = engine.post(tenant, home, body.draft(), idempotency_key)
    result = await applied(future)
    activity = encode_body(result.activity)[:-1] + b',"origin":null}'
    rest = orjson.dumps({"index": result.index, "duplicate": result.duplicate})
    return json_reply(b'{"activity":' + activity + b"," + rest[1:], 201)


@router.delete("/activities/{activity}", response_model=replies.Removed, summary="Remove")
async def remove(request: Request, tenant: Writer, activity: str) -> Response:
    """Remove an activity from every feed; it is no error if there is none."""
    result = await applied(services_of(request).engine.remove(tenant, activity))
    return json_reply(orjson.dumps({"index": result.index, "removed": result.removed}))


@router.post(
    "/feeds/{group}/{feed}/follows",
    status_code=201,
    response_model=replies.Followed,
    summary="Follow a feed",
)
async def follow(
    request: Request, tenant: Writer, group: str, feed: str, body: FollowBody
) -> Response:
    """Let a feed follow another; it is no error if it does."""
    future = services_of(request).engine.follow(
        tenant,
        FeedId.parse(f"{group}:{feed}"),
        FeedId.parse(body.target),
        copy_limit=body.copy_limit,
    )
    result = await applied(future)
    return json_reply(orjson.dumps({"index": result.index, "copied": result.copied}), 201)


@router.delete(
    "/feeds/{group}/{feed}/follows/{target}",
    response_model=replies.Removed,
    summary="Unfollow a feed",
)
async def unfollow(
    request: Request,
    tenant: Writer,
    group: str,
    feed: str,
    target: str,
    keep_history: Annotated[
        bool, Query(description="Whether what the feed has of the target stays.")
    ] = False,
) -> Response:
    """Let a feed no longer follow another; it is no error if it does not."""
    future = services_of(request).engine.unfollow(
        tenant, FeedId.parse(f"{group}:{feed}"), FeedId.parse(target), keep_history=keep_history
    )
    result = await applied(future)
    return json_reply(orjson.dumps({"index": result.index, "removed": result.removed}))
