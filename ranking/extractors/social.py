"""How the user is connected to an activity: whom and what the user follows."""

import numpy as np

from ranking.extractors.base import NEVER, Column, Feature, Inputs, hours_since

__all__ = ["FEATURES"]


def _follows_author(inputs: Inputs) -> Column:
    return inputs.author_since_us < NEVER


def _feeds_followed(inputs: Inputs) -> Column:
    return np.asarray((inputs.feeds_since_us < NEVER).sum(axis=0))


def _follow_age_h(inputs: Inputs) -> Column:
    oldest = np.minimum(inputs.author_since_us, inputs.feeds_since_us.min(axis=0))
    return hours_since(inputs.now_us, np.where(oldest < NEVER, oldest, 0))


FEATURES = (
    Feature(
        "follows_author",
        "social",
        "0 or 1",
        "Whether the user follows the author's own feed, `user:<author>`.",
        _follows_author,
    ),
    Feature(
        "feeds_followed",
        "social",
        "count",
        "How many of the feeds that the activity was posted to the user follows.",
        _feeds_followed,
    ),
    Feature(
        "follow_age_h",
        "social",
        "hours",
        "Time since the user began to follow the author or a feed of the activity, whichever came "
        "first; missing if the user follows none.",
        _follow_age_h,
    ),
    Feature(
        "followees_engaged",
        "social",
        "count",
        "How many of the last 16 users who engaged with the activity the user follows.",
        lambda inputs: inputs.followed_engagers,
    ),
)
