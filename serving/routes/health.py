"""Whether the service lives, whether it can serve, and its metrics. For operators: no API key."""

import asyncio
import secrets

import orjson
from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from serving.errors import OperatorRefused
from serving.exposition import CONTENT_TYPE
from serving.node_metrics import node_metrics
from serving.routes.feeds import json_reply
from serving.routes.replies import Error, services_of
from serving.tenant_metrics import render

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
    content = services.metrics.render() + await node_metrics(services.engine.status)
    return Response(content, media_type=CONTENT_TYPE)


@router.get(
    "/metrics/tenants",
    summary="Prometheus metrics by tenant",
    responses={
        401: {"model": Error, "description": "Not the operator's token."},
        404: {"model": Error, "description": "`metrics_token` is not set."},
    },
)
async def tenants_metrics(request: Request) -> Response:
    """The tenants' own metrics, for who has the operator's token."""
    services = services_of(request)
    _check_token(services.settings.metrics_token, request.headers.get("authorization", ""))
    found = services.tenant_metrics.gather()
    return Response(await asyncio.to_thread(render, found), media_type=CONTENT_TYPE)


def _check_token(token: str, authorization: str) -> None:
    if not token:
        raise HTTPException(404)  # as if there were no such path
    scheme, _, given = authorization.partition(" ")
    same = secrets.compare_digest(given.strip().encode(), token.encode())
    if scheme.lower() != "bearer" or not same:
        raise OperatorRefused("this needs the operator's token")
