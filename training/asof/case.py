"""The log and the questions asked of it, resolved to numbers: what every side is computed from."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feeds.counters import COUNTER_KINDS
from feeds.events import APART_KINDS
from training.asof.lives import Lives, trace_lives
from training.events.columns import EventColumns

__all__ = ["Case", "CountedEvents", "Questions", "resolve"]

Ints = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int32]

_APART = [COUNTER_KINDS.index(kind) for kind in sorted(APART_KINDS)]
_ROWS = 1_048_576


@dataclass(frozen=True, slots=True)
class Questions:
    """n questions: the features of an activity for a user, of what was known before a place.

    Places ascend; rows of one request have the same place and time and lie together.
    """

    place: Ints
    now_us: Ints
    user: Numbers
    """int32[n]: a place in the log's users."""
    activity: Numbers
    """int32[n]: a place in the log's activities."""

    def __len__(self) -> int:
        """How many there are."""
        return len(self.place)


@dataclass(frozen=True, slots=True)
class CountedEvents:
    """The m impressions and engagements with activities that were there, in log order."""

    place: Ints
    time_us: Ints
    code: npt.NDArray[np.int8]
    user: Numbers
    activity: Numbers
    life: Numbers
    """int32[m]: the activity's life in the table, -1 where it was not in it."""
    author_life: Numbers
    """int32[m]: the life of the name that it counts for; -1 where that was forgotten."""
    post: Numbers
    """int32[m]: what was known of the activity, for the user's record."""

    def engaged(self, some: Ints) -> npt.NDArray[np.bool_]:
        """bool[some]: which of them are engagements, those that are counted apart left out."""
        code = self.code[some]
        engaged: npt.NDArray[np.bool_] = (code > 0) & ~np.isin(code, _APART)
        return engaged


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that features are computed from; `span` is the number of the log's events."""

    span: int
    lives: Lives
    events: CountedEvents
    questions: Questions
    version: Ints
    """int64[n]: the activity of each question in the table; -1 where it is not in it."""
    life: Ints
    """int64[n]: its life, or -1."""


def resolve(events: EventColumns, questions: Questions, table_rows: int) -> Case:
    """Find out what each event counted for, and what each question asks of."""
    if (np.diff(questions.place) < 0).any():
        raise ValueError("the places of questions must ascend")
    lives = trace_lives(events, table_rows)
    places = np.flatnonzero(events.code < len(COUNTER_KINDS))
    parts = [
        _resolved(events, lives, places[start : start + _ROWS])
        for start in range(0, max(len(places), 1), _ROWS)
    ]
    version = lives.version(questions.activity, questions.place)
    return Case(
        span=len(events),
        lives=lives,
        events=CountedEvents(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in CountedEvents.__slots__
            )
        ),
        questions=questions,
        version=version,
        life=lives.life(version),
    )


def _resolved(events: EventColumns, lives: Lives, places: Ints) -> CountedEvents:
    activity = events.activity[places]
    post = lives.post(activity, places)
    known = post >= 0
    places, activity, post = places[known], activity[known], post[known]
    life = lives.life(lives.version(activity, places))
    outside = np.flatnonzero(life < 0)
    author_life = lives.author_life[life].astype(np.int64)
    author_life[outside] = lives.author_life_of(
        lives.post_author[post[outside]].astype(np.int64), places[outside]
    )
    return CountedEvents(
        place=places,
        time_us=events.time_us[places],
        code=events.code[places],
        user=events.user[places],
        activity=activity,
        life=life.astype(np.int32),
        author_life=author_life.astype(np.int32),
        post=post.astype(np.int32),
    )
