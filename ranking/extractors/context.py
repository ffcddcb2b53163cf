"""The request itself: when, by whom, and, in training, where an activity was shown."""

import numpy as np

from feeds.counters import DAY_US, HOUR_US
from ranking.extractors.base import Column, Feature, Inputs

__all__ = ["FEATURES"]

_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday


def _position(inputs: Inputs) -> Column:
    if inputs.shown_at is None:
        return inputs.constant(0.0)
    return np.where(inputs.shown_at >= 0, inputs.shown_at, np.nan)


FEATURES = (
    Feature(
        "hour_utc",
        "context",
        "hours",
        "Hour of the day of the request, 0 to 23, UTC.",
        lambda inputs: inputs.constant(inputs.now_us // HOUR_US % 24),
    ),
    Feature(
        "weekday",
        "context",
        "days",
        "Day of the week of the request, Monday is 0, UTC.",
        lambda inputs: inputs.constant((inputs.now_us // DAY_US + _EPOCH_WEEKDAY) % 7),
    ),
    Feature(
        "user_engagements",
        "context",
        "count",
        "Engagements of the user so far.",
        lambda inputs: inputs.constant(inputs.user_engagements),
    ),
    Feature(
        "position",
        "context",
        "places",
        "Where the activity was shown, 0-based, in training (missing if unknown); 0 when serving, "
        "so that the model judges every candidate as if it stood first.",
        _position,
    ),
)
