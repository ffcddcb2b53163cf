"""Settings of the models: where they come from, what they may take, and how they are tried."""

from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, Field, model_validator

__all__ = ["ModelSettings", "model_memory_bytes"]

MIB: Final = 1024 * 1024

MODEL_MEMORY_FACTOR: Final = 3
"""Bytes of memory for each byte of a model's files, at most: 1.5 to 2.9 were measured."""

MODEL_MEMORY_BASE: Final = 65_536
"""Bytes of memory that a model takes besides."""


def model_memory_bytes(file_bytes: int) -> int:
    """What a model counts for in `models_bytes_max`, by the bytes of its files."""
    return MODEL_MEMORY_FACTOR * file_bytes + MODEL_MEMORY_BASE


class ModelSettings(BaseModel):
    """The part of `Settings` that is about models."""

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

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        needed = model_memory_bytes(self.model_bytes_max)
        if self.models_bytes_max < needed:
            raise ValueError(
                f"models_bytes_max is {self.models_bytes_max}, and one model of model_bytes_max "
                f"({self.model_bytes_max}) counts for {needed} bytes: raise the one or lower the "
                "other"
            )
        return self
