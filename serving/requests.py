"""What clients send: bodies with their limits, read strictly.

JSON is read with orjson, which takes neither NaN nor Infinity nor a number beyond a double nor text
that is no UTF-8; keys that come twice and integers that would be rounded are refused; pydantic then
checks the form. Limits that a tenant could meet are the engine's (`feeds.config`); the ones here
only keep a body from being unfolded without bound.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final, Literal, Self

import orjson
from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from feeds.errors import LimitExceeded
from feeds.events import Engagement, EngagementKind, Impression
from feeds.model import (
    ActivityDraft,
    ActivityId,
    check_user_id,
    parse_time,
    position_of,
)
from ranking.extractors.caller import is_caller_name
from serving.errors import BadRequest
from serving.tenants import KEY, Authenticator

__all__ = [
    "ActivateBody",
    "ActivityBody",
    "Body",
    "EventsBody",
    "FollowBody",
    "JsonRoute",
    "KeyBody",
    "QuotasBody",
    "RankBody",
    "RollBackBody",
    "RotationBody",
    "TenantBody",
]

JSON_TYPE = "application/json"

_DIGITS_SAFE: Final = 19
"""Integers of fewer characters fit 64 bits."""

CALLER_FEATURES_MAX: Final = 20
"""Names of numbers that a caller brings with its candidates at most."""

RESERVED = ("id", "origin")
"""Keys of an activity that the server gives."""


class JsonRoute(APIRoute):
    """A route whose body is JSON, and nothing that only looks like it.

    The key is looked at before the body: nobody but a tenant makes the server hold one.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, reading the body through `_JsonRequest`."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            if KEY not in request.scope:
                authenticator: Authenticator = request.app.state.services.authenticator
                authenticator.key(request.headers.get("authorization"))
            _check_content_type(request)
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json


def _check_content_type(request: Request) -> None:
    given = request.headers.get("content-type", JSON_TYPE).partition(";")[0].strip().lower()
    if given != JSON_TYPE:
        raise BadRequest(f"the content type is {given[:80]!r}: send {JSON_TYPE}")


class _JsonRequest(Request):
    async def json(self) -> Any:  # Any: JSON, checked by the body's model
        body = await self.body()
        try:
            content = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise BadRequest(
                f"the body is not JSON: {error}; nothing was changed",
                more_info="Send JSON in UTF-8; NaN and Infinity are not numbers in JSON.",
            ) from None
        _check_unambiguous(body)
        return content


def _check_unambiguous(body: bytes) -> None:
    """Refuse what orjson would take with a loss: a key twice, an integer beyond 64 bits.

    Reads valid JSON again, slower: about 5 us for an activity, 1 ms for 1,000 events.
    """
    try:
        json.loads(body, object_pairs_hook=_once_each, parse_int=_within_64_bits)
    except RecursionError:
        raise BadRequest("the body's JSON is nested too deeply: send fewer levels") from None


def _once_each(pairs: list[tuple[str, Any]]) -> None:  # Any: JSON
    keys = {key for key, _ in pairs}
    if len(keys) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise BadRequest(f"the body names {twice[:80]!r} twice: name each key once")


def _within_64_bits(digits: str) -> None:
    if len(digits) >= _DIGITS_SAFE and not -(2**63) <= int(digits) < 2**64:
        raise BadRequest(
            f"the body holds the integer {digits[:80]}, beyond 64 bits: send it as a text"
        )


class Body(BaseModel):
    """What a client sends: read strictly, and nothing that is not asked for."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ActivityBody(Body):
    """An activity to post. Every key besides these is the app's own and comes back as it was."""

    model_config = ConfigDict(
        extra="allow",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "actor": "user:alice",
                    "verb": "ask",
                    "object": "question:4711",
                    "to": ["topic:qubit"],
                    "foreign_id": "question:4711",
                    "time": "2026-01-31T12:00:00.000000",
                    "title": "What is a qubit?",
                    "tags": ["qubit"],
                }
            ]
        },
    )

    actor: str = Field(min_length=1, description="Who did it, such as user:alice.")
    verb: str = Field(min_length=1, description="What was done, such as ask.")
    object: str = Field(min_length=1, description="What it was done with.")
    target: str = Field("", description="Where to it was done, if anywhere.")
    foreign_id: str = Field("", description="The app's own id; with `time` it is unique.")
    time: str | None = Field(None, description="ISO 8601, UTC without an offset; absent means now.")
    to: list[str] = Field([], description="Other feeds that get it, as group:id.")

    @model_validator(mode="after")
    def _refuse_reserved(self) -> "ActivityBody":
        for key in RESERVED:
            if key in (self.model_extra or {}):
                raise ValueError(f"{key!r} is given by the server: leave it out")
        return self

    def draft(self) -> ActivityDraft:
        """The activity as the engine takes it; raises `InvalidTime`."""
        return ActivityDraft(
            actor=self.actor,
            verb=self.verb,
            object=self.object,
            target=self.target,
            foreign_id=self.foreign_id,
            time_us=None if self.time is None else parse_time(self.time),
            to=tuple(self.to),
            custom=self.model_extra or {},
        )


class FollowBody(Body):
    """A feed to follow."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"target": "topic:qubit", "copy_limit": 100}]}
    )

    target: str = Field(description="The feed to follow, as group:id.")
    copy_limit: int = Field(
        100, ge=0, description="Newest activities of the target that are copied at once."
    )


class _EventBody(Body):
    user: str = Field(description="The user's id.")
    activity_id: str = Field(description="The activity's id, from a reply of this server.")
    time: str | None = Field(None, description="ISO 8601, UTC without an offset; absent means now.")
    feed: str = Field("", max_length=320, description="The feed that it was shown in.")
    position: int = Field(
        -1, ge=-1, le=1_000_000, description="Place in that feed, 0-based; -1 if unknown."
    )
    slate_id: str = Field(
        "", max_length=64, description="`slate_id` of the ranked read that it was shown by."
    )

    def _fields(self, now_us: int) -> dict[str, Any]:  # Any: the fields of two Structs
        position_of(self.activity_id)
        return {
            "time_us": now_us if self.time is None else parse_time(self.time),
            "user": check_user_id(self.user),
            "activity_id": ActivityId(self.activity_id),
            "feed": self.feed,
            "position": self.position,
            "slate_id": self.slate_id,
        }


class ImpressionBody(_EventBody):
    """The activity was shown to the user."""

    type: Literal["impression"]

    def event(self, now_us: int) -> Impression:
        """The fact; `now_us` where the body has no time. Raises `InvalidInput`."""
        return Impression(**self._fields(now_us))


class EngagementBody(_EventBody):
    """The user engaged with the activity."""

    type: Literal["engagement"]
    kind: EngagementKind = Field(
        description="What the user did; `hide` and `report` are the negative ones, and take the "
        "activity out of the user's feeds. `dwell` is a look at it."
    )
    value: float = Field(
        1.0,
        description="How much it counts to the app; finite. A `dwell` needs it: its seconds, from "
        "0 to `dwell_s_max` (86,400).",
    )

    @model_validator(mode="after")
    def _check_seconds(self) -> Self:
        if self.kind == "dwell" and "value" not in self.model_fields_set:
            raise ValueError("a dwell has no value: send the seconds that the user looked at it")
        return self

    def event(self, now_us: int) -> Engagement:
        """The fact; `now_us` where the body has no time. Raises `InvalidInput`."""
        return Engagement(**self._fields(now_us), kind=self.kind, value=self.value)


class EventsBody(Body):
    """Impressions and engagements, at most `events_batch_max` (1,000) at a time."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {
                            "type": "impression",
                            "user": "bob",
                            "activity_id": "87a9eec0-fd5f-11e8-8080-80013fed2f5b",
                            "position": 0,
                        },
                        {
                            "type": "engagement",
                            "kind": "like",
                            "user": "bob",
                            "activity_id": "87a9eec0-fd5f-11e8-8080-80013fed2f5b",
                        },
                    ]
                }
            ]
        }
    )

    events: list[Annotated[ImpressionBody | EngagementBody, Field(discriminator="type")]]

    def facts(self, now_us: int, events_batch_max: int) -> list[Impression | Engagement]:
        """The events as the engine takes them; raises `InvalidInput`."""
        if len(self.events) > events_batch_max:
            raise LimitExceeded(
                f"{len(self.events)} events in one request: events_batch_max is "
                f"{events_batch_max}; send them in batches; nothing was changed"
            )
        return [event.event(now_us) for event in self.events]


class KeyBody(Body):
    """What a new API key shall allow."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"scopes": ["read", "write"]}]})

    scopes: list[Literal["read", "write", "admin"]] = Field(
        ["read", "write"], min_length=1, max_length=8, description="What the key allows."
    )


class RotationBody(Body):
    """How long the old key stays good."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"grace_s": 86_400}]})

    grace_s: int = Field(
        86_400, ge=0, description="Seconds for which the old key stays good; 30 days at most."
    )


class TenantBody(Body):
    """A tenant to make, and what its first API key shall allow."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"tenant": "acme"}]})

    tenant: str = Field(description="Lower-case letters, digits, - and _, at most 63.")
    scopes: list[Literal["read", "write", "admin"]] = Field(
        ["read", "write"], min_length=1, max_length=8, description="What the key allows."
    )


class QuotasBody(RootModel[dict[str, int | None]]):
    """Quotas by name; null is the server's default, 0 is nothing at all."""

    model_config = ConfigDict(
        strict=True, json_schema_extra={"examples": [{"requests_per_s": 100, "events_per_s": None}]}
    )


class RankBody(Body):
    """Activities that the caller wants in the best order for the user."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "candidates": ["87a9eec0-fd5f-11e8-8080-80013fed2f5b"],
                    "features": {"distance_km": [1.5]},
                }
            ]
        }
    )

    candidates: list[str] = Field(
        min_length=1, description="Activity ids, at most `candidates_max` (500 unless set)."
    )
    features: dict[str, list[float | None]] = Field(
        {},
        max_length=CALLER_FEATURES_MAX,
        description="Numbers of your own, by name: one for each candidate, in their order, null "
        "where there is none; 20 names at most. Expressions read them as `external.<name>`.",
    )
    explain: bool = Field(False, description="Whether stages, features and contributions come.")
    deadline_ms: float | None = Field(
        None, ge=0, le=60_000, description="Milliseconds that it may take; 0: the cheapest answer."
    )

    @model_validator(mode="after")
    def _check_features(self) -> "RankBody":
        for name, numbers in self.features.items():
            if not is_caller_name(name):
                raise ValueError(
                    f"{name[:80]!r} is not the name of a feature: use a letter, then letters, "
                    "digits and _, 40 at most"
                )
            if len(numbers) != len(self.candidates):
                raise ValueError(
                    f"feature {name} has {len(numbers)} numbers for {len(self.candidates)} "
                    "candidates: give one for each, null where there is none"
                )
        return self

    def caller(self) -> dict[str, dict[bytes, float]]:
        """The numbers by name and position; of a candidate that comes twice, the first one's.

        Raises `InvalidCursor` for what is no activity id.
        """
        if not self.features:
            return {}
        positions = [position_of(candidate) for candidate in self.candidates]
        return {
            name: {
                position: number
                for position, number in zip(reversed(positions), reversed(numbers), strict=True)
                if number is not None
            }
            for name, numbers in self.features.items()
        }


class ActivateBody(Body):
    """Which version ranks until now, so that nobody undoes what they have not seen."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"expected_version": 3}]})

    expected_version: int = Field(
        ge=0, le=2**53, description="The version that is active now; 0 is the default."
    )
    allow_empty: bool = Field(
        False, description="Whether it may leave nothing of all the last requests."
    )


class RollBackBody(Body):
    """Which version ranks until now, where the caller has looked."""

    expected_version: int | None = Field(
        None, ge=0, le=2**53, description="The version that is active now; absent: whatever is."
    )
