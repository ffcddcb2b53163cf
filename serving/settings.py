"""What the service can be told: every setting with its unit and its limits, read once at start.

It is long because every setting stands here, with its meaning, and nothing else.
"""

import re
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from feeds.errors import InvalidTime
from feeds.model import parse_time

__all__ = [
    "Settings",
    "SettingsInvalid",
    "TenantSlateLogSettings",
    "load_settings",
    "model_memory_bytes",
]

ENV_PREFIX: Final = "HEADWATER_"
MIB: Final = 1024 * 1024
DAY_S: Final = 86_400

MODEL_MEMORY_FACTOR: Final = 3
"""Bytes of memory for each byte of a model's files, at most: 1.5 to 2.9 were measured."""

MODEL_MEMORY_BASE: Final = 65_536
"""Bytes of memory that a model takes besides."""


def model_memory_bytes(file_bytes: int) -> int:
    """What a model counts for in `models_bytes_max`, by the bytes of its files."""
    return MODEL_MEMORY_FACTOR * file_bytes + MODEL_MEMORY_BASE


TOKEN_CHARACTERS_MIN: Final = 16
"""Characters of a token that opens something, at least."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")

SECRETS: Final = frozenset({"metrics_token"})
"""Settings whose value is never shown."""


class SettingsInvalid(ValueError):
    """Settings that cannot be; `problems` names every mistake as a sentence."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class TenantSlateLogSettings(BaseModel):
    """What `slate_log_tenants` may say of one tenant; what it leaves out is as for all others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float | None = Field(
        None, ge=0, le=1, description="As `slate_log_rate`, for this tenant."
    )
    candidates: bool | None = Field(None, description="As `slate_log_candidates`, for this tenant.")
    bytes_max: int | None = Field(
        None, ge=MIB, le=MIB * MIB, description="As `slate_log_bytes_max`, for this tenant."
    )
    age_s: float | None = Field(
        None, ge=60, le=3_650 * DAY_S, description="As `slate_log_age_s`, for this tenant."
    )


class Settings(BaseSettings):
    """The settings of one service process, from `HEADWATER_<NAME>` or the command's options."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="ignore", validate_default=True
    )

    data_dir: Path = Field(
        Path(".headwater/data"),
        description="Directory of the engine's log and store; one process may use it at a time.",
    )
    registry: str = Field(
        "",
        description="Model registry as mlflow+sqlite:///FILE, "
        "mlflow+postgresql://USER@HOST/NAME#ARTIFACTS or dir:DIRECTORY; empty means "
        "MLflow on SQLite beside the data directory.",
    )
    models_dir: Path | None = Field(
        None,
        description="Directory where the loader hands models over; unset means `models` in the "
        "data directory.",
    )
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(
        8000, ge=0, le=65_535, description="TCP port to listen on; 0 takes a free one."
    )
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
    loader: bool = Field(
        True, description="Whether the loader process runs beside the service and follows models."
    )
    loader_poll_s: float = Field(
        2.0, ge=0.05, le=3_600, description="Seconds between two looks at the model registry."
    )
    models_max: int = Field(
        1_000,
        ge=1,
        le=100_000,
        description="Tenants whose model is held in memory at most; who asked longest ago leaves.",
    )
    models_bytes_max: int = Field(
        256 * MIB,
        ge=1 * MIB,
        le=64 * 1024 * MIB,
        description="Bytes of memory of all models held by one process, each counted as three "
        "times its files.",
    )
    model_bytes_max: int = Field(
        64 * MIB,
        ge=64 * 1024,
        le=1024 * MIB,
        description="Bytes of one model's files at most; a larger one is not taken up.",
    )
    model_load_s_max: float = Field(
        10.0,
        ge=0.1,
        le=600,
        description="Seconds that loading one model may take; a slower one is not taken up.",
    )
    shadow_sample: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of a tenant's ranked reads that its model on trial ranks as well, after "
        "the reply.",
    )
    shadow_time_share: float = Field(
        0.1,
        ge=0.001,
        le=0.9,
        description="Share of a process's time that models on trial may take; reads beyond it are "
        "not tried.",
    )
    clock_start: str = Field(
        "",
        description="ISO 8601 time at which the service's clock starts, for replays of old data; "
        "empty means the real time.",
    )
    home_group: str = Field(
        "timeline",
        pattern=r"^[a-z][a-z0-9_]{0,62}$",
        description="Feed group whose feed `<group>:<user>` holds what a user follows.",
    )
    body_bytes_max: int = Field(
        4 * MIB, ge=1_024, le=64 * MIB, description="Bytes of a request's body at most."
    )
    head_bytes_max: int = Field(
        32 * 1_024,
        ge=1_024,
        le=65_535,
        description="Bytes of a request's path and headers at most.",
    )
    client_timeout_s: float = Field(
        20.0,
        ge=0.1,
        le=600,
        description="Seconds that a client is given for a request's head, for its body, and for "
        "taking a reply that waits.",
    )
    connections_max: int = Field(
        1_000, ge=1, le=100_000, description="Requests and connections at once at most."
    )
    keys_cached_max: int = Field(
        10_000, ge=1, le=1_000_000, description="API keys held in memory at most."
    )
    keys_cached_s: float = Field(
        60.0,
        ge=0,
        le=3_600,
        description="Seconds until a key is read from the store again; one that was revoked is "
        "refused as soon as the process hears of it.",
    )
    tenant_requests_per_s: int = Field(
        1_000,
        ge=0,
        le=1_000_000,
        description="Requests a second, over all workers, of a tenant without a quota of its own.",
    )
    tenant_events_per_s: int = Field(
        20_000,
        ge=0,
        le=10_000_000,
        description="Impressions and engagements a second, over all workers, of a tenant without "
        "a quota of its own.",
    )
    tenant_storage_bytes: int = Field(
        100 * 1024 * MIB,
        ge=0,
        le=10**15,
        description="Bytes of activities that a tenant without a quota of its own may have stored.",
    )
    tenant_training_minutes: int = Field(
        600,
        ge=0,
        le=10**6,
        description="Minutes of training a day of a tenant without a quota of its own; noted, not "
        "enforced.",
    )
    quota_burst_s: float = Field(
        1.0, ge=0.01, le=60, description="Seconds whose share of a quota a tenant may use at once."
    )
    follows_held_max: int = Field(
        100_000,
        ge=0,
        le=100_000_000,
        description="Follows of readers held in memory at most, about 0.5 KB each.",
    )
    configs_held_max: int = Field(
        1_000,
        ge=1,
        le=100_000,
        description="Tenants whose ranking config is held in memory at most, about 50 KB each.",
    )
    preview_requests_max: int = Field(
        50,
        ge=1,
        le=1_000,
        description="Last ranked reads of a tenant that are kept, about 0.2 KB each, and that a "
        "preview of a ranking config ranks again, at most.",
    )
    preview_tenants_max: int = Field(
        1_000,
        ge=1,
        le=100_000,
        description="Tenants whose last ranked reads are kept for previews at most.",
    )
    preview_places_max: int = Field(
        25,
        ge=1,
        le=1_000,
        description="Places of each slate that a preview shows side by side at most.",
    )
    preview_log_bytes: int = Field(
        64 * MIB,
        ge=0,
        le=1024 * MIB,
        description="Bytes of a tenant's newest logged slates that a preview looks through at "
        "most, about 1 ms a MiB; 0 looks at none.",
    )
    candidates_max: int = Field(
        500, ge=1, le=500, description="Activities that one ranked read considers at most."
    )
    slate_size_max: int = Field(
        100, ge=1, le=1_000, description="Activities of one slate, over all of its pages, at most."
    )
    slates_max: int = Field(
        5_000,
        ge=1,
        le=1_000_000,
        description="Slates held for their next pages at most, about 7 KB each.",
    )
    slate_ttl_s: float = Field(
        900.0, ge=1, le=86_400, description="Seconds for which a slate's next pages can be read."
    )
    served_max: int = Field(
        200,
        ge=0,
        le=1_000,
        description="Places of each user that are remembered, so that a new slate does not repeat "
        "them, 24 bytes each; 0 remembers nothing.",
    )
    served_users_max: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Users whose served places are remembered at most; those served longest ago "
        "leave first.",
    )
    served_ttl_s: float = Field(
        1_800.0, ge=1, le=604_800, description="Seconds for which a served place is remembered."
    )
    exclude_max: int = Field(
        200, ge=0, le=500, description="Activities that one ranked read can leave out at most."
    )
    deadline_ms: float = Field(
        100.0,
        ge=1,
        le=60_000,
        description="Milliseconds after which a ranked read no longer waits for model or table.",
    )
    explore_epsilon: float = Field(
        0.1, ge=0, le=1, description="Share of explore's places that are drawn at random."
    )
    tables_max: int = Field(
        16, ge=1, le=1_000, description="Tenants whose activity table is held in memory at most."
    )
    table_capacity: int = Field(
        100_000, ge=1_000, le=1_000_000, description="Activities of one activity table at most."
    )
    table_backlog_max: int = Field(
        20_000,
        ge=1,
        le=1_000_000,
        description="Events that wait for a tenant's table at most; beyond it the table is "
        "loaded anew.",
    )
    retry_after_s: int = Field(
        1, ge=1, le=3_600, description="Seconds after which a refused write may be tried again."
    )
    engine: Path | None = Field(
        None,
        description="Socket of an engine node (`headwater node`) to serve beside; unset means that "
        "this process has the data directory itself.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that answer requests; more than one only beside an engine node.",
    )
    max_lag_s: float = Field(
        1.0,
        ge=0.2,
        le=600,
        description="Seconds that a bounded read may be behind the cluster; it is refused beyond.",
    )
    read_wait_s: float = Field(
        1.0,
        ge=0.05,
        le=60,
        description="Seconds that a read waits until it sees the log index that it needs.",
    )
    write_retry_s: float = Field(
        3.0,
        ge=0.1,
        le=30,
        description="Seconds for which a write beside an engine node is repeated while nobody "
        "leads or its outcome is not known.",
    )
    slate_log_dir: Path | None = Field(
        None,
        description="Directory of the slate log, shared by all workers; unset means `slates` in "
        "the data directory.",
    )
    slate_log_rate: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of served slates that are logged, drawn from each slate's id; 0 logs "
        "none.",
    )
    slate_log_candidates: bool = Field(
        False,
        description="Whether the features of all candidates are logged that the filters kept, not "
        "only of the shown ones: five times the bytes.",
    )
    slate_log_bytes_max: int = Field(
        1_024 * MIB,
        ge=MIB,
        le=MIB * MIB,
        description="Bytes of one tenant's slate log at most, over all workers; the oldest leave.",
    )
    slate_log_age_s: float = Field(
        30.0 * DAY_S,
        ge=60,
        le=3_650 * DAY_S,
        description="Seconds after which a logged slate has left; up to an hour earlier, since "
        "segments leave as a whole.",
    )
    slate_log_total_bytes_max: int = Field(
        8 * 1_024 * MIB,
        ge=MIB,
        le=MIB * MIB,
        description="Bytes of all tenants' slate logs, looked at every 30 s; the tenant that has "
        "most loses its oldest.",
    )
    slate_log_tenants: dict[str, TenantSlateLogSettings] = Field(
        {},
        description="What differs for single tenants, as JSON by tenant: "
        '`{"acme": {"rate": 0.1, "candidates": true}}`.',
    )
    slate_log_segment_bytes: int = Field(
        8 * MIB,
        ge=64 * 1_024,
        le=256 * MIB,
        description="Bytes of one segment of the slate log at most; a slate beyond it is dropped.",
    )
    slate_log_flush_ms: float = Field(
        200.0,
        ge=1,
        le=60_000,
        description="Milliseconds until a served slate is written; what a crash loses at most.",
    )
    slate_log_flush_records: int = Field(
        64, ge=1, le=10_000, description="Waiting slates that are written without waiting longer."
    )
    slate_log_queue_max: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Slates that wait to be written at most, about 0.1 MB each; more are dropped.",
    )
    shutdown_s: int = Field(
        10, ge=1, le=600, description="Seconds that requests under way are given at the end."
    )

    @field_validator("clock_start")
    @classmethod
    def _check_clock_start(cls, text: str) -> str:
        if text:
            try:
                parse_time(text)
            except InvalidTime as error:
                raise ValueError(str(error)) from None
        return text

    @field_validator("metrics_token")
    @classmethod
    def _check_token(cls, text: str) -> str:
        if text and (len(text) < TOKEN_CHARACTERS_MIN or not _TOKEN.fullmatch(text)):
            raise ValueError(
                f"a token has {TOKEN_CHARACTERS_MIN} characters at least, letters, digits and "
                "-._~+/= alone"
            )
        return text

    @model_validator(mode="after")
    def _check_workers(self) -> "Settings":
        if self.workers > 1 and self.engine is None:
            raise ValueError(
                f"workers is {self.workers}, but only one process can have a data directory: make "
                "a cluster with `headwater cluster init` and `start`, and serve beside one of its "
                "nodes with --engine SOCKET"
            )
        return self

    @model_validator(mode="after")
    def _check_models(self) -> "Settings":
        needed = model_memory_bytes(self.model_bytes_max)
        if self.models_bytes_max < needed:
            raise ValueError(
                f"models_bytes_max is {self.models_bytes_max}, and one model of model_bytes_max "
                f"({self.model_bytes_max}) counts for {needed} bytes: raise the one or lower the "
                "other"
            )
        return self

    @model_validator(mode="after")
    def _check_slate_log(self) -> "Settings":
        least = (self.workers + 1) * self.slate_log_segment_bytes
        given = {"slate_log_bytes_max": self.slate_log_bytes_max} | {
            f"slate_log_tenants: bytes_max of {tenant}": own.bytes_max
            for tenant, own in self.slate_log_tenants.items()
            if own.bytes_max is not None
        }
        for name, bytes_max in given.items():
            if bytes_max < least:
                raise ValueError(
                    f"{name} is {bytes_max}, too few for a full segment and one that each of "
                    f"{self.workers} workers appends to: give {least} or more, or set "
                    "slate_log_segment_bytes lower"
                )
        return self

    @property
    def clock_start_us(self) -> int | None:
        """The clock's start in microseconds since the epoch; None means the real time."""
        return parse_time(self.clock_start) if self.clock_start else None

    @property
    def registry_uri(self) -> str:
        """Where models are registered."""
        default = (self.data_dir / "registry" / "mlflow.db").absolute()
        return self.registry or f"mlflow+sqlite:///{default}"

    @property
    def models_path(self) -> Path:
        """Where the loader hands models over."""
        return self.models_dir or self.data_dir / "models"

    @property
    def slate_log_path(self) -> Path:
        """Where served slates are logged."""
        return self.slate_log_dir or self.data_dir / "slates"


def load_settings(**given: Any) -> Settings:  # Any: checked by pydantic, field by field
    """Settings from `given`, then the environment, then the defaults.

    Raises `SettingsInvalid` with every problem at once.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsInvalid([_sentence(problem) for problem in error.errors()]) from None


def _sentence(problem: Any) -> str:  # Any: pydantic's ErrorDetails
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # settings that do not go together
        return str(message)
    name = str(problem["loc"][0])
    value = "not what it must be" if name in SECRETS else repr(str(problem["input"])[:80])
    return (
        f"{name} is {value}: {message}; set --{name.replace('_', '-')} "
        f"or {ENV_PREFIX}{name.upper()}"
    )
