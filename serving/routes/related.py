"""What is related to an activity."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from feeds.model import check_user_id
from serving.consistency import Consistent
from serving.related import RelatedReader
from serving.requests import JsonRoute
from serving.routes import replies
from serving.routes.feedback import UNKNOWN
from serving.routes.feeds import json_reply
from serving.routes.replies import ERRORS, page_size, services_of
from serving.tenants import Reader

__all__ = ["router"]

router = APIRouter(prefix="/v2", route_class=JsonRoute, responses=ERRORS, tags=["ranked"])


@router.get(
    "/activities/{activity}/related",
    response_model=replies.RelatedPage,
    responses=UNKNOWN,
    summary="Related activities",
)
async def related(
    request: Request,
    tenant: Reader,
    _: Consistent,
    activity: str,
    user: Annotated[
        str | None, Query(description="Whose ranking orders them; the nearest first without.")
    ] = None,
    limit: Annotated[int | None, Query(description="Activities, 25 unless told, 100 most.")] = None,
) -> Response:
    """What has the same tags, author or people engaged, or is near in the model's factors."""
    services = services_of(request)
    size = page_size(services, limit)
    asker = None if user is None else check_user_id(user)
    return json_reply(await RelatedReader(services.reader).read(tenant, activity, asker, size))
