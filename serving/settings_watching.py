"""Settings of what the service tells of itself: its log, its metrics and its traces."""

import re
from typing import Final, Literal

from pydantic import BaseModel, Field, field_validator

__all__ = ["WatchingSettings"]

TOKEN_CHARACTERS_MIN: Final = 16
"""Characters of a token that opens something, at least."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")


class WatchingSettings(BaseModel):
    """The part of `Settings` that is about log, metrics and traces."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important log line that is written."
    )
    log_format: Literal["json", "text"] = Field(
        "json", description="How a log line is written: a JSON object, or `key='value'` for people."
    )
    log_requests: Literal["debug", "info"] = Field(
        "debug",
        description="The level of the one line that each request leaves; below `log_level` it is "
        "not written.",
    )
    slow_request_ms: float = Field(
        500.0,
        ge=1,
        le=600_000,
        description="Milliseconds beyond which a request is logged as a warning, with its stages.",
    )
    metrics_token: str = Field(
        "",
        repr=False,
        max_length=200,
        description="What an operator sends as `Authorization: Bearer` to read the tenants' "
        "metrics at `/metrics/tenants`, 16 characters at least; empty means nobody may.",
    )
    metrics_tenants_max: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Tenants that have metrics of their own in one process at most; the others "
        "are counted together, as `_other`.",
    )
    metrics_tenant_idle_s: float = Field(
        900.0,
        ge=1,
        le=604_800,
        description="Seconds without a request after which a tenant has no metrics any more, and "
        "another one may have its place.",
    )
    trace_exporter: Literal["off", "console", "otlp"] = Field(
        "off",
        description="Where traces of requests go: nowhere, to stderr as lines of JSON, or to a "
        "collector by OTLP over HTTP (needs the extra `trace`).",
    )
    trace_endpoint: str = Field(
        "http://127.0.0.1:4318/v1/traces",
        pattern=r"^https?://[^\s/@]+(/\S*)?$",
        description="URL that the `otlp` exporter posts traces to.",
    )
    trace_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the traces that begin here that is kept; the caller decides for a "
        "request with a `traceparent`.",
    )

    @field_validator("metrics_token")
    @classmethod
    def _check_token(cls, text: str) -> str:
        if text and (len(text) < TOKEN_CHARACTERS_MIN or not _TOKEN.fullmatch(text)):
            raise ValueError(
                f"a token has {TOKEN_CHARACTERS_MIN} characters at least, letters, digits and "
                "-._~+/= alone"
            )
        return text
