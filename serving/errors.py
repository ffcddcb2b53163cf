"""Every error of the API, and what an error of the engine is answered with.

ApiError                 an answer that is an error, with the code that Stream's clients know
├── BadRequest      400  the request cannot be right; nothing was changed
│   └── ConfigRefused   a ranking config that cannot be used; `problems` names every mistake
├── KeyRefused      401  no key, or one that this server does not know
├── OperatorRefused 401  not the operator's token
├── NotAllowed      403  the key may not do this
├── ClientTooSlow   408  the request did not come within `client_timeout_s`
├── SlateExpired    410  the pages of a ranked feed are no longer held: read again
├── BodyTooLarge    413  more bytes than `body_bytes_max`
├── OverQuota       429  the tenant has used up a quota; `Retry-After` says when to try again
├── HeadTooLarge    431  more bytes than `head_bytes_max`
└── Unavailable     503  for the moment; `Retry-After` says when to try again
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, Final, NamedTuple

import orjson
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from feeds.errors import (
    Conflict,
    FeedsError,
    InvalidInput,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    QuotaExceeded,
    StaleRead,
    StorageError,
    StorageFull,
    UnknownFeedGroup,
)

__all__ = [
    "INTERNAL",
    "Answer",
    "ApiError",
    "BadRequest",
    "BodyTooLarge",
    "ClientTooSlow",
    "ConfigRefused",
    "HeadTooLarge",
    "KeyRefused",
    "NotAllowed",
    "OperatorRefused",
    "OverQuota",
    "SlateExpired",
    "Unavailable",
    "error_response",
    "on_feeds_error",
    "on_http_error",
    "on_invalid_request",
]

PROBLEMS_MAX: Final = 8
"""Mistakes of one request that its answer lists at most."""


class Answer(NamedTuple):
    """HTTP status, Stream's code and the class that Stream's clients raise for it."""

    status: int
    code: int
    exception: str


INTERNAL: Final = Answer(500, -1, "InternalException")

RATE_LIMITED: Final = Answer(429, 9, "RateLimitReached")

STORAGE_RETRY_S: Final = 60
"""Seconds after which a tenant whose storage is full may try again: until then nothing changes by
itself."""


class ApiError(HTTPException):
    """An answer that is an error; `more_info` says what to do next where the detail does not."""

    answer: Answer = INTERNAL

    def __init__(
        self, detail: str, *, more_info: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(self.answer.status, detail, headers)
        self.more_info = more_info


class BadRequest(ApiError):
    """The request cannot be right; nothing was changed."""

    answer = Answer(400, 4, "InputException")


class ConfigRefused(BadRequest):
    """A ranking config that cannot be used; `problems` holds every mistake as a sentence."""

    def __init__(self, problems: Sequence[str]) -> None:
        number = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        super().__init__(
            f"this ranking config has {number}: {'; '.join(problems)}; nothing was changed",
            more_info="Its form is at /v2/ranking-config/schema.",
        )
        self.problems = tuple(problems)


class KeyRefused(ApiError):
    """There is no key in the request, or this server does not know it."""

    answer = Answer(401, 2, "ApiKeyException")

    def __init__(self, detail: str) -> None:
        super().__init__(
            detail,
            more_info="Send 'Authorization: Bearer hw_<key id>_<secret>'; "
            "`headwater keys` makes keys.",
            headers={"WWW-Authenticate": "Bearer"},
        )


class OperatorRefused(ApiError):
    """The request lacks the operator's token."""

    answer = Answer(401, 2, "ApiKeyException")

    def __init__(self, detail: str) -> None:
        super().__init__(
            detail,
            more_info="Send 'Authorization: Bearer <token>', the setting metrics_token.",
            headers={"WWW-Authenticate": "Bearer"},
        )


class NotAllowed(ApiError):
    """The key may not do this."""

    answer = Answer(403, 17, "NotAllowedException")


class SlateExpired(ApiError):
    """The slate of this cursor is no longer held."""

    answer = Answer(410, 4, "InputException")


class BodyTooLarge(ApiError):
    """The body has more bytes than the server reads."""

    answer = Answer(413, 18, "BodyTooLargeException")

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the body is longer than body_bytes_max, {limit} bytes; nothing was changed",
            more_info="Send less at a time: split events into batches, shorten custom fields.",
            headers={"Connection": "close"},
        )


class ClientTooSlow(ApiError):
    """The request, or the rest of it, did not come in time."""

    answer = Answer(408, 4, "InputException")

    def __init__(self, part: str, limit_s: float) -> None:
        super().__init__(
            f"the request's {part} did not come within client_timeout_s, {limit_s:g} s; nothing "
            "was changed",
            more_info="Send the whole request at once, as long as its Content-Length says.",
            headers={"Connection": "close"},
        )


class OverQuota(ApiError):
    """The tenant has used up one of its quotas for the moment."""

    answer = RATE_LIMITED

    def __init__(self, tenant: str, quota: str, limit: int, wait_s: float) -> None:
        super().__init__(
            f"tenant {tenant} has used up its quota {quota}, {limit}; nothing was changed",
            more_info="Send less at a time, or ask who runs the server for more: "
            f"`headwater tenants quota set {tenant}`.",
            headers={"Retry-After": str(ceil(wait_s))},
        )
        self.quota = quota
        self.wait_s = wait_s
        """Seconds after which the same request would be taken, if no other came."""


class HeadTooLarge(ApiError):
    """The request's path and headers have more bytes than the server reads."""

    answer = Answer(431, 4, "InputException")

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"path and headers are longer than head_bytes_max, {limit} bytes; nothing was changed",
            more_info="Send fewer or shorter headers; what is long belongs into the body.",
            headers={"Connection": "close"},
        )


class Unavailable(ApiError):
    """The server cannot do this for the moment."""

    answer = Answer(503, -1, "UnavailableException")

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_s)})


_ANSWERS: tuple[tuple[type[FeedsError], Answer], ...] = (
    (UnknownFeedGroup, Answer(400, 6, "FeedConfigException")),
    (InvalidInput, Answer(400, 4, "InputException")),
    (NotFound, Answer(404, 16, "DoesNotExistException")),
    (Conflict, Answer(409, 22, "ConflictException")),
    (QuotaExceeded, RATE_LIMITED),
    (Overloaded, Answer(503, 9, "RateLimitReached")),
    (NoLeader, Answer(503, -1, "NoLeaderException")),
    (OutcomeUnknown, Answer(503, -1, "OutcomeUnknownException")),
    (StaleRead, Answer(503, -1, "StaleReadException")),
    (StorageFull, Answer(503, -1, "StorageFullException")),
    (StorageError, Answer(503, -1, "StorageException")),
    (FeedsError, INTERNAL),
)
"""The first class that fits decides; the most special ones stand first."""

_ROUTER_ANSWERS: dict[int, Answer] = {
    404: Answer(404, 16, "DoesNotExistException"),
    405: Answer(405, 17, "NotAllowedException"),
}

_REPEAT: Final = (
    "Send it again with the same Idempotency-Key, or the same foreign_id and time: it takes effect "
    "once."
)
_SEE_DOCS: Final = "The form of every request is in /docs and /openapi.json."


def error_response(
    answer: Answer,
    detail: str,
    more_info: str = "",
    headers: Mapping[str, str] | None = None,
    problems: Sequence[str] = (),
) -> Response:
    """The one form of an error: detail, status_code, code, exception; more_info and problems."""
    body: dict[str, str | int | Sequence[str]] = {
        "detail": detail,
        "status_code": answer.status,
        "code": answer.code,
        "exception": answer.exception,
    }
    if more_info:
        body["more_info"] = more_info
    if problems:
        body["problems"] = problems
    return Response(orjson.dumps(body), answer.status, headers, "application/json")


async def on_feeds_error(request: Request, error: Exception) -> Response:
    """Answer an error of the engine: its sentence, with the status and code of its class."""
    answer = next(answer for kind, answer in _ANSWERS if isinstance(error, kind))
    if answer == RATE_LIMITED:
        return error_response(answer, str(error), "", {"Retry-After": str(STORAGE_RETRY_S)})
    if answer.status != Unavailable.answer.status:
        return error_response(answer, str(error))
    wait_s = request.app.state.services.settings.retry_after_s
    if isinstance(error, Overloaded):
        wait_s = max(wait_s, ceil(error.retry_after_s))
    more_info = _REPEAT if isinstance(error, OutcomeUnknown) else ""
    return error_response(answer, str(error), more_info, {"Retry-After": str(wait_s)})


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer an `ApiError`, or what the router found: no such path, no such method."""
    if isinstance(error, ApiError):
        problems = error.problems if isinstance(error, ConfigRefused) else ()
        return error_response(
            error.answer, str(error.detail), error.more_info, error.headers, problems
        )
    if not isinstance(error, HTTPException):
        return error_response(INTERNAL, "the server failed; its log has the cause")
    answer = _ROUTER_ANSWERS.get(error.status_code, BadRequest.answer)
    path = request.url.path[:80]
    detail = {
        404: f"there is nothing at {path!r}",
        405: f"{request.method} is not a method of {path!r}",
    }.get(error.status_code, str(error.detail))
    return error_response(answer, detail, _SEE_DOCS, error.headers)


async def on_invalid_request(request: Request, error: Exception) -> Response:
    """Answer a request that does not fit its form: what is wrong where, never its content."""
    del request
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    sentences = [_sentence(problem) for problem in problems[:PROBLEMS_MAX]]
    if len(problems) > PROBLEMS_MAX:
        sentences.append(f"and {len(problems) - PROBLEMS_MAX} more")
    detail = "; ".join(sentences) + "; nothing was changed"
    return error_response(BadRequest.answer, detail, _SEE_DOCS)


def _sentence(problem: Any) -> str:  # Any: pydantic's ErrorDetails
    where = ".".join(str(step) for step in problem["loc"] if step != "body")
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where or 'the body'}: {message}"
