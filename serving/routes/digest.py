"""The digest of a user."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from feeds.model import check_user_id, parse_time
from serving.consistency import Consistent
from serving.digest import DigestReader
from serving.requests import JsonRoute
from serving.routes import replies
from serving.routes.feeds import json_reply
from serving.routes.replies import ERRORS, page_size, services_of
from serving.tenants import Reader

__all__ = ["router"]

router = APIRouter(prefix="/v2/users", route_class=JsonRoute, responses=ERRORS, tags=["ranked"])


@router.get("/{user}/digest", response_model=replies.Digest, summary="The best of late")
async def digest(
    request: Request,
    tenant: Reader,
    _: Consistent,
    user: str,
    since: Annotated[
        str | None, Query(description="ISO 8601 time to go back to; 7 days unless told.")
    ] = None,
    limit: Annotated[int | None, Query(description="Activities, 25 unless told, 100 most.")] = None,
) -> Response:
    """The best of the personalized feed since a time, without what was seen or engaged with."""
    services = services_of(request)
    size = page_size(services, limit)
    since_us = None if since is None else parse_time(since)
    reader = DigestReader(services.reader)
    return json_reply(await reader.read(tenant, check_user_id(user), since_us, size))
