"""What a field must be, whatever it is a field of; each refusal is a sentence. Pure."""

import math

from feeds.errors import InvalidCursor, InvalidInput, InvalidTime, LimitExceeded
from feeds.model import TIME_MAX_US, TIME_MIN_US, position_of

__all__ = [
    "check_activity_id",
    "check_number",
    "check_text",
    "check_time",
    "is_finite",
    "not_json",
]


def check_text(name: str, text: str, bytes_max: int) -> str:
    """A text of at most `bytes_max` bytes in UTF-8 (`text_bytes_max` of the configuration)."""
    if not isinstance(text, str):
        raise InvalidInput(f"{name} is not a text: send a string")
    try:
        length = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise InvalidInput(f"{name} is not valid Unicode: send UTF-8") from None
    if length > bytes_max:
        raise LimitExceeded(
            f"{name} takes {length} bytes, text_bytes_max is {bytes_max}: shorten it"
        )
    return text


def check_time(time_us: int, now_us: int, future_time_max_s: int) -> int:
    """A time in microseconds since the epoch, at most so many seconds ahead of `now_us`."""
    if isinstance(time_us, bool) or not isinstance(time_us, int):
        raise InvalidTime("time is not a whole number of microseconds since 1970: send one")
    if not TIME_MIN_US <= time_us < TIME_MAX_US:
        raise InvalidTime(f"time {time_us} us lies outside 1970-01-01 to 2199-12-31")
    ahead_us = time_us - now_us
    if ahead_us > future_time_max_s * 1_000_000:
        raise InvalidTime(
            f"time is {ahead_us / 1_000_000:.0f} s in the future, future_time_max_s is "
            f"{future_time_max_s}: send the time at which it happened"
        )
    return time_us


def check_activity_id(activity_id: str) -> None:
    """An activity's id, of a time that an activity can have."""
    try:
        position_of(activity_id)
    except InvalidCursor as error:
        raise InvalidInput(str(error)) from None


def check_number(name: str, number: int, low: int, high: int, limit: str) -> None:
    """A whole number within `low` and `high`, whose name is `limit`."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise InvalidInput(f"{name} is not a whole number: send one")
    if number < low:
        raise InvalidInput(f"{name} is {number}: send at least {low}")
    if number > high:
        raise LimitExceeded(f"{name} is {number}, {limit} is {high}: send less")


def is_finite(value: object) -> bool:
    """True if no number within is NaN or infinite."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return True


def not_json(error: Exception) -> InvalidInput:
    """What to say of custom fields that orjson refuses with `error`."""
    return InvalidInput(f"custom fields cannot be written as JSON ({error}): send JSON in UTF-8")
