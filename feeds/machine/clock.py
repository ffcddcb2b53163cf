"""The cluster's clock: how long writes have gone on, in the log's own order."""

from typing import Final

from feeds.commands import MoveClock
from feeds.keys import CLOCK, read_number, write_number
from feeds.machine.changes import Changes
from feeds.results import Accepted
from feeds.store.base import View

__all__ = ["CLOCK_US_MAX", "clock_us", "move_clock"]

CLOCK_US_MAX: Final = 2**62
"""Microseconds that the clock can tell: more than a hundred thousand years."""


def clock_us(view: View) -> int:
    """How far the clock has gone."""
    data = view.get("meta", CLOCK)
    return 0 if data is None else read_number(data)


def move_clock(command: MoveClock, changes: Changes, view: View) -> Accepted:
    """Let the clock go on, if it stands where its mover saw it."""
    if command.seen_us == clock_us(view) and command.seen_us < command.to_us <= CLOCK_US_MAX:
        changes.put("meta", CLOCK, write_number(command.to_us))
    return Accepted(changes.index)
