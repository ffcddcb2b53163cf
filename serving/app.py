"""The ASGI application: routers, handlers, lifespan, nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from feeds.errors import FeedsError
from serving.body_limit import BodyLimitMiddleware
from serving.compose import Services
from serving.errors import on_feeds_error, on_http_error, on_invalid_request
from serving.routes import (
    digest,
    events,
    feedback,
    feeds,
    health,
    model,
    ranked,
    related,
    suggestions,
)
from serving.telemetry import TelemetryMiddleware

__all__ = ["create_app"]


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
    )
    app.state.services = services
    for module in (feeds, ranked, related, suggestions, digest, events, feedback, model, health):
        app.include_router(module.router)
    app.add_exception_handler(FeedsError, on_feeds_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_middleware(
        BodyLimitMiddleware,
        body_bytes_max=services.settings.body_bytes_max,
        timeout_s=services.settings.client_timeout_s,
    )
    app.add_middleware(TelemetryMiddleware, metrics=services.metrics)
    return app
