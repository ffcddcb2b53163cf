"""What ranks the feeds of the caller's tenant."""

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from feeds.model import format_time
from serving.models import ModelStatus
from serving.requests import JsonRoute
from serving.routes import replies
from serving.routes.feeds import json_reply
from serving.routes.replies import ERRORS, services_of
from serving.shadows import ShadowFigures
from serving.tenants import Reader

__all__ = ["router"]

router = APIRouter(prefix="/v2", route_class=JsonRoute, responses=ERRORS, tags=["ranked"])


@router.get("/model", response_model=replies.Model, summary="The live model")
async def model(request: Request, tenant: Reader) -> Response:
    """Which version ranks the tenant's feeds, what is beside it, and why no newer one does."""
    services = services_of(request)
    status = services.models.status(tenant)
    return json_reply(
        orjson.dumps(
            {
                "version": status.version,
                "previous": status.previous,
                "loading": status.loading,
                "scorer": status.scorer,
                "spec_fingerprint": status.spec_fingerprint,
                "since": None if status.since_us is None else format_time(status.since_us),
                "problem": _problem(status),
                "shadow": _shadow(status, services.shadows.figures(tenant)),
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
    if status.version is None and status.loading:
        return "the model is loading, time ranks: it takes a moment"
    if status.version is None:
        return "no model is live, time ranks: train one, and promote it with `headwater models`"
    return None


def _shadow(status: ModelStatus, found: ShadowFigures) -> dict[str, Any] | None:
    """The model on trial, with what this server found; None without one.  Any: JSON."""
    problem = None
    if status.shadow_cause is not None:
        problem = (
            "a newer model could not be put on trial: publish it again, or use a smaller one; the "
            "server's log has the cause"
        )
    elif status.shadow is None:
        return None
    if (found.version, found.live_version) != (status.shadow, status.version):
        found = ShadowFigures()  # of versions that were there before
    return {
        "version": status.shadow,
        "trials": found.trials,
        "failures": found.failures,
        "same_top": found.same_top,
        "overlap_at_10": found.overlap_at_10,
        "rank_correlation": found.rank_correlation,
        "problem": problem,
    }
