"""What a user said of authors and tags: bounded, and the same wherever the log is read. Pure.

The last word in the log holds: not the latest time, since clocks differ and an acknowledged word
must count. Times tell how long ago it was said, for what fades.
"""

from typing import Final

import msgspec

from feeds.events import FeedbackKind

__all__ = ["MARKS_MAX", "Opinions"]

MARKS_MAX: Final = 256
"""Names kept in each of `less` and `more`; the one of which it was said longest ago leaves."""


class Opinions(msgspec.Struct, array_like=True):
    """Of authors, or of tags: each name with the time of saying so, microseconds since the epoch.

    A name is in one of `less` and `more` at most. `muted` is bounded by who admits a mute
    (`muted_max`): none is ever forgotten for another.
    """

    muted: dict[str, int] = {}
    less: dict[str, int] = {}
    more: dict[str, int] = {}

    def say(self, kind: FeedbackKind, name: str, time_us: int) -> None:
        """Take in what was said of a name; what is said of an activity alone changes nothing."""
        if kind == "mute":
            self.muted[name] = time_us
        elif kind == "unmute":
            self.muted.pop(name, None)
        elif kind == "show_less":
            self.more.pop(name, None)
            _mark(self.less, name, time_us)
        elif kind == "show_more":
            self.less.pop(name, None)
            _mark(self.more, name, time_us)


def _mark(marks: dict[str, int], name: str, time_us: int) -> None:
    if name not in marks and len(marks) >= MARKS_MAX:
        del marks[min(marks, key=lambda other: (marks[other], other))]
    marks[name] = time_us
