"""Settings of the slate log: what is kept, of whom, and what it may take."""

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["SlateLogSettings", "TenantSlateLogSettings", "shadow_log"]

MIB: Final = 1024 * 1024
DAY_S: Final = 86_400


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


def shadow_log(directory: Path) -> Path:
    """Where a slate log's twin for models on trial lies: in it, under what is no tenant's name."""
    return directory / ".shadow"


class SlateLogSettings(BaseModel):
    """The part of `Settings` that is about the slate log."""

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

    def check_slate_log(self, workers: int) -> None:
        """Raise `ValueError` where a tenant's log has no room for what its workers write."""
        least = (workers + 1) * self.slate_log_segment_bytes
        given = {"slate_log_bytes_max": self.slate_log_bytes_max} | {
            f"slate_log_tenants: bytes_max of {tenant}": own.bytes_max
            for tenant, own in self.slate_log_tenants.items()
            if own.bytes_max is not None
        }
        for name, bytes_max in given.items():
            if bytes_max < least:
                raise ValueError(
                    f"{name} is {bytes_max}, too few for a full segment and one that each of "
                    f"{workers} workers appends to: give {least} or more, or set "
                    "slate_log_segment_bytes lower"
                )
