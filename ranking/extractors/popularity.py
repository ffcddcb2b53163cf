"""What everyone did with an activity, with its author's others and with its tags'.

A decayed count weighs an event of age a by `2 ** (-a / half-life)`. The half-life is part of the
feature's name, since another half-life is another feature. An engagement is every kind but
`hide`, `report` and `dwell`.
"""

from functools import partial

import numpy as np
import numpy.typing as npt

from ranking.buckets import CHANNELS, ENGAGEMENT, IMPRESSION
from ranking.extractors.base import Column, Counted, Feature, Inputs, rate

__all__ = ["COUNTS", "FEATURES"]

_HIDE = CHANNELS.index("hide")

Floats = npt.NDArray[np.float64]


def _by_day(inputs: Inputs) -> Floats:
    return inputs.engagements_by_day()


def _by_hour(inputs: Inputs) -> Floats:
    return inputs.engagements_by_hour()


def _decayed_7d(inputs: Inputs, channel: int) -> Floats:
    return inputs.decayed_7d("activity", channel)


def _total(inputs: Inputs, channel: int) -> Column:
    return inputs.total("activity", channel)


def _engagement_rate(inputs: Inputs, of: Counted) -> Column:
    return rate(inputs.parameters, inputs.total(of, ENGAGEMENT), inputs.total(of, IMPRESSION))


def _engagement_rate_7d(inputs: Inputs) -> Column:
    engagements = inputs.once(_by_day)[:, 1]
    return rate(inputs.parameters, engagements, _decayed_7d(inputs, IMPRESSION))


def _tag_engagements_7d(inputs: Inputs) -> Column:
    return _mean_of_tags(inputs, inputs.decayed_7d("tags", ENGAGEMENT).sum(axis=0))


def _tag_engagement_rate(inputs: Inputs) -> Column:
    engagements, impressions = (
        inputs.total("tags", channel).sum(axis=0) for channel in (ENGAGEMENT, IMPRESSION)
    )
    smoothed = rate(inputs.parameters, engagements, impressions)
    return np.where(inputs.tag_counts > 0, smoothed, np.nan)


def _mean_of_tags(inputs: Inputs, sums: Floats) -> Floats:
    return np.where(inputs.tag_counts > 0, sums / np.maximum(inputs.tag_counts, 1), np.nan)


FEATURES = (
    Feature(
        "engagements_total",
        "popularity",
        "count",
        "Engagements with the activity since it was posted.",
        partial(_total, channel=ENGAGEMENT),
    ),
    Feature(
        "engagements_1h",
        "popularity",
        "decayed count",
        "Engagements with the activity in the last 24 hours, half-life 1 hour.",
        lambda inputs: inputs.once(_by_hour)[:, 0],
    ),
    Feature(
        "engagements_last_24h",
        "popularity",
        "count",
        "Engagements with the activity in this hour and the 23 before.",
        lambda inputs: inputs.once(_by_hour)[:, 1],
    ),
    Feature(
        "engagements_1d",
        "popularity",
        "decayed count",
        "Engagements with the activity in the last 30 days, half-life 1 day.",
        lambda inputs: inputs.once(_by_day)[:, 0],
    ),
    Feature(
        "engagements_7d",
        "popularity",
        "decayed count",
        "Engagements with the activity in the last 30 days, half-life 7 days.",
        lambda inputs: inputs.once(_by_day)[:, 1],
    ),
    Feature(
        "likes_7d",
        "popularity",
        "decayed count",
        "Likes of the activity in the last 30 days, half-life 7 days.",
        partial(_decayed_7d, channel=CHANNELS.index("like")),
    ),
    Feature(
        "comments_7d",
        "popularity",
        "decayed count",
        "Comments on the activity in the last 30 days, half-life 7 days.",
        partial(_decayed_7d, channel=CHANNELS.index("comment")),
    ),
    Feature(
        "bookmarks_7d",
        "popularity",
        "decayed count",
        "Bookmarks of the activity in the last 30 days, half-life 7 days.",
        partial(_decayed_7d, channel=CHANNELS.index("bookmark")),
    ),
    Feature(
        "hides_total",
        "popularity",
        "count",
        "How often the activity was hidden.",
        partial(_total, channel=_HIDE),
    ),
    Feature(
        "impressions_total",
        "popularity",
        "count",
        "How often the activity was shown.",
        partial(_total, channel=IMPRESSION),
    ),
    Feature(
        "engagement_rate",
        "popularity",
        "engagements per impression",
        "Engagements per impression of the activity since it was posted, smoothed by the prior.",
        partial(_engagement_rate, of="activity"),
    ),
    Feature(
        "engagement_rate_7d",
        "popularity",
        "engagements per impression",
        "Engagements per impression of the activity, both with half-life 7 days, smoothed.",
        _engagement_rate_7d,
    ),
    Feature(
        "author_engagements_7d",
        "popularity",
        "decayed count",
        "Engagements with the author's activities in the last 30 days, half-life 7 days.",
        lambda inputs: inputs.decayed_7d("author", ENGAGEMENT),
    ),
    Feature(
        "author_engagement_rate",
        "popularity",
        "engagements per impression",
        "Engagements per impression of all the author's activities, smoothed by the prior.",
        partial(_engagement_rate, of="author"),
    ),
    Feature(
        "tag_engagements_7d",
        "popularity",
        "decayed count",
        "Engagements with a tag in the last 30 days, half-life 7 days: the mean of the activity's "
        "tags; missing if it has none.",
        _tag_engagements_7d,
    ),
    Feature(
        "tag_engagement_rate",
        "popularity",
        "engagements per impression",
        "Engagements per impression with the activity's tags together, smoothed by the prior; "
        "missing if it has none.",
        _tag_engagement_rate,
    ),
)

COUNTS = tuple(
    Feature(
        f"{kind}s_total",
        "counts",
        "count",
        f"{what} since it was posted.",
        partial(_total, channel=CHANNELS.index(kind)),
    )
    for kind, what in (
        ("click", "Clicks on the activity"),
        ("like", "Likes of the activity"),
        ("comment", "Comments on the activity"),
        ("share", "Shares of the activity"),
        ("bookmark", "Bookmarks of the activity"),
        ("dwell", "Looks at the activity"),
        ("report", "Reports of the activity"),
    )
)
