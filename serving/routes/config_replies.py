"""What replies about ranking configs look like, for the API's description."""

from typing import Any, Literal

from pydantic import BaseModel, Field

__all__ = [
    "ActivatedVersion",
    "ActiveVersion",
    "ConfigVersion",
    "ConfigVersions",
    "Document",
    "Pipeline",
    "Preview",
    "SavedVersion",
]

Document = dict[str, Any]  # Any: JSON
"""A ranking config, or its JSON Schema."""


class ActiveVersion(BaseModel):
    """The ranking config that the tenant's feeds follow."""

    version: int = Field(description="0 is the default.")
    previous: int | None = Field(description="The version before; null if none was ever active.")
    activated: str | None = Field(description="Since when, UTC; null if none was ever activated.")
    document: Document
    problem: str | None = Field(description="Why the default ranks instead; null if all is well.")


class ConfigDescription(BaseModel):
    """A version of the ranking config, without its document."""

    version: int
    saved: str = Field(description="UTC.")
    bytes: int


class ConfigVersions(BaseModel):
    """The versions that are kept, the newest first."""

    active: int
    previous: int | None
    versions: list[ConfigDescription]


class ConfigVersion(BaseModel):
    """A version of the ranking config."""

    version: int
    document: Document


class SavedVersion(BaseModel):
    """A ranking config that was saved; activate it to let it rank."""

    index: int
    version: int


class ActivatedVersion(BaseModel):
    """The version that ranks from now on."""

    index: int
    version: int
    previous: int | None = Field(description="The version before.")


class PreviewedPlace(BaseModel):
    """A place of the new slate."""

    id: str
    position: int
    score: float | None
    source: str
    was: int | None = Field(description="Its place before; null where it had none.")
    moved: int | None = Field(description="Places that it rose; negative where it fell.")


class PreviewedSlate(BaseModel):
    """One of the last slates, ranked by the active config and by the new one."""

    user: str
    kind: Literal["personalized", "explore"]
    time: str = Field(description="When it was asked, UTC.")
    slate_id: str | None = Field(description="What was served then; null where it is not known.")
    ranked: Literal["candidates", "shown", "now"] = Field(
        description="Of what: all logged candidates, what was shown, or what is there now."
    )
    changed: bool = Field(description="Whether any place changes.")
    overlap_at_10: float
    kendall_tau: float | None = Field(description="Null where both share fewer than two.")
    first_changed: bool
    old: list[str] = Field(description="Activities in their places until now.")
    new: list[PreviewedPlace]
    old_length: int
    new_length: int
    removed: dict[str, int] = Field(description="What the new config removes, by filter.")


class Preview(BaseModel):
    """What a ranking config would change; null where there are no requests to tell it from."""

    active_version: int
    mode: Literal["logged", "fresh"]
    requests: int = Field(description="Slates that were ranked again.")
    overlap_at_10: float | None = Field(description="The mean over the requests.")
    kendall_tau: float | None = Field(description="The mean over the requests.")
    changed: float | None = Field(description="Share of slates in which any place changes.")
    first_changed: float | None = Field(description="Share of users whose first place changes.")
    emptied: int = Field(description="Requests that would be left without an activity.")
    unseen: list[str] = Field(description="What differs and cannot show in logged slates.")
    skipped: dict[str, int] = Field(description="Slates that could not be ranked again, by why.")
    slates: list[PreviewedSlate]


class PipelineStage(BaseModel):
    """A step of the pipeline, with its components."""

    name: str
    components: list[dict[str, Any]]  # Any: each has its own options


class Pipeline(BaseModel):
    """How a feed comes about: its steps in order, what is on, and the limits."""

    config_version: int
    kind: str
    stages: list[PipelineStage]
    limits: dict[str, float]
    fallback: Any = Field(description="What ranks where no model does.")  # Any: text or expression
    log_sample_rate: float
