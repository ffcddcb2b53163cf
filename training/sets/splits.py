"""Splitting by time: which part of the history teaches what. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from feeds.events import APART_KINDS, Engagement, Event
from training.config import SplitConfig
from training.errors import TooFewEvents

__all__ = ["PART_NAMES", "PartName", "Split", "split_by_time"]

PartName = Literal["factors", "ranker", "validation", "test"]
PART_NAMES: tuple[PartName, ...] = ("factors", "ranker", "validation", "test")
"""The parts in order of time."""

ENGAGEMENTS_MIN = 40
"""Engagements below which a split means nothing."""


@dataclass(frozen=True, slots=True)
class Split:
    """The first microsecond of each part after the first: what is earlier belongs to `factors`."""

    ranker_us: int
    validation_us: int
    test_us: int

    @property
    def boundaries(self) -> tuple[int, int, int]:
        """The three times, in order."""
        return (self.ranker_us, self.validation_us, self.test_us)

    def part(self, time_us: int) -> PartName:
        """The part that a time lies in."""
        return PART_NAMES[sum(time_us >= boundary for boundary in self.boundaries)]


def split_by_time(events: Sequence[Event], config: SplitConfig) -> Split:
    """Cut the engagements (hides left out) into shares by time; raises `TooFewEvents`.

    Engagements of one microsecond stay together, in the later part.
    """
    times = sorted(
        e.time_us for e in events if isinstance(e, Engagement) and e.kind not in APART_KINDS
    )
    if len(times) < ENGAGEMENTS_MIN:
        raise TooFewEvents(
            f"{len(times)} engagements are too few to train and judge a model: at least "
            f"{ENGAGEMENTS_MIN} are needed; record more events, or export again"
        )
    shares = (
        config.factors,
        config.factors + config.ranker,
        config.factors + config.ranker + config.validation,
    )
    split = Split(*(times[min(int(len(times) * share), len(times) - 1)] for share in shares))
    if not times[0] < split.ranker_us < split.validation_us < split.test_us:
        raise TooFewEvents(
            f"{len(times)} engagements lie at too few different times to be split into "
            f"{len(PART_NAMES)} parts; record events over a longer time"
        )
    return split
