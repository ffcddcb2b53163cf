"""What everyone did with an activity, with its author's others and with its tags'.

A decayed count weighs an event of age a by `2 ** (-a / half-life)`. The half-life is part of the
feature's name, since another half-life is another feature. An engagement is every kind but `hide`.
"""

from functools import partial

import numpy as np
import numpy.typing as npt

from feeds.counters import DAY_US, HOUR_US
from ranking.buckets import CHANNELS, ENGAGEMENT, IMPRESSION, Ring
from ranking.extractors.base import Column, Feature, Inputs, rate

__all__ = ["COUNTS", "FEATURES"]

_WEEK_US = 7 * DAY_US
_HIDE = CHANNELS.index("hide")

Floats = npt.NDArray[np.float64]


def _known_weights(_inputs: Inputs) -> dict[int, Floats]:
    return {}


def _day_weights(inputs: Inputs, ring: Ring) -> Floats:
    """Columns: half-lives of a day and of 7 days. The day rings mostly share one clock."""
    known = inputs.once(_known_weights)
    if ring.newest not in known:
        known[ring.newest] = ring.decays(inputs.query.now_us, [DAY_US, _WEEK_US])
    return known[ring.newest]


def _engagements_by_day(inputs: Inputs) -> Floats:
    """Columns: half-lives of a day and of 7 days."""
    ring = inputs.table.counts.day
    return ring.weigh(inputs.rows, ENGAGEMENT, _day_weights(inputs, ring))


def _engagements_by_hour(inputs: Inputs) -> Floats:
    """Columns: half-life of an hour; the plain count of 24 hours."""
    ring, now_us = inputs.table.counts.hour, inputs.query.now_us
    weights = np.hstack([ring.decays(now_us, [HOUR_US]), ring.window(now_us, 24)])
    return ring.weigh(inputs.rows, ENGAGEMENT, weights)


def _decayed_7d(inputs: Inputs, channel: int) -> Floats:
    return _over_7d(inputs, inputs.table.counts.day, inputs.rows, channel)


def _over_7d(
    inputs: Inputs, ring: Ring, rows: npt.NDArray[np.integer], channel: int = ENGAGEMENT
) -> Floats:
    decayed: Floats = ring.weigh(rows, channel, _day_weights(inputs, ring)[:, 1:])[:, 0]
    return decayed


def _total(inputs: Inputs, channel: int) -> Column:
    totals: Column = inputs.table.counts.totals[inputs.rows, channel]
    return totals


def _engagement_rate(inputs: Inputs) -> Column:
    engagements, impressions = _total(inputs, ENGAGEMENT), _total(inputs, IMPRESSION)
    return rate(inputs.parameters, engagements, impressions)


def _engagement_rate_7d(inputs: Inputs) -> Column:
    engagements = inputs.once(_engagements_by_day)[:, 1]
    return rate(inputs.parameters, engagements, _decayed_7d(inputs, IMPRESSION))


def _author_engagements_7d(inputs: Inputs) -> Column:
    return _over_7d(inputs, inputs.table.author_counts.day, inputs.authors)


def _author_engagement_rate(inputs: Inputs) -> Column:
    totals = inputs.table.author_counts.totals
    engagements, impressions = (
        totals[inputs.authors, channel] for channel in (ENGAGEMENT, IMPRESSION)
    )
    return rate(inputs.parameters, engagements, impressions)


def _tags_in_use(inputs: Inputs) -> npt.NDArray[np.intp]:
    """The tags that any candidate has, so that each is weighed once."""
    used = np.zeros(inputs.table.names.tags.size + 1, dtype=np.bool_)
    used[inputs.tags] = True
    return np.flatnonzero(used[:-1])


def _tag_engagements_7d(inputs: Inputs) -> Column:
    used = inputs.once(_tags_in_use)
    by_tag = np.zeros(inputs.table.names.tags.size + 1)
    by_tag[used] = _over_7d(inputs, inputs.table.tag_counts.day, used)
    return _mean_of_tags(inputs, by_tag[inputs.tags].sum(axis=0))


def _tag_engagement_rate(inputs: Inputs) -> Column:
    used, totals = inputs.once(_tags_in_use), inputs.table.tag_counts.totals
    engagements, impressions = np.zeros((2, inputs.table.names.tags.size + 1), dtype=np.int64)
    engagements[used] = totals[used, ENGAGEMENT]
    impressions[used] = totals[used, IMPRESSION]
    smoothed = rate(
        inputs.parameters,
        engagements[inputs.tags].sum(axis=0),
        impressions[inputs.tags].sum(axis=0),
    )
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
        lambda inputs: inputs.once(_engagements_by_hour)[:, 0],
    ),
    Feature(
        "engagements_last_24h",
        "popularity",
        "count",
        "Engagements with the activity in this hour and the 23 before.",
        lambda inputs: inputs.once(_engagements_by_hour)[:, 1],
    ),
    Feature(
        "engagements_1d",
        "popularity",
        "decayed count",
        "Engagements with the activity in the last 30 days, half-life 1 day.",
        lambda inputs: inputs.once(_engagements_by_day)[:, 0],
    ),
    Feature(
        "engagements_7d",
        "popularity",
        "decayed count",
        "Engagements with the activity in the last 30 days, half-life 7 days.",
        lambda inputs: inputs.once(_engagements_by_day)[:, 1],
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
        _engagement_rate,
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
        _author_engagements_7d,
    ),
    Feature(
        "author_engagement_rate",
        "popularity",
        "engagements per impression",
        "Engagements per impression of all the author's activities, smoothed by the prior.",
        _author_engagement_rate,
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
    )
)
