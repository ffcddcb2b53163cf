"""Who moves the cluster's clock: the node that leads, before it writes.

The clock tells how long idempotency keys are remembered, so no client's clock may move it, and no
wall clock of a node: what moves it is time that one node has measured with a clock that cannot be
set, since it saw in its own store where the cluster's clock stood. It moves only where it still
stands there (`MoveClock`), so whatever is proposed twice, late, or by two nodes counts once.

*The law*: the clock never goes faster than time, and from a key that is written on it goes at most
`CLOCK_EVERY_S` further than time does. It moves before a write, not beside it: a key that is
written after a long silence is not as old as the silence, and where nobody writes nothing is
proposed.
"""

from collections.abc import Callable
from typing import Final

from feeds.commands import MoveClock
from feeds.machine.clock import CLOCK_US_MAX, clock_us
from feeds.store.base import View

__all__ = ["CLOCK_EVERY_S", "ClockMover"]

CLOCK_EVERY_S: Final = 10.0
"""Seconds between two moves: what a key may lose of the time for which it is remembered."""

STEP_S_MAX: Final = 86_400.0
"""Seconds that one command moves the clock at most; what is beyond does not count."""


class ClockMover:
    """Measures for one leadership. `due` is asked before each write, or group of writes."""

    def __init__(self, view: View, clock: Callable[[], float]) -> None:
        self._view = view
        self._clock = clock
        self._at_us = clock_us(view)
        self._since_s = clock()
        self._due_s = self._since_s + CLOCK_EVERY_S

    def due(self) -> MoveClock | None:
        """The command that the log must hold before what is written now; most often none.

        Where the last one was lost, or is not applied yet, or another node has moved the clock, it
        is measured anew from now on: the clock is late then, and never early.
        """
        now_s = self._clock()
        if now_s < self._due_s:
            return None
        seen_us, since_s = clock_us(self._view), self._since_s
        self._since_s, self._due_s = now_s, now_s + CLOCK_EVERY_S
        if seen_us != self._at_us:
            self._at_us = seen_us
            return None
        step_us = int(min(now_s - since_s, STEP_S_MAX) * 1_000_000)
        self._at_us = min(seen_us + step_us, CLOCK_US_MAX)
        return MoveClock(seen_us=seen_us, to_us=self._at_us)
