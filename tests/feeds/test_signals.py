"""Being told to stop, whatever the main thread is doing."""

import signal
import threading
from collections.abc import Iterator

import pytest

from feeds.signals import STOP_SIGNALS, stop_at_signals

STOPPED_S_MAX = 30.0


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    yield
    for number, handler in zip(STOP_SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_stops_who_waits_at_the_moment_that_it_holds_the_lock(number: int) -> None:
    stop = threading.Event()
    stop_at_signals(stop)
    with stop._cond:  # type: ignore[attr-defined]  # as `Event.wait` holds it between two steps
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert not stop.is_set()
    assert stop.wait(STOPPED_S_MAX)


def test_nobody_is_stopped_who_was_not_asked_to() -> None:
    stop = threading.Event()
    stop_at_signals(stop)
    assert not stop.is_set()
