"""How fresh an activity is."""

import numpy as np

from feeds.counters import HOUR_US
from ranking.extractors.base import Column, Feature, Inputs, hours_since

__all__ = ["FEATURES"]


def _age_h(inputs: Inputs) -> Column:
    return np.maximum(inputs.now_us - inputs.posted_us, 0) / HOUR_US


def _hours_since_engagement(inputs: Inputs) -> Column:
    return hours_since(inputs.now_us, inputs.engaged_us)


def _hours_since_active(inputs: Inputs) -> Column:
    return np.fmin(inputs.once(_age_h), inputs.once(_hours_since_engagement))


FEATURES = (
    Feature(
        "age_h",
        "recency",
        "hours",
        "Time since the activity was posted.",
        lambda inputs: inputs.once(_age_h),
    ),
    Feature(
        "hours_since_engagement",
        "recency",
        "hours",
        "Time since anyone engaged with the activity; missing if nobody did.",
        lambda inputs: inputs.once(_hours_since_engagement),
    ),
    Feature(
        "hours_since_active",
        "recency",
        "hours",
        "Time since the activity was posted or anyone engaged with it, whichever is shorter.",
        _hours_since_active,
    ),
)
