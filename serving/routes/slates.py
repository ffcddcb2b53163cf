"""Slates that were served, from the slate log."""

import asyncio
import time
from typing import Annotated, Final

import orjson
from fastapi import APIRouter, Query, Request, Response

from feeds.errors import NotFound, StorageError
from feeds.model import TenantId
from serving.compose import Services
from serving.requests import JsonRoute
from serving.routes import replies
from serving.routes.feeds import json_reply
from serving.routes.replies import ERRORS, Responses, services_of
from serving.slate_log.explain import ModelVersions, explain
from serving.slate_log.record import LoggedSlate, RecordDamaged
from serving.slate_log.shelf import find_slate
from serving.slate_log.writer import SlateLog
from serving.tenants import Reader

__all__ = ["router"]

router = APIRouter(prefix="/v2/slates", route_class=JsonRoute, responses=ERRORS, tags=["ranked"])

_MTIME_BEHIND_NS: Final = 1_000_000_000
"""Nanoseconds that a file's time of change may be behind the clock: Linux takes that of its tick, a
network's file system that of its server."""

UNKNOWN: Responses = {
    404: {"model": replies.Error, "description": "The log has no such slate of this tenant."}
}


@router.get(
    "/{slate}/explain",
    response_model=replies.ExplainedSlate,
    responses=UNKNOWN,
    summary="Explain a served slate",
)
async def explain_slate(
    request: Request,
    tenant: Reader,
    slate: str,
    shadow: Annotated[
        bool, Query(description="What the model on trial would have shown instead.")
    ] = False,
) -> Response:
    """Why a slate was as it was, from the log: scored again by the model version that served it."""
    services = services_of(request)
    log = services.shadow_log if shadow else services.slate_log
    async with services.slate_lookups:  # each may read the tenant's whole log
        logged = await _found(services, log, tenant, slate)
    versions = ModelVersions(
        services.models.get, services.settings.models_path, services.configs.version
    )
    live = versions.live(tenant, logged.model_version)
    explained = await asyncio.to_thread(explain, logged, versions, live)
    return json_reply(orjson.dumps(explained))


async def _found(services: Services, log: SlateLog, tenant: TenantId, slate_id: str) -> LoggedSlate:
    """The slate; one that was served a moment ago is waited for. Raises `NotFound`."""
    since_ns = time.time_ns() - _MTIME_BEHIND_NS
    try:
        await asyncio.to_thread(log.flush)
        found = await asyncio.to_thread(find_slate, log.directory, tenant, slate_id)
        if found is None:  # another worker may have served it, or the trial be under way
            await asyncio.sleep(2 * services.settings.slate_log_flush_ms / 1e3)
            found = await asyncio.to_thread(find_slate, log.directory, tenant, slate_id, since_ns)
    except (OSError, RecordDamaged) as error:
        raise StorageError(f"the slate log cannot be read: {error}") from error
    if found is None:
        raise NotFound(
            f"slate {slate_id[:80]!r} is not in the log: it was not drawn (slate_log_rate, and "
            "log_sample_rate of the ranking config), has left (slate_log_bytes_max, "
            "slate_log_age_s), or never was"
        )
    return found
