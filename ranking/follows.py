"""What lies inside of the user's follows: in a followed feed, or by a followed author. Pure."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ranking.candidates import Query
from ranking.extractors.base import USER_GROUP
from ranking.interning import UNKNOWN
from ranking.table import ActivityTable

__all__ = ["followed", "followed_users"]


def followed_users(query: Query, table: ActivityTable) -> npt.NDArray[np.bool_]:
    """Which users the user follows, bool[users + 1] by their number; the last place is False."""
    users = np.zeros(table.names.users.size + 1, dtype=np.bool_)
    targets = [follow.target for follow in query.follows.values()]
    users[table.names.users.numbers([t.id for t in targets if t.group == USER_GROUP])] = True
    users[UNKNOWN] = False
    return users


def followed(
    query: Query, table: ActivityTable
) -> Callable[[npt.NDArray[np.int32]], npt.NDArray[np.bool_]]:
    """A function of rows, int32[n]: which lie in a followed feed or are by a followed author."""
    users = followed_users(query, table)
    feeds = np.zeros(table.names.feeds.size + 1, dtype=np.bool_)
    feeds[table.names.feeds.numbers(query.follows)] = True
    feeds[UNKNOWN] = False
    return lambda rows: users[table.author_user[rows]] | feeds[table.feeds[rows].T].any(axis=0)
