"""How long a tenant was trained within the last day, by the hour: what its quota counts. Pure.

Training notes it in the model registry, the service's loader tells it; so 24 numbers a tenant are
all there ever is.
"""

from collections.abc import Mapping
from typing import Final

from feeds.counters import HOUR_US

__all__ = [
    "DAY_HOURS",
    "TrainedHours",
    "minutes_trained",
    "trains_again_us",
    "with_time",
]

DAY_HOURS: Final = 24
"""Hours that count: the running one and those before it."""

TrainedHours = Mapping[int, float]
"""Seconds of training by the hour since 1970 in which they ended."""


def with_time(hours: TrainedHours, at_us: int, seconds: float) -> dict[int, float]:
    """With so many seconds (never fewer than none) more that ended at a time; a day is kept.

    >>> with_time({0: 60.0, 30: 5.0}, 31 * HOUR_US, 120.0)
    {30: 5.0, 31: 120.0}
    """
    hour = at_us // HOUR_US
    kept = {one: spent for one, spent in sorted(hours.items()) if one > hour - DAY_HOURS}
    return kept | {hour: kept.get(hour, 0.0) + max(0.0, seconds)}


def minutes_trained(hours: TrainedHours, now_us: int) -> float:
    """Minutes of training within the last day.

    >>> minutes_trained({0: 60.0, 30: 90.0}, 31 * HOUR_US)
    1.5
    """
    oldest = now_us // HOUR_US - DAY_HOURS
    return sum(spent for hour, spent in hours.items() if hour > oldest) / 60


def trains_again_us(hours: TrainedHours, minutes: int, now_us: int) -> int | None:
    """When less than so many minutes are spent, microseconds since 1970; None for never.

    >>> trains_again_us({30: 600.0}, 10, 31 * HOUR_US) // HOUR_US
    54
    """
    if minutes_trained(hours, now_us) < minutes:
        return now_us
    ends = sorted((hour + DAY_HOURS) * HOUR_US for hour in hours)
    return next((end for end in ends if minutes_trained(hours, end) < minutes), None)
