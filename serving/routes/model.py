"""What ranks the feeds of the caller's tenant."""

import orjson
from fastapi import APIRouter, Request, Response

from feeds.model import format_time
from serving.models import ModelStatus
from serving.requests import JsonRoute
from serving.routes import replies
from serving.routes.feeds import json_reply
from serving.routes.replies import ERRORS, services_of
from serving.tenants import Reader

__all__ = ["router"]

router = APIRouter(prefix="/v2", route_class=JsonRoute, responses=ERRORS, tags=["ranked"])


@router.get("/model", response_model=replies.Model, summary="The live model")
async def model(request: Request, tenant: Reader) -> Response:
    """Which version ranks the tenant's feeds, since when, and why no newer one does."""
    status = services_of(request).models.status(tenant)
    return json_reply(
        orjson.dumps(
            {
                "version": status.version,
                "scorer": status.scorer,
                "spec_fingerprint": status.spec_fingerprint,
                "since": None if status.since_us is None else format_time(status.since_us),
                "problem": _problem(status),
            }
        )
    )


def _problem(status: ModelStatus) -> str | None:
    """What is wrong as the tenant may know it: the cause may name paths of the server."""
    if status.cause is not None:
        instead = f"version {status.version} goes on ranking" if status.version else "time ranks"
        return (
            f"a newer model could not be taken up, {instead}: publish and promote it again; the "
            "server's log has the cause"
        )
    if status.version is None:
        return "no model is live, time ranks: train one, and promote it with `headwater models`"
    return None
