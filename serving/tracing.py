"""Traces of requests and model loads: what the service asks of whoever keeps them.

Off by default: then nothing of OpenTelemetry's SDK is imported, and no request makes a span. What
the spans are made of is noted anyway (`serving.current_request`), for logs and metrics.
"""

import sys
from collections.abc import Iterable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Protocol

from serving.current_request import RequestSpan
from serving.extras import DISTRIBUTION
from serving.settings import Settings, SettingsInvalid

__all__ = ["Headers", "NoTracing", "Tracing", "check_tracing", "open_tracing"]

Headers = Iterable[tuple[bytes, bytes]]
"""A request's headers, the names in lower case."""


class Tracing(Protocol):
    """Begins traces, and sends them off."""

    def begin(self, headers: Headers, request_id: str) -> RequestSpan | None:
        """The span of a request that has come, below the caller's; None where none is wanted."""
        ...

    def model_loaded(self, tenant: str, model_version: str, load_ms: float) -> None:
        """A model was loaded just now."""
        ...

    def close(self) -> None:
        """Send what was not sent, for some seconds at most; twice is harmless."""
        ...


class NoTracing:
    """Traces nothing."""

    def begin(self, headers: Headers, request_id: str) -> None:
        """No span."""

    def model_loaded(self, tenant: str, model_version: str, load_ms: float) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing was kept."""


def check_tracing(settings: Settings) -> None:
    """Raises `SettingsInvalid` where the exporter that the settings ask for is not installed."""
    if settings.trace_exporter == "off":
        return
    needed = ["opentelemetry.sdk.trace"]
    if settings.trace_exporter == "otlp":
        needed.append("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    for module in needed:
        if not _is_installed(module):
            cure = f"run `pip install '{DISTRIBUTION}[trace]'`, or `make setup` in a checkout"
            raise SettingsInvalid(
                [f"trace_exporter is {settings.trace_exporter}: {module} is not installed; {cure}"]
            )


def open_tracing(settings: Settings) -> Tracing:
    """The tracing that the settings ask for; raises as `check_tracing`."""
    check_tracing(settings)
    if settings.trace_exporter == "off":
        return NoTracing()
    from serving.otel import OtelTracing, console_exporter, otlp_exporter  # noqa: PLC0415 - if on

    exporter = (
        console_exporter(sys.stderr)
        if settings.trace_exporter == "console"
        else otlp_exporter(settings.trace_endpoint)
    )
    return OtelTracing(exporter, settings.trace_share, version(DISTRIBUTION))


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        return False
