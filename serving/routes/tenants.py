"""The tenant of a key that may `admin`; and all tenants, for operators."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response

from feeds.errors import Conflict
from feeds.model import TenantId, check_tenant_id
from feeds.new_keys import create_key
from feeds.tenants import describe_tenant, read_trained
from ranking.registry import wall_clock_us
from serving.compose import Services
from serving.errors import BadRequest
from serving.requests import JsonRoute, QuotasBody, TenantBody
from serving.routes import replies, tenant_replies
from serving.routes.feeds import json_reply
from serving.routes.replies import ERRORS, Responses, services_of
from serving.tenants import Admin, Operator

__all__ = ["router"]

router = APIRouter(prefix="/v2", route_class=JsonRoute, responses=ERRORS, tags=["tenants"])

_UNKNOWN: Responses = {404: {"model": replies.Error, "description": "There is no such tenant."}}
_EXISTS: Responses = {409: {"model": replies.Error, "description": "There is such a tenant."}}


@router.get("/tenant", response_model=tenant_replies.Tenant, summary="The tenant of the key")
async def own(request: Request, tenant: Admin) -> Response:
    """Whose key this is: what it may use, and what it has stored."""
    (told,) = await asyncio.to_thread(_describe, services_of(request), [tenant])
    return json_reply(orjson.dumps(told))


@router.get("/tenants", response_model=tenant_replies.Tenants, summary="List tenants")
async def list_(request: Request, _: Operator) -> Response:
    """Every tenant by name; for operators."""
    services = services_of(request)
    found = await asyncio.to_thread(lambda: _describe(services, services.engine.tenants()))
    return json_reply(orjson.dumps({"tenants": found}))


@router.post(
    "/tenants",
    status_code=201,
    response_model=tenant_replies.MadeTenant,
    responses=_EXISTS,
    summary="Create a tenant",
)
async def create(request: Request, _: Operator, body: TenantBody) -> Response:
    """A tenant with its first API key, which is told in this reply and never again."""
    engine = services_of(request).engine
    tenant = check_tenant_id(body.tenant)
    if tenant in await asyncio.to_thread(engine.tenants):
        raise Conflict(f"tenant {tenant!r} exists: choose another name, or make a key of it")
    await asyncio.wrap_future(engine.create_tenant(tenant))
    made = create_key(engine, tenant, body.scopes)
    await asyncio.wrap_future(made.stored)
    told = {"tenant": tenant, "key_id": made.key_id, "api_key": made.api_key}
    return json_reply(orjson.dumps(told), 201)


@router.get(
    "/tenants/{tenant}",
    response_model=tenant_replies.Tenant,
    responses=_UNKNOWN,
    summary="Describe a tenant",
)
async def describe(request: Request, _: Operator, tenant: str) -> Response:
    """What a tenant may use, and what it has stored; for operators."""
    known = check_tenant_id(tenant)
    (told,) = await asyncio.to_thread(_describe, services_of(request), [known])
    return json_reply(orjson.dumps(told))


@router.patch(
    "/tenants/{tenant}/quotas",
    response_model=tenant_replies.Quotas,
    responses=_UNKNOWN,
    summary="Change quotas",
)
async def set_quotas(request: Request, _: Operator, tenant: str, body: QuotasBody) -> Response:
    """Change the quotas that are named; every worker keeps to them as soon as it hears of it."""
    services, known = services_of(request), check_tenant_id(tenant)
    await asyncio.wrap_future(services.engine.set_quotas(known, body.root))
    return json_reply(orjson.dumps(_quotas(services, known)))


@router.delete(
    "/tenants/{tenant}",
    status_code=202,
    response_model=tenant_replies.Deleted,
    responses=_UNKNOWN,
    summary="Delete a tenant",
)
async def delete(
    request: Request,
    _: Operator,
    tenant: str,
    confirm: Annotated[str, Query(description="The tenant's name again.")] = "",
) -> Response:
    """From the reply on the tenant is unknown; what it left in the store is removed from then on.

    None of its name can be created until that is done.
    """
    known = check_tenant_id(tenant)
    if confirm != known:
        raise BadRequest(
            f"confirm is {confirm[:80]!r}: to delete tenant {known!r} with all that it has, send "
            f"confirm={known}; nothing was changed"
        )
    await asyncio.wrap_future(services_of(request).engine.delete_tenant(known))
    return json_reply(orjson.dumps({"tenant": known, "deleted": True}), 202)


def _describe(services: Services, tenants: Sequence[TenantId]) -> list[dict[str, Any]]:  # Any: JSON
    keys = services.engine.key_counts()
    trained = read_trained(services.settings.models_path)
    now_us = wall_clock_us()  # as those who train count
    return [
        describe_tenant(services.engine, tenant, keys[tenant])
        | {
            "trained_minutes": trained.minutes(tenant, now_us),
            "quotas": _quotas(services, tenant),
        }
        for tenant in tenants
    ]


def _quotas(services: Services, tenant: TenantId) -> dict[str, int]:
    limits = services.quotas.limits(tenant)
    return {name: getattr(limits, name) for name in limits.__struct_fields__}
