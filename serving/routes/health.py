"""Whether the service lives, whether it can serve, and its metrics. For operators: no API key."""

import orjson
from fastapi import APIRouter, Request, Response

from serving.routes.feeds import json_reply
from serving.routes.replies import services_of

__all__ = ["router"]

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Alive")
async def healthz() -> Response:
    """200 while the event loop turns."""
    return json_reply(b'{"status":"alive"}')


@router.get(
    "/readyz", summary="Ready", responses={503: {"description": "Not ready: `problems` says why."}}
)
async def readyz(request: Request) -> Response:
    """200 once tables are loaded and writes are taken; what is loaded is counted, not named."""
    state = await services_of(request).readiness()
    return json_reply(orjson.dumps(state), 503 if state["problems"] else 200)


@router.get("/metrics", summary="Prometheus metrics")
async def metrics(request: Request) -> Response:
    """All metrics in Prometheus's text format."""
    services = services_of(request)
    services.metrics.outbox_tasks.set(services.engine.open_tasks())
    content = services.metrics.render()
    return Response(content, media_type="text/plain; version=0.0.4; charset=utf-8")
