"""The API keys of the caller's tenant; for keys that may `admin`."""

import asyncio

import orjson
from fastapi import APIRouter, Request, Response

from feeds.credentials import describe_key
from feeds.errors import NotFound
from feeds.new_keys import NewKey, create_key, rotate_key
from serving.requests import JsonRoute, KeyBody, RotationBody
from serving.routes import replies, tenant_replies
from serving.routes.feeds import json_reply
from serving.routes.replies import ERRORS, Responses, services_of
from serving.tenants import Admin

__all__ = ["router"]

router = APIRouter(prefix="/v2", route_class=JsonRoute, responses=ERRORS, tags=["keys"])

_UNKNOWN: Responses = {404: {"model": replies.Error, "description": "No key has this id."}}


@router.get("/keys", response_model=tenant_replies.Keys, summary="List the keys")
async def list_(request: Request, tenant: Admin) -> Response:
    """Every key of the tenant by its public id; nothing of its secret."""
    keys = await asyncio.to_thread(services_of(request).engine.keys, tenant)
    return json_reply(orjson.dumps({"keys": [describe_key(key) for key in keys]}))


@router.post("/keys", status_code=201, response_model=tenant_replies.MadeKey, summary="Make a key")
async def create(request: Request, tenant: Admin, body: KeyBody) -> Response:
    """Another key, which is told in this reply and never again."""
    return await _told(create_key(services_of(request).engine, tenant, body.scopes))


@router.post(
    "/keys/{key_id}/rotate",
    status_code=201,
    response_model=tenant_replies.MadeKey,
    responses=_UNKNOWN,
    summary="Exchange a key",
)
async def rotate(request: Request, tenant: Admin, key_id: str, body: RotationBody) -> Response:
    """A key with the scopes of another one, which stays good for `grace_s` seconds."""
    return await _told(rotate_key(services_of(request).engine, tenant, key_id, body.grace_s))


@router.delete(
    "/keys/{key_id}",
    response_model=tenant_replies.Revoked,
    responses=_UNKNOWN,
    summary="Revoke a key",
)
async def revoke(request: Request, tenant: Admin, key_id: str) -> Response:
    """Nothing that is sent with the key is answered any more, here at once."""
    if not await asyncio.wrap_future(services_of(request).engine.revoke_key(tenant, key_id)):
        raise NotFound(f"there is no key {key_id[:80]!r}: GET /v2/keys lists all")
    return json_reply(orjson.dumps({"key_id": key_id, "revoked": True}))


async def _told(made: NewKey) -> Response:
    await asyncio.wrap_future(made.stored)
    return json_reply(orjson.dumps({"key_id": made.key_id, "api_key": made.api_key}), 201)
