"""What users saw and did."""

import orjson
from fastapi import APIRouter, Request, Response

from serving.current_request import applied, current_request
from serving.requests import EventsBody, JsonRoute
from serving.routes import replies
from serving.routes.feeds import CONFLICT, IdempotencyKey, json_reply
from serving.routes.replies import ERRORS, services_of
from serving.tenants import Writer

__all__ = ["router"]

router = APIRouter(prefix="/v2", route_class=JsonRoute, responses=ERRORS, tags=["events"])


@router.post(
    "/events",
    status_code=201,
    response_model=replies.Recorded,
    responses=CONFLICT,
    summary="Record impressions and engagements",
)
async def record(
    request: Request,
    tenant: Writer,
    body: EventsBody,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Record events; the next read of any feed reckons with them."""
    services = services_of(request)
    events = body.facts(services.clock_us(), services.feeds.events_batch_max)
    services.quotas.events(tenant, len(events))
    content = body.model_dump_json().encode() if idempotency_key is not None else None
    future = services.engine.record(tenant, events, idempotency_key, content)
    result = await applied(future)
    if (answered := current_request()) is not None:
        answered.events += result.recorded
    return json_reply(
        orjson.dumps(
            {
                "index": result.index,
                "recorded": result.recorded,
                "unknown": result.unknown,
                "duplicate": result.duplicate,
            }
        ),
        201,
    )
