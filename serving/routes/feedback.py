"""What users say of what they are shown: hide, report, mute, more of this, less of that."""

import asyncio
from collections.abc import Awaitable

import orjson
from fastapi import APIRouter, Request, Response

from feeds.errors import NotFound
from feeds.events import HIDING_KINDS
from feeds.model import TenantId
from feeds.results import RecordResult
from serving.compose import Services
from serving.feedback import FeedbackBody
from serving.requests import JsonRoute
from serving.routes import replies
from serving.routes.feeds import CONFLICT, IdempotencyKey, json_reply
from serving.routes.replies import ERRORS, Responses, services_of
from serving.tenants import Writer

__all__ = ["router"]

router = APIRouter(prefix="/v2", route_class=JsonRoute, responses=ERRORS, tags=["events"])

UNKNOWN: Responses = {404: {"model": replies.Error, "description": "There is no such activity."}}


@router.post(
    "/feedback",
    status_code=201,
    response_model=replies.FeedbackTaken,
    responses=CONFLICT | UNKNOWN,
    summary="Hide, report, mute, show more or less",
)
async def give(
    request: Request,
    tenant: Writer,
    body: FeedbackBody,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Take in what a user says; every later read of the user's ranked feeds honours it."""
    result = await _given(services_of(request), tenant, body, idempotency_key)
    if result.unknown:
        raise NotFound(
            f"there is no activity {body.activity_id}: send the id that a feed gave; nothing was "
            "changed"
        )
    return json_reply(orjson.dumps({"index": result.index, "duplicate": result.duplicate}), 201)


def _given(
    services: Services, tenant: TenantId, body: FeedbackBody, key: str | None
) -> Awaitable[RecordResult]:
    engine, now_us = services.engine, services.clock_us()
    content = body.model_dump_json().encode()
    if body.kind in HIDING_KINDS:
        hidden = [body.engagement(now_us)]
        return asyncio.wrap_future(engine.record(tenant, hidden, key, content))
    return asyncio.wrap_future(engine.give_feedback(tenant, body.given(now_us), key, content))
