"""The checkers find what is wrong, and nothing else."""

import doctest
import math
from collections.abc import Sequence
from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

import feeds.testing_history
from feeds.testing_history import FeedRead, Operation, feed_problems, register_problems


def _linearizable(operations: Sequence[Operation]) -> bool:
    """By definition: some order of them, and of some open writes, is a register's."""
    closed = [one for one in operations if one.end_s < math.inf]
    opened = [one for one in operations if one.end_s == math.inf]
    for mask in range(2 ** len(opened)):
        chosen = closed + [one for n, one in enumerate(opened) if mask >> n & 1]
        if any(_is_register(order) for order in permutations(chosen)):
            return True
    return False


def _is_register(order: Sequence[Operation]) -> bool:
    value: str | None = None
    latest_start = -math.inf
    for operation in order:
        if operation.end_s < latest_start:
            return False
        latest_start = max(latest_start, operation.start_s)
        if operation.kind == "read" and operation.value != value:
            return False
        if operation.kind == "write":
            value = operation.value
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    count = draw(st.integers(1, 5))
    times = draw(st.permutations(range(2 * count)))
    operations: list[Operation] = []
    written = 0
    for number in range(count):
        start, end = sorted(times[2 * number : 2 * number + 2])
        if draw(st.booleans()):
            finish = math.inf if draw(st.integers(0, 3)) == 0 else float(end)
            operations.append(Operation("write", f"v{written}", float(start), finish))
            written += 1
        else:
            value = draw(st.sampled_from([None, "v0", "v1", "v2"]))
            operations.append(Operation("read", value, float(start), float(end)))
    known = {one.value for one in operations if one.kind == "write"} | {None}
    return [one for one in operations if one.value in known]


@settings(max_examples=1_000)
@given(histories())
def test_a_history_is_refused_exactly_if_no_order_explains_it(history: list[Operation]) -> None:
    assert _linearizable(history) == (register_problems(history) == [])


def test_value_that_nobody_wrote_is_named() -> None:
    assert register_problems([Operation("read", "x", 0.0, 1.0)]) == [
        "'x' was written 0 times, and read: it must be once"
    ]


def test_lost_write_is_named() -> None:
    history = [
        Operation("write", "a", 0.0, 1.0),
        Operation("write", "b", 2.0, 3.0),
        Operation("read", "a", 4.0, 5.0),
    ]
    assert register_problems(history) == [
        "'b' was current between 2.0 s and 3.0 s, while 'a' was from 1.0 s to 4.0 s"
    ]


def test_reader_that_misses_its_own_write_is_named() -> None:
    reads = [FeedRead(frozenset(), frozenset({"x"})), FeedRead(frozenset({"a"}), frozenset({"x"}))]
    assert feed_problems(reads) == ["read 1 lacks the reader's own writes: 'a'"]


def test_examples_of_the_docstrings_hold() -> None:
    assert doctest.testmod(feeds.testing_history) == (0, 5)
