"""Was a recorded history of clients right? Checkers for tests against a running cluster.

A client notes when it began an operation and when it had the answer, on one monotonic clock. An
operation whose outcome it never learned stays open: it may take effect at any later time, or never.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

__all__ = ["FeedRead", "Operation", "feed_problems", "register_problems"]


@dataclass(frozen=True, slots=True)
class Operation:
    """A read or a write of one register; values that are written are all different.

    `value` is what was written or read; None is what the register holds before any write. `end_s`
    is infinite for a write whose outcome is unknown. Reads without an answer are left out, and so
    are writes that surely did not take effect.
    """

    kind: Literal["read", "write"]
    value: str | None
    start_s: float
    end_s: float = math.inf


@dataclass(frozen=True, slots=True)
class _Zone:
    """The operations of one value: their earliest end and their latest start.

    The value must be the register's throughout a forward zone (it ends before it starts anew), and
    at some moment of any other.
    """

    value: str | None
    first_end_s: float
    last_start_s: float

    @property
    def forward(self) -> bool:
        return self.first_end_s < self.last_start_s

    @property
    def low_s(self) -> float:
        return min(self.first_end_s, self.last_start_s)

    @property
    def high_s(self) -> float:
        return max(self.first_end_s, self.last_start_s)


def register_problems(operations: Iterable[Operation]) -> list[str]:
    """Why a register's history is not linearizable; empty if it is. O(n log n).

    Each value is written once, which makes the question easy: see P. B. Gibbons and E. Korach,
    Testing Shared Memories, SIAM J. Comput. 26 (1997), theorem 4.

    >>> write = Operation("write", "a", 0.0, 1.0)
    >>> register_problems([write, Operation("read", "a", 2.0, 3.0)])
    []
    >>> register_problems([write, Operation("read", None, 2.0, 3.0)])
    ["'a' was current between 0.0 s and 1.0 s, while None was from -inf s to 2.0 s"]
    """
    by_value: dict[str | None, list[Operation]] = defaultdict(list)
    by_value[None].append(Operation("write", None, -math.inf, -math.inf))
    for operation in operations:
        by_value[operation.value].append(operation)
    problems: list[str] = []
    zones: list[_Zone] = []
    for value, group in by_value.items():
        problems += _value_problems(value, group)
        if len(group) > 1 or group[0].end_s < math.inf:
            ends, starts = (one.end_s for one in group), (one.start_s for one in group)
            zones.append(_Zone(value, min(ends), max(starts)))
    return problems or _zone_problems(zones)


def _value_problems(value: str | None, group: Sequence[Operation]) -> list[str]:
    writes = [operation for operation in group if operation.kind == "write"]
    if len(writes) != 1:
        return [f"{value!r} was written {len(writes)} times, and read: it must be once"]
    early = [one for one in group if one.end_s < writes[0].start_s]
    return [f"{value!r} was read by {one.end_s} s, before it was written" for one in early]


def _zone_problems(zones: Sequence[_Zone]) -> list[str]:
    """Where two values must have been current at once."""
    forward = sorted((zone for zone in zones if zone.forward), key=lambda zone: zone.low_s)
    problems = [
        f"{one.value!r} was current until {one.high_s} s at least, and {other.value!r} from "
        f"{other.low_s} s on"
        for one, other in pairwise(forward)
        if other.low_s < one.high_s
    ]
    if problems:
        return problems
    backward = sorted((zone for zone in zones if not zone.forward), key=lambda zone: zone.low_s)
    place = 0
    for zone in backward:
        while place < len(forward) and forward[place].high_s <= zone.low_s:
            place += 1
        if place < len(forward):
            around = forward[place]
            if around.low_s < zone.low_s and zone.high_s < around.high_s:
                problems.append(
                    f"{zone.value!r} was current between {zone.low_s} s and {zone.high_s} s, "
                    f"while {around.value!r} was from {around.low_s} s to {around.high_s} s"
                )
    return problems


@dataclass(frozen=True, slots=True)
class FeedRead:
    """What one client saw of one feed: `seen` after it had been answered the writes `own`.

    Both in no order; `seen` is the whole feed.
    """

    own: frozenset[str]
    seen: frozenset[str]


def feed_problems(reads: Sequence[FeedRead]) -> list[str]:
    """Where a client's reads of a growing feed, in its order, miss its own writes or go back.

    >>> first = FeedRead(frozenset({"a"}), frozenset({"a", "b"}))
    >>> feed_problems([first, FeedRead(frozenset({"a"}), frozenset({"a"}))])
    ["read 1 lacks what was seen before: 'b'"]
    """
    problems = []
    before: frozenset[str] = frozenset()
    for number, read in enumerate(reads):
        if missing := read.own - read.seen:
            problems.append(f"read {number} lacks the reader's own writes: {_names(missing)}")
        if gone := before - read.seen - read.own:
            problems.append(f"read {number} lacks what was seen before: {_names(gone)}")
        before |= read.seen
    return problems


def _names(texts: Iterable[str]) -> str:
    return ", ".join(repr(text) for text in sorted(texts)[:5])
