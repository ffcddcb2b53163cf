"""What an expression can read: the features, the time, and the counters by their known names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from ranking.expressions.functions import Column
from ranking.features import COUNTS, FEATURES

__all__ = ["VARIABLES", "Columns", "Moment", "Variable"]

Columns = Mapping[str, npt.NDArray[np.float64]]
"""Features by name, float64[n] each; NaN where missing."""


class Moment(Protocol):
    """What a variable may know of the request besides the features."""

    @property
    def now_s(self) -> float:
        """When it was made, in seconds since 1970."""
        ...


@dataclass(frozen=True, slots=True)
class Variable:
    """A name and the column it stands for, computed from the features that it names.

    A mapping of names to variables is all that a document is checked against: who has more columns
    (fields of an application's own) adds variables for them.
    """

    name: str
    features: tuple[str, ...]
    meaning: str
    compute: Callable[[Columns, Moment], Column] = field(repr=False, compare=False)


def _feature(name: str, of: str, meaning: str) -> Variable:
    return Variable(name, (of,), meaning, lambda columns, _: columns[of])


def _time(columns: Columns, moment: Moment) -> Column:
    return moment.now_s - columns["age_h"] * 3600.0


def _popularity(columns: Columns, _: Moment) -> Column:
    return (
        columns["likes_total"]
        + 2.0 * columns["comments_total"]
        + 3.0 * (columns["bookmarks_total"] + columns["shares_total"])
    )


_OWN: Final = (
    Variable("time", ("age_h",), "When the activity was posted, in seconds since 1970.", _time),
    Variable(
        "now",
        (),
        "When the request was made, in seconds since 1970.",
        lambda _, moment: np.float64(moment.now_s),
    ),
    Variable(
        "popularity",
        ("likes_total", "comments_total", "bookmarks_total", "shares_total"),
        "likes + 2 comments + 3 bookmarks + 3 shares, since the activity was posted.",
        _popularity,
    ),
)

_COUNTED: Final = {
    "reaction_count": "likes_total",
    "comment_count": "comments_total",
    "share_count": "shares_total",
    "bookmark_count": "bookmarks_total",
    "click_count": "clicks_total",
    "impression_count": "impressions_total",
    "hide_count": "hides_total",
    "reaction_counts.like": "likes_total",
    "reaction_counts.comment": "comments_total",
    "reaction_counts.share": "shares_total",
    "reaction_counts.bookmark": "bookmarks_total",
}

_REGISTERED: Final = {**FEATURES, **COUNTS}

VARIABLES: Final[Mapping[str, Variable]] = MappingProxyType(
    {
        variable.name: variable
        for variable in (
            *_OWN,
            *(
                _feature(name, of, f"`{of}`: {_REGISTERED[of].description}")
                for name, of in _COUNTED.items()
            ),
            *(_feature(name, name, one.description) for name, one in _REGISTERED.items()),
        )
    }
)
"""Every variable by name; `external.<name>` is the request's, with a default in the document."""
