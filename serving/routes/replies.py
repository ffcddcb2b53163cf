"""How replies look: for the API's description alone, since bytes are sent as they are stored."""

from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from feeds.errors import LimitExceeded
from serving.compose import Services

__all__ = [
    "ERRORS",
    "Digest",
    "Error",
    "ExplainedSlate",
    "Explanation",
    "FeedPage",
    "FeedbackTaken",
    "Followed",
    "Model",
    "Posted",
    "RankedPage",
    "RankedReply",
    "Recorded",
    "RelatedPage",
    "Removed",
    "Responses",
    "Suggestions",
    "SuggestionsTaken",
    "page_size",
    "services_of",
]


def services_of(request: Request) -> Services:
    """What the app was composed of."""
    services: Services = request.app.state.services
    return services


def page_size(services: Services, limit: int | None) -> int:
    """The size of a page that a request asks for; raises `LimitExceeded`."""
    size, limit_max = limit, services.feeds.page_size_max
    if size is None:
        return services.feeds.page_size_default
    if not 1 <= size <= limit_max:
        raise LimitExceeded(
            f"limit is {size}, page_size_max is {limit_max}: ask for 1 to {limit_max}"
        )
    return size


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
    problems: list[str] = Field([], description="Every mistake of a ranking config as a sentence.")


Responses = dict[int | str, dict[str, Any]]  # Any: FastAPI's own type
"""What a route's description says of each status."""

ERRORS: Responses = {
    400: {"model": Error, "description": "The request cannot be right; nothing was changed."},
    401: {"model": Error, "description": "No API key, or one that is not valid."},
    403: {"model": Error, "description": "The API key may not do this."},
    413: {"model": Error, "description": "The body is longer than body_bytes_max."},
    429: {"model": Error, "description": "A quota is used up: Retry-After says for how long."},
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


class ExplainedHead(BaseModel):
    """What one head of a value model says: the score is the sum of weight times probability."""

    kind: str = Field(description="The kind of engagement.")
    weight: float = Field(description="What one is worth, by the ranking config.")
    probability: float | None = Field(description="How likely it is; null where it cannot say.")
    contributions: dict[str, float | None] | None = Field(
        description="What each feature added to the probability."
    )
    bias: float | None


class ExplainedActivity(BaseModel):
    """Why an activity stands where it does."""

    activity_id: str
    score: float | None
    features: dict[str, float | None]
    contributions: dict[str, float] | None
    bias: float | None
    multipliers: dict[str, float]
    explored: bool = Field(description="Whether chance chose it, to learn from it.")
    placed: str | None = Field(description="The rule that gave it its place, such as a pin.")
    heads: list[ExplainedHead] | None = Field(description="Of a value model; null for another.")


class Explanation(BaseModel):
    """How a slate came about."""

    config_version: int = Field(description="The ranking config that it followed; 0: the default.")
    stages: list[Stage]
    removed: list[RemovedCandidate]
    activities: list[ExplainedActivity]


class RemovedCount(BaseModel):
    """How many candidates a filter took out."""

    filter: str
    reason: str
    count: int


class Recomputed(BaseModel):
    """What scoring a logged slate again gave."""

    bit_identical: bool | None = Field(
        description="Whether the very scores came out that were served; null where it could not be "
        "done."
    )
    different: int = Field(description="Activities whose score came out otherwise.")
    problem: str | None = Field(description="Why it could not be done, such as a missing version.")


class LoggedActivity(ExplainedActivity):
    """Why an activity stood where it did, as it was logged."""

    position: int = Field(description="Place in the slate, 0-based.")
    source: str
    reason: str
    propensity: float


class ExplainedSlate(BaseModel):
    """A served slate, from the slate log."""

    model_config = ConfigDict(protected_namespaces=())

    slate_id: str
    user: str
    kind: str
    time: str = Field(description="When it was ranked, UTC.")
    seed: str = Field(description="What chance was derived from: a 64-bit number, as text.")
    scorer: str
    model_version: str | None
    config_version: int
    spec_fingerprint: str = Field(description="SHA-256 of the features that the scorer read.")
    degraded: str | None
    recomputed: Recomputed
    stages: list[Stage]
    removed: list[RemovedCount]
    activities: list[LoggedActivity]


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
    config_version: int = Field(description="The ranking config's version; 0 is the default.")
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


class RelatedPage(BaseModel):
    """What is related to an activity."""

    model_config = ConfigDict(protected_namespaces=())

    activity_id: str = Field(description="The activity that was asked for; never in `results`.")
    slate_id: str = Field(description="Send it back with impressions and engagements.")
    scorer: str = Field(description="What ordered them; `related` means the nearest first.")
    model_version: str | None = Field(description="Null where no model took part.")
    degraded: str | None = Field(description="Why they are ordered by time; null if they are not.")
    results: list[_Ranked]
    next: None = Field(description="There are no further pages.")


class Digest(BaseModel):
    """The best of late."""

    model_config = ConfigDict(protected_namespaces=())

    since: str = Field(description="How far it goes back, UTC.")
    until: str = Field(description="As of when it is, UTC.")
    slate_id: str = Field(description="Send it back with impressions and engagements.")
    scorer: str
    model_version: str | None = Field(description="Null where no model took part.")
    degraded: str | None = Field(description="Why it is ordered by time; null if it is not.")
    results: list[_Ranked]
    next: None = Field(description="There are no further pages.")


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
    unread_features: list[str] = Field(
        description="The caller's features that what ranked does not read."
    )
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


class ShadowModel(BaseModel):
    """A model on trial, and how its slates compare with those that were shown.

    Of the process that answers, since both versions are there; null before the first trial.
    """

    version: str | None = Field(description="The version on trial; null until it is taken up.")
    trials: int = Field(description="Requests that it ranked as well.")
    failures: int = Field(description="Requests that it failed to rank.")
    same_top: float | None = Field(description="Share of them with the same first place.")
    overlap_at_10: float | None = Field(description="Mean share of the first ten in both.")
    rank_correlation: float | None = Field(description="Mean of Spearman's rank correlation.")
    problem: str | None = Field(description="Why no newer one is on trial; or null.")


class Suggestion(BaseModel):
    """A feed to follow."""

    feed: str = Field(description="The feed, as group:id.")
    score: float = Field(description="The sum of what the algorithms add.")
    algorithm: str = Field(description="The algorithm that added most.")
    reason: str = Field(description="Why, for the end user.")
    algorithm_scores: dict[str, float]


class Suggestions(BaseModel):
    """Feeds to follow, the best first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "results": [
                        {
                            "feed": "user:alice",
                            "score": 0.6,
                            "algorithm": "friends_of_friends",
                            "reason": "followed by bob and 2 others whom you follow",
                            "algorithm_scores": {"friends_of_friends": 0.6},
                        }
                    ]
                }
            ]
        }
    )

    results: list[Suggestion]


class SuggestionsTaken(BaseModel):
    """What became of suggestions is in the log."""

    index: int = Field(description="Place in the log.")


class FeedbackTaken(BaseModel):
    """The user's word is in the log."""

    index: int = Field(description="Place in the log; reads that need it ask for `min_index`.")
    duplicate: bool = Field(description="Whether the idempotency key was used before.")


class Model(BaseModel):
    """What ranks the tenant's feeds; null where time does."""

    version: str | None = Field(description="The registry's number of the version.")
    previous: str | None = Field(description="The version at hand for a roll-back.")
    loading: bool = Field(description="Whether a model is being loaded.")
    scorer: str | None = Field(description="The kind of model.")
    spec_fingerprint: str | None = Field(description="SHA-256 of the features that it reads.")
    since: str | None = Field(description="When this server took it up, UTC.")
    problem: str | None = Field(description="Why nothing newer ranks, and what to do; or null.")
    shadow: ShadowModel | None = Field(description="The model on trial, if there is one.")
