"""How the user is connected to an activity: whom and what the user follows."""

from typing import Final

import numpy as np
import numpy.typing as npt

from ranking.extractors.base import USER_GROUP, Column, Feature, Inputs, hours_since, stacked

__all__ = ["FEATURES"]

_NEVER: Final = np.iinfo(np.int64).max


def _followed_users(inputs: Inputs) -> npt.NDArray[np.int64]:
    """When the user followed each user, int64[users + 1]."""
    users = inputs.table.names.users
    since_us = np.full(users.size + 1, _NEVER, dtype=np.int64)
    for follow in inputs.query.follows.values():
        if follow.target.group == USER_GROUP:
            since_us[users.get(follow.target.id)] = follow.created_us
    since_us[-1] = _NEVER
    return since_us


def _followed_feeds(inputs: Inputs) -> npt.NDArray[np.int64]:
    """When the user followed each of a candidate's feeds, int64[most feeds, n]."""
    feeds, follows = inputs.table.names.feeds, inputs.query.follows
    since_us = np.full(feeds.size + 1, _NEVER, dtype=np.int64)
    since_us[feeds.numbers(follows)] = [follow.created_us for follow in follows.values()]
    since_us[-1] = _NEVER
    return since_us[inputs.feeds]


def _author_since(inputs: Inputs) -> npt.NDArray[np.int64]:
    return inputs.once(_followed_users)[inputs.table.author_user[inputs.rows]]


def _follows_author(inputs: Inputs) -> Column:
    return inputs.once(_author_since) < _NEVER


def _feeds_followed(inputs: Inputs) -> Column:
    return np.asarray((inputs.once(_followed_feeds) < _NEVER).sum(axis=0))


def _follow_age_h(inputs: Inputs) -> Column:
    oldest = np.minimum(inputs.once(_author_since), inputs.once(_followed_feeds).min(axis=0))
    return hours_since(inputs.query.now_us, np.where(oldest < _NEVER, oldest, 0))


def _followees_engaged(inputs: Inputs) -> Column:
    followed = inputs.once(_followed_users) < _NEVER
    return np.asarray(
        followed[stacked(inputs.table.engagers.take(inputs.rows, axis=0))].sum(axis=0)
    )


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
        _followees_engaged,
    ),
)
