"""The ranking config of the caller's tenant: its versions, what one would change, and the pipeline.

A document is checked here, whole, before it is saved: the engine keeps bytes.
"""

import asyncio
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Query, Request, Response

from feeds.config import FeedsConfig
from feeds.errors import LimitExceeded
from feeds.model import TenantId, check_tenant_id, format_time
from feeds.results import ConfigActivated
from ranking.candidates import FeedKind
from ranking.config import RankingConfig, json_schema
from ranking.errors import InvalidRankingConfig
from ranking.pipeline import describe
from serving.config_access import describe_versions, way_back
from serving.configs import write_config
from serving.consistency import Consistent
from serving.errors import ConfigRefused
from serving.previews import Preview, PreviewedSlate, PreviewMode
from serving.requests import ActivateBody, JsonRoute, RollBackBody
from serving.routes import config_replies, replies
from serving.routes.feeds import CONFLICT, IdempotencyKey, json_reply
from serving.routes.replies import ERRORS, Responses, services_of
from serving.tenants import Admin, Operator, Reader

__all__ = ["router"]

router = APIRouter(prefix="/v2", route_class=JsonRoute, responses=ERRORS, tags=["configs"])

Document = Annotated[
    dict[str, Any],  # Any: JSON, checked by `RankingConfig.parse`
    Body(description="A ranking config; it names what differs from the defaults."),
]
PipelineKind = Annotated[FeedKind, Query(description="Which ranked feed.")]
_UNKNOWN: Responses = {404: {"model": replies.Error, "description": "This version is not kept."}}
_NO_TENANT: Responses = {404: {"model": replies.Error, "description": "There is no such tenant."}}
_FASTER: Responses = {
    409: {"model": replies.Error, "description": "Another version is active than was expected."}
}


@router.get(
    "/ranking-config", response_model=config_replies.ActiveVersion, summary="The active config"
)
async def active(request: Request, tenant: Reader, _: Consistent) -> Response:
    """What the tenant's feeds follow, since when, and which version did before."""
    services = services_of(request)
    now, configs = services.configs.of(tenant), services.engine.ranking_configs(tenant)
    since_us = configs.activated_us
    return _reply(
        {
            "version": now.version,
            "previous": configs.previous,
            "activated": format_time(since_us) if since_us else None,
            "document": now.config.to_document(),
            "problem": now.problem,
        }
    )


@router.get("/ranking-config/schema", response_model=config_replies.Document, summary="The form")
async def schema(request: Request, tenant: Reader) -> Response:
    """The JSON Schema of a whole ranking config; a document may leave out any field."""
    del request, tenant
    return _reply(json_schema())


@router.get(
    "/ranking-configs", response_model=config_replies.ConfigVersions, summary="List the versions"
)
async def versions(request: Request, tenant: Reader, _: Consistent) -> Response:
    """The versions that are kept, the newest first, and which one is active."""
    return _reply(describe_versions(services_of(request).engine.ranking_configs(tenant)))


@router.get(
    "/ranking-configs/{version}",
    response_model=config_replies.ConfigVersion,
    responses=_UNKNOWN,
    summary="Read a version",
)
async def read(request: Request, tenant: Reader, _: Consistent, version: int) -> Response:
    """A version that is kept, whole; 0 is the default."""
    document = _stored(request, tenant, version).to_document()
    return _reply({"version": version, "document": document})


@router.post(
    "/ranking-configs",
    status_code=201,
    response_model=config_replies.SavedVersion,
    responses=CONFLICT,
    summary="Save a version",
)
async def save(
    request: Request,
    tenant: Admin,
    document: Document,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Save a ranking config as the next version; it ranks nothing until it is activated.

    What it leaves out is saved as it is by default now, so that a version means the same for ever.
    """
    services = services_of(request)
    content = write_config(_checked(document, services.feeds))
    future = services.engine.save_ranking_config(tenant, content, idempotency_key)
    saved = await asyncio.wrap_future(future)
    return _reply({"index": saved.index, "version": saved.version}, 201)


@router.post("/ranking-configs/preview", response_model=config_replies.Preview, summary="Preview")
async def preview(
    request: Request,
    tenant: Admin,
    document: Document,
    requests: Annotated[
        int | None, Query(ge=1, description="Slates that are ranked again; all unless told.")
    ] = None,
    mode: Annotated[
        PreviewMode,
        Query(
            description="`logged`: the last logged slates, from their own candidates and features. "
            "`fresh`: the last request of each user and feed, as of now, with all that the "
            "config's sources and pins bring."
        ),
    ] = "logged",
) -> Response:
    """The last slates of the tenant's users, by the active config and by another one.

    They are those of the log; a fresh preview knows what this process served since besides.

    Nothing is saved. A config that leaves nothing of anything is refused, with what removed it.
    """
    services = services_of(request)
    limit = services.settings.preview_requests_max
    count = limit if requests is None else requests
    if count > limit:
        raise LimitExceeded(f"requests is {count}, preview_requests_max is {limit}: ask for fewer")
    config = _checked(document, services.feeds)
    return _reply(_told(await services.previews.preview(tenant, config, count, mode)))


@router.post(
    "/ranking-configs/rollback",
    response_model=config_replies.ActivatedVersion,
    responses=_FASTER,
    summary="Roll back",
)
async def roll_back(
    request: Request, tenant: Admin, body: Annotated[RollBackBody | None, Body()] = None
) -> Response:
    """Activate the version that was active before."""
    engine = services_of(request).engine
    configs = engine.ranking_configs(tenant)
    expected = body.expected_version if body is not None else None
    previous = way_back(configs, expected)
    future = engine.activate_ranking_config(tenant, previous, configs.active)
    return _activated(await asyncio.wrap_future(future))


@router.post(
    "/ranking-configs/{version}/activate",
    response_model=config_replies.ActivatedVersion,
    responses=_UNKNOWN | _FASTER,
    summary="Activate a version",
)
async def activate(request: Request, tenant: Admin, version: int, body: ActivateBody) -> Response:
    """Let a version rank the tenant's feeds, at every worker, if the expected one does until now.

    One that leaves nothing of all the last requests is refused, unless `allow_empty` says so.
    """
    services = services_of(request)
    config = _stored(request, tenant, version)
    if not body.allow_empty:
        await services.previews.check(tenant, config, services.settings.preview_requests_max)
    future = services.engine.activate_ranking_config(tenant, version, body.expected_version)
    return _activated(await asyncio.wrap_future(future))


@router.get("/pipeline", response_model=config_replies.Pipeline, summary="How a feed comes about")
async def pipeline(
    request: Request, tenant: Reader, _: Consistent, kind: PipelineKind = "personalized"
) -> Response:
    """The steps of a ranked feed in order, by the active config: components, limits, what is on."""
    return _pipeline(request, tenant, kind)


@router.get(
    "/tenants/{tenant}/pipeline",
    response_model=config_replies.Pipeline,
    responses=_NO_TENANT,
    tags=["tenants"],
    summary="How a tenant's feed comes about",
)
async def pipeline_of(
    request: Request,
    _: Operator,
    __: Consistent,
    tenant: str,
    kind: PipelineKind = "personalized",
) -> Response:
    """As `GET /v2/pipeline` tells it to the tenant itself; for operators."""
    return _pipeline(request, check_tenant_id(tenant), kind)


def _pipeline(request: Request, tenant: TenantId, kind: FeedKind) -> Response:
    now = services_of(request).configs.of(tenant)
    return _reply({"config_version": now.version, **describe(now.config, kind)})


def _reply(content: dict[str, Any], status: int = 200) -> Response:  # Any: JSON
    return json_reply(orjson.dumps(content), status)


def _activated(result: ConfigActivated) -> Response:
    told = {"index": result.index, "version": result.version, "previous": result.previous}
    return _reply(told)


def _checked(document: dict[str, Any], limits: FeedsConfig) -> RankingConfig:  # Any: JSON
    """The config of a document; raises `ConfigRefused` with every mistake."""
    length, limit = len(orjson.dumps(document)), limits.ranking_config_bytes_max
    if length > limit:
        raise LimitExceeded(
            f"the ranking config takes {length} bytes, ranking_config_bytes_max is {limit}: leave "
            "out what is as by default; nothing was changed"
        )
    try:
        return RankingConfig.parse(document)
    except InvalidRankingConfig as error:
        raise ConfigRefused(error.problems) from None


def _stored(request: Request, tenant: TenantId, version: int) -> RankingConfig:
    """A version that is kept; raises `NotFound`, or `ConfigRefused` where this release cannot."""
    try:
        return services_of(request).configs.version(tenant, version)
    except InvalidRankingConfig as error:
        raise ConfigRefused(error.problems) from None


def _told(preview: Preview) -> dict[str, Any]:  # Any: JSON
    return {
        "active_version": preview.active_version,
        "mode": preview.mode,
        "requests": len(preview.slates),
        "overlap_at_10": preview.overlap,
        "kendall_tau": preview.kendall_tau,
        "changed": preview.changed,
        "first_changed": preview.first_changed,
        "emptied": preview.emptied,
        "unseen": preview.unseen,
        "skipped": preview.skipped,
        "slates": [_told_slate(slate) for slate in preview.slates],
    }


def _told_slate(slate: PreviewedSlate) -> dict[str, Any]:  # Any: JSON
    return {
        "user": slate.request.user,
        "kind": slate.request.kind,
        "time": format_time(slate.request.time_us),
        "slate_id": slate.request.slate_id,
        "ranked": slate.ranked,
        "changed": slate.changed,
        "overlap_at_10": slate.overlap,
        "kendall_tau": slate.kendall_tau,
        "first_changed": slate.first_changed,
        "old": slate.old,
        "new": slate.new,
        "old_length": slate.old_length,
        "new_length": slate.new_length,
        "removed": slate.removed,
    }
