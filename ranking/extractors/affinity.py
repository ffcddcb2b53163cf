"""What this user did before with the activity's author and tags.

A user's record keeps the 256 authors and 256 tags engaged with last: what left it counts as never
met, which is 0 engagements and a missing time.
"""

import numpy as np
import numpy.typing as npt

from ranking.extractors.base import Column, Feature, Inputs, hours_since, rate

__all__ = ["FEATURES"]


def _author_engagements(inputs: Inputs) -> npt.NDArray[np.int64]:
    return inputs.met_authors.engagements


def _user_author_share(inputs: Inputs) -> Column:
    return _share(inputs, _author_engagements(inputs))


def _user_author_rate(inputs: Inputs) -> Column:
    return rate(inputs.parameters, _author_engagements(inputs), inputs.met_authors.impressions)


def _user_author_hours(inputs: Inputs) -> Column:
    return hours_since(inputs.now_us, inputs.met_authors.last_us)


def _user_tag_engagements(inputs: Inputs) -> npt.NDArray[np.int64]:
    total: npt.NDArray[np.int64] = inputs.met_tags.engagements.sum(axis=0)
    return total


def _user_tag_share(inputs: Inputs) -> Column:
    best = inputs.met_tags.engagements.max(axis=0)
    return np.where(inputs.tag_counts > 0, _share(inputs, best), np.nan)


def _user_tag_rate(inputs: Inputs) -> Column:
    impressions = inputs.met_tags.impressions.sum(axis=0)
    smoothed = rate(inputs.parameters, inputs.once(_user_tag_engagements), impressions)
    return np.where(inputs.tag_counts > 0, smoothed, np.nan)


def _user_tag_hours(inputs: Inputs) -> Column:
    return hours_since(inputs.now_us, inputs.met_tags.last_us.max(axis=0))


def _tag_overlap(inputs: Inputs) -> Column:
    liked = (inputs.met_tags.engagements > 0).sum(axis=0)
    return np.where(inputs.tag_counts > 0, liked / np.maximum(inputs.tag_counts, 1), np.nan)


def _share(inputs: Inputs, engagements: npt.NDArray[np.int64]) -> Column:
    total = inputs.user_engagements
    return np.where(np.greater(total, 0), engagements / np.maximum(total, 1), np.nan)


FEATURES = (
    Feature(
        "user_author_engagements",
        "affinity",
        "count",
        "The user's engagements with the author's activities.",
        _author_engagements,
    ),
    Feature(
        "user_author_share",
        "affinity",
        "share, 0 to 1",
        "The author's share of the user's engagements; missing if the user has none.",
        _user_author_share,
    ),
    Feature(
        "user_author_rate",
        "affinity",
        "engagements per impression",
        "The user's engagements per impression of the author's activities, smoothed by the prior.",
        _user_author_rate,
    ),
    Feature(
        "user_author_hours",
        "affinity",
        "hours",
        "Time since the user engaged with the author; missing if never.",
        _user_author_hours,
    ),
    Feature(
        "user_tag_engagements",
        "affinity",
        "count",
        "The user's engagements with the activity's tags, added up.",
        lambda inputs: inputs.once(_user_tag_engagements),
    ),
    Feature(
        "user_tag_share",
        "affinity",
        "share, 0 to 1",
        "The share of the user's engagements that went to the activity's strongest tag; missing "
        "without tags or engagements.",
        _user_tag_share,
    ),
    Feature(
        "user_tag_rate",
        "affinity",
        "engagements per impression",
        "The user's engagements per impression with the activity's tags together, smoothed by the "
        "prior; missing without tags.",
        _user_tag_rate,
    ),
    Feature(
        "user_tag_hours",
        "affinity",
        "hours",
        "Time since the user engaged with any of the activity's tags; missing if never.",
        _user_tag_hours,
    ),
    Feature(
        "tag_overlap",
        "affinity",
        "share, 0 to 1",
        "The share of the activity's tags that the user has engaged with; missing without tags.",
        _tag_overlap,
    ),
    Feature(
        "user_impressions",
        "affinity",
        "count",
        "How often the activity was shown to this user, of the last 500 activities shown.",
        lambda inputs: inputs.shown,
    ),
)
