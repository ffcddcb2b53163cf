"""The ASGI application: routers, handlers, lifespan, nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException

from feeds.errors import FeedsError
from serving.admission import AdmissionMiddleware
from serving.body_limit import BodyLimitMiddleware
from serving.compose import Services
from serving.direct_reads import DirectReads
from serving.errors import on_feeds_error, on_http_error, on_invalid_request
from serving.routes import (
    configs,
    digest,
    events,
    feedback,
    feeds,
    health,
    keys,
    model,
    ranked,
    related,
    slates,
    suggestions,
    tenants,
)
from serving.telemetry import TelemetryMiddleware

__all__ = ["create_app"]

NO_TELEMETRY: Final[TelemetryConfig] = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}
"""What FastAPI tells OpenTelemetry by itself: nothing. Its spans would hold paths and queries, and
so users' names."""
ROUTERS = (
    *(feeds, ranked, related, suggestions, digest, slates),
    *(events, feedback, model, configs, keys, tenants, health),
)


def create_app(services: Services) -> FastAPI:
    """The API on these services; the app starts and stops them."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await services.start()
            yield
        finally:
            await services.stop()

    app = FastAPI(
        title="Headwater",
        summary="Personalization and ranking for activity feeds.",
        version=version("headwater"),
        lifespan=lifespan,
        redirect_slashes=False,
        strict_content_type=False,
        telemetry=NO_TELEMETRY,
    )
    app.state.services = services
    for module in ROUTERS:
        app.include_router(module.router)
    app.add_exception_handler(FeedsError, on_feeds_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_middleware(
        BodyLimitMiddleware,
        body_bytes_max=services.settings.body_bytes_max,
        timeout_s=services.settings.client_timeout_s,
    )
    app.add_middleware(DirectReads, services=services, route=ranked.read_route())
    app.add_middleware(
        AdmissionMiddleware,
        authenticator=services.authenticator,
        quotas=services.quotas,
        metrics=services.metrics,
    )
    app.add_middleware(
        TelemetryMiddleware,
        metrics=services.metrics,
        tenants=services.tenant_metrics,
        tracing=services.tracing,
        settings=services.settings,
    )
    return app
