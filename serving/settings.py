"""What the service can be told: every setting with its unit and its limits, read once at start."""

import os
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from feeds.errors import InvalidTime
from feeds.model import parse_time
from serving.settings_models import ModelSettings
from serving.settings_slates import SlateLogSettings, shadow_log
from serving.settings_watching import WatchingSettings

__all__ = ["Settings", "SettingsInvalid", "load_settings"]

ENV_PREFIX: Final = "HEADWATER_"
MIB: Final = 1024 * 1024

SECRETS: Final = frozenset({"metrics_token"})
"""Settings whose value is never shown."""

REMOVED: Final = {
    "tables_max": "tables_max is no setting any more: activity tables are bounded by their bytes; "
    "set HEADWATER_TABLES_BYTES_MAX, or nothing",
}
"""Settings that are no more, and what to do: whoever sets one counts on it."""


class SettingsInvalid(ValueError):
    """Settings that cannot be; `problems` names every mistake as a sentence."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Settings(ModelSettings, SlateLogSettings, WatchingSettings, BaseSettings):
    """The settings of one service process, from `HEADWATER_<NAME>` or the command's options.

    Those of models, of the slate log and of what is watched stand in classes of their own.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="ignore", validate_default=True
    )

    data_dir: Path = Field(
        Path(".headwater/data"),
        description="Directory of the engine's log and store; one process may use it at a time.",
    )
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(
        8000, ge=0, le=65_535, description="TCP port to listen on; 0 takes a free one."
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
        description="Minutes of training within 24 hours of a tenant without a quota of its own; "
        "`headwater train` keeps to it where it has the same variable.",
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
        500,
        ge=1,
        le=2_000,
        description="Activities that one ranked read considers at most. Above 500 the quotas of "
        "the default sources grow in proportion.",
    )
    slate_size_max: int = Field(
        100, ge=1, le=1_000, description="Activities of one slate, over all of its pages, at most."
    )
    slates_max: int = Field(
        5_000,
        ge=1,
        le=1_000_000,
        description="Slates held for their next pages at most, about 5 KB each.",
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
    quality_min: float = Field(
        0.1,
        ge=0.01,
        le=1,
        description="The quality factor, which scales candidates while reads are late, never "
        "falls below it; 1 turns it off.",
    )
    quality_late_share: float = Field(
        0.02, ge=0.001, le=0.5, description="Share of late reads at which the quality factor rests."
    )
    quality_rise: float = Field(
        0.002,
        ge=0.0001,
        le=0.1,
        description="What a read within its target adds to the quality factor; a late one takes "
        "`(1 - quality_late_share) / quality_late_share` times as much.",
    )
    quality_target_share: float = Field(
        0.5,
        ge=0.01,
        le=1,
        description="Share of `deadline_ms` after which a ranked read is late.",
    )
    explore_epsilon: float = Field(
        0.1, ge=0, le=1, description="Share of explore's places that are drawn at random."
    )
    tables_bytes_max: int = Field(
        384 * MIB,
        ge=1 * MIB,
        le=64 * 1024 * MIB,
        description="Bytes of all activity tables held by one process, about; the tenants that "
        "asked longest ago leave. One table alone is held however large it is.",
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
    def _check_slates(self) -> "Settings":
        self.check_slate_log(self.workers)
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

    @property
    def shadow_log_path(self) -> Path:
        """Where slates of models on trial are logged."""
        return shadow_log(self.slate_log_path)


def load_settings(**given: Any) -> Settings:  # Any: checked by pydantic, field by field
    """Settings from `given`, then the environment, then the defaults.

    Those that are no more are problems, too. Raises `SettingsInvalid` with every problem at once.
    """
    set_names = {f"{ENV_PREFIX}{name}".upper() for name in given} | set(map(str.upper, os.environ))
    problems = [
        sentence for name, sentence in REMOVED.items() if f"{ENV_PREFIX}{name}".upper() in set_names
    ]
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise SettingsInvalid(
            problems + [_sentence(problem) for problem in error.errors()]
        ) from None
    if problems:
        raise SettingsInvalid(problems)
    return settings


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
