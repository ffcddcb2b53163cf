"""How replies look: for the API's description alone, since bytes are sent as they are stored."""

from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from serving.compose import Services

__all__ = [
    "ERRORS",
    "Error",
    "Explanation",
    "FeedPage",
    "Followed",
    "Model",
    "Posted",
    "RankedPage",
    "RankedReply",
    "Recorded",
    "Removed",
    "Responses",
    "services_of",
]


def services_of(request: Request) -> Services:
    """What the app was composed of."""
    services: Services = request.app.state.services
    return services


class Error(BaseModel):
    """What every refusal looks like."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "detail": "feed group 'wall' is not configured: use one of flat, timeline, "
                    "topic, user",
                    "status_code": 400,
                    "code": 6,
                    "exception": "FeedConfigException",
                }
            ]
        }
    )

    detail: str = Field(description="What is wrong, and what to do.")
    status_code: int = Field(description="The HTTP status again.")
    code: int = Field(description="Stream's number of the error.")
    exception: str = Field(description="The class that Stream's clients raise for it.")
    more_info: str = Field("", description="What to do next, where the detail does not say.")


Responses = dict[int | str, dict[str, Any]]  # Any: FastAPI's own type
"""What a route's description says of each status."""

ERRORS: Responses = {
    400: {"model": Error, "description": "The request cannot be right; nothing was changed."},
    401: {"model": Error, "description": "No API key, or one that is not valid."},
    403: {"model": Error, "description": "The API key may not do this."},
    413: {"model": Error, "description": "The body is longer than body_bytes_max."},
    503: {"model": Error, "description": "Not now: Retry-After says when to try again."},
}


class _Activity(BaseModel):
    """An activity; every other key is the app's own."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "id": "87a9eec0-fd5f-11e8-8080-80013fed2f5b",
                    "foreign_id": "question:4711",
                    "time": "2018-12-11T16:06:02.028000",
                    "actor": "user:alice",
                    "verb": "ask",
                    "object": "question:4711",
                    "target": "",
                    "title": "What is a qubit?",
                    "origin": "topic:qubit",
                }
            ]
        },
    )

    id: str
    foreign_id: str
    time: str = Field(description="UTC, YYYY-MM-DDTHH:MM:SS.ffffff.")
    actor: str
    verb: str
    object: str
    target: str
    origin: str | None = Field(description="The followed feed it came from; null at home.")


class _Ranked(_Activity):
    """An activity in a place of a ranked feed; these keys cover the app's own of the same name."""

    position: int = Field(description="Place in the slate, 0-based.")
    score: float | None = Field(description="The scorer's number; null where it has none.")
    source: str = Field(description="The candidate source that proposed it first.")
    reason: str = Field(description="Why it is here, for the end user.")
    propensity: float = Field(description="Probability of this activity in this place.")


class FeedPage(BaseModel):
    """A page of a feed, newest first."""

    results: list[_Activity]
    next: str | None = Field(description="Cursor of the next page; null at the end.")


class Stage(BaseModel):
    """One step of a ranking."""

    name: str
    came: int = Field(description="Candidates that went in.")
    left: int = Field(description="Candidates that came out.")
    time_us: int = Field(description="Microseconds.")


class RemovedCandidate(BaseModel):
    """A candidate that a filter took out."""

    activity_id: str
    filter: str
    reason: str


class ExplainedActivity(BaseModel):
    """Why an activity stands where it does."""

    activity_id: str
    score: float | None
    features: dict[str, float | None]
    contributions: dict[str, float] | None
    bias: float | None
    multipliers: dict[str, float]
    explored: bool = Field(description="Whether chance chose it, to learn from it.")


class Explanation(BaseModel):
    """How a slate came about."""

    stages: list[Stage]
    removed: list[RemovedCandidate]
    activities: list[ExplainedActivity]


class SlateQuality(BaseModel):
    """What was given up for lack of time."""

    factor: float = Field(description="Share of the candidates that were looked at, up to 1.")
    steps: list[str] = Field(
        description="Of candidates, diversity, features, sources, model and chronological."
    )
    late_sources: list[str] = Field(description="Sources that were left out: they take too long.")


class _Slate(BaseModel):
    slate_id: str = Field(description="Send it back with impressions and engagements.")
    kind: str
    scorer: str
    model_version: str | None = Field(description="Null where no model took part.")
    degraded: str | None = Field(
        description="Why no model ranked, and what was given up for lack of time; null where "
        "nothing was."
    )
    quality: SlateQuality | None = Field(description="The same for programs.")


class RankedPage(_Slate):
    """A page of a ranked feed. All pages of a slate together repeat and skip nothing."""

    model_config = ConfigDict(protected_namespaces=())

    results: list[_Ranked]
    next: str | None = Field(description="Cursor of the next page; null at the end.")
    explanation: Explanation | None = None


class RankedCandidate(BaseModel):
    """One of the caller's candidates in its place."""

    id: str
    position: int
    score: float | None
    reason: str


class RankedReply(_Slate):
    """The caller's candidates in order, and what became of the others."""

    model_config = ConfigDict(protected_namespaces=())

    results: list[RankedCandidate]
    removed: list[RemovedCandidate]
    unknown: list[str] = Field(description="Candidates that do not exist.")
    explanation: Explanation | None = None


class Posted(BaseModel):
    """The activity as it is stored."""

    activity: _Activity
    index: int = Field(description="Place in the log.")
    duplicate: bool = Field(description="Whether it was there before.")


class Removed(BaseModel):
    """What a removal found."""

    index: int
    removed: bool = Field(description="False if there was nothing to remove.")


class Followed(BaseModel):
    """What a follow brought."""

    index: int
    copied: int = Field(description="Activities of the target that became visible.")


class Recorded(BaseModel):
    """What a batch of events left."""

    index: int
    recorded: int
    unknown: list[str] = Field(description="Activities that do not exist; their events are lost.")
    duplicate: bool = Field(description="Whether the idempotency key was used before.")


class Model(BaseModel):
    """What ranks the tenant's feeds; null where time does."""

    version: str | None = Field(description="The registry's number of the version.")
    scorer: str | None = Field(description="The kind of model.")
    spec_fingerprint: str | None = Field(description="SHA-256 of the features that it reads.")
    since: str | None = Field(description="When this server took it up, UTC.")
    problem: str | None = Field(description="Why nothing newer ranks, and what to do; or null.")
