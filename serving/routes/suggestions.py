"""Whom to follow, and what became of that."""

import asyncio
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field

from feeds.events import FeedbackGiven
from feeds.model import FeedId, check_user_id
from serving.consistency import Consistent
from serving.requests import Body, JsonRoute
from serving.routes import replies
from serving.routes.feeds import json_reply
from serving.routes.replies import ERRORS, page_size, services_of
from serving.suggestions import Suggester
from serving.tenants import Reader, Writer

__all__ = ["router"]

router = APIRouter(prefix="/v2/users", route_class=JsonRoute, responses=ERRORS, tags=["follows"])


class SuggestionsBody(Body):
    """What became of suggestions; either way they are not made again."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"accepted": ["user:alice"], "rejected": ["user:eve"]}]}
    )

    accepted: list[str] = Field(
        [], max_length=100, description="Feeds that the user follows now, 100 at most."
    )
    rejected: list[str] = Field(
        [], max_length=100, description="Feeds that the user does not want, 100 at most."
    )


@router.get(
    "/{user}/follow_suggestions", response_model=replies.Suggestions, summary="Whom to follow"
)
async def suggest(
    request: Request,
    tenant: Reader,
    _: Consistent,
    user: str,
    limit: Annotated[int | None, Query(description="Feeds, 25 unless told, 100 most.")] = None,
) -> Response:
    """Feeds to follow, the best first, each with why."""
    services = services_of(request)
    size = page_size(services, limit)
    found = await Suggester(services.reader).suggest(tenant, check_user_id(user), size)
    return json_reply(orjson.dumps({"results": found}))


@router.post(
    "/{user}/follow_suggestions/feedback",
    status_code=201,
    response_model=replies.SuggestionsTaken,
    summary="Accept or reject suggestions",
)
async def give(request: Request, tenant: Writer, user: str, body: SuggestionsBody) -> Response:
    """Take in what became of suggestions: none of them is made again. Following is another call."""
    services = services_of(request)
    engine, now_us, who = services.engine, services.clock_us(), check_user_id(user)
    for feed in (*body.accepted, *body.rejected):
        engine.check_feed(FeedId.parse(feed))
    given = [
        FeedbackGiven(time_us=now_us, user=who, kind="accept", to=tuple(body.accepted)),
        FeedbackGiven(time_us=now_us, user=who, kind="reject", to=tuple(body.rejected)),
    ]
    futures = [engine.give_feedback(tenant, each) for each in given if each.to]
    results = [await asyncio.wrap_future(future) for future in futures]
    index = max((result.index for result in results), default=engine.applied_index())
    return json_reply(orjson.dumps({"index": index}), 201)
