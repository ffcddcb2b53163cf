"""What this user did before with the activity's author and tags.

A user's record keeps the 256 authors and 256 tags engaged with last: what left it counts as never
met, which is 0 engagements and a missing time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feeds.counters import Affinity
from ranking.extractors.base import Column, Feature, Inputs, hours_since, rate
from ranking.interning import UNKNOWN, Interner

__all__ = ["FEATURES"]


@dataclass(frozen=True, slots=True)
class _Met:
    """How the user met each name, int64[names + 1]: the last place stands for a missing name."""

    engagements: npt.NDArray[np.int64]
    impressions: npt.NDArray[np.int64]
    last_us: npt.NDArray[np.int64]


def _met(names: Interner, affinities: Mapping[str, Affinity]) -> _Met:
    numbers = names.numbers(affinities)
    met = affinities.values()
    return _Met(
        _spread(names.size, numbers, [affinity.engagements for affinity in met]),
        _spread(names.size, numbers, [affinity.impressions for affinity in met]),
        _spread(names.size, numbers, [affinity.last_us for affinity in met]),
    )


def _spread(
    size: int, numbers: npt.NDArray[np.intp], values: Sequence[int]
) -> npt.NDArray[np.int64]:
    """`values` at their numbers, 0 elsewhere and for `UNKNOWN`, int64[size + 1]."""
    spread = np.zeros(size + 1, dtype=np.int64)
    spread[numbers] = values
    spread[UNKNOWN] = 0
    return spread


def _met_authors(inputs: Inputs) -> _Met:
    return _met(inputs.table.names.authors, inputs.query.record.authors)


def _met_tags(inputs: Inputs) -> _Met:
    return _met(inputs.table.names.tags, inputs.query.record.tags)


def _user_author_engagements(inputs: Inputs) -> npt.NDArray[np.int64]:
    return inputs.once(_met_authors).engagements[inputs.authors]


def _user_author_share(inputs: Inputs) -> Column:
    return _share(inputs, inputs.once(_user_author_engagements))


def _user_author_rate(inputs: Inputs) -> Column:
    impressions = inputs.once(_met_authors).impressions[inputs.authors]
    return rate(inputs.parameters, inputs.once(_user_author_engagements), impressions)


def _user_author_hours(inputs: Inputs) -> Column:
    last_us = inputs.once(_met_authors).last_us[inputs.authors]
    return hours_since(inputs.query.now_us, last_us)


def _engagements_by_tag(inputs: Inputs) -> npt.NDArray[np.int64]:
    """int64[most tags, n]."""
    return inputs.once(_met_tags).engagements[inputs.tags]


def _user_tag_engagements(inputs: Inputs) -> npt.NDArray[np.int64]:
    total: npt.NDArray[np.int64] = inputs.once(_engagements_by_tag).sum(axis=0)
    return total


def _user_tag_share(inputs: Inputs) -> Column:
    best = inputs.once(_engagements_by_tag).max(axis=0)
    return np.where(inputs.tag_counts > 0, _share(inputs, best), np.nan)


def _user_tag_rate(inputs: Inputs) -> Column:
    impressions = inputs.once(_met_tags).impressions[inputs.tags].sum(axis=0)
    smoothed = rate(inputs.parameters, inputs.once(_user_tag_engagements), impressions)
    return np.where(inputs.tag_counts > 0, smoothed, np.nan)


def _user_tag_hours(inputs: Inputs) -> Column:
    last_us = inputs.once(_met_tags).last_us[inputs.tags].max(axis=0)
    return hours_since(inputs.query.now_us, last_us)


def _tag_overlap(inputs: Inputs) -> Column:
    liked = (inputs.once(_engagements_by_tag) > 0).sum(axis=0)
    return np.where(inputs.tag_counts > 0, liked / np.maximum(inputs.tag_counts, 1), np.nan)


def _user_impressions(inputs: Inputs) -> Column:
    shown = inputs.query.record.shown
    rows = inputs.table.rows(shown).astype(np.intp)
    return _spread(len(inputs.table.alive), rows, list(shown.values()))[inputs.rows]


def _share(inputs: Inputs, engagements: npt.NDArray[np.int64]) -> Column:
    total = inputs.query.record.engagements
    return engagements / total if total else inputs.constant(np.nan)


FEATURES = (
    Feature(
        "user_author_engagements",
        "affinity",
        "count",
        "The user's engagements with the author's activities.",
        lambda inputs: inputs.once(_user_author_engagements),
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
        _user_impressions,
    ),
)
