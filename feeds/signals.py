"""Stopping at the system's word."""

import _thread
import signal
import threading
from typing import Final

__all__ = ["STOP_SIGNALS", "stop_at_signals"]

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""What asks a process to stop."""


def stop_at_signals(stop: threading.Event) -> None:
    """Set `stop` once the process is asked to stop, on a thread that is made for it.

    A handler runs in the main thread, between two steps of whatever that does. Where that is
    waiting for the event it holds the event's lock now and then, and to set the event from there
    would wait for that lock for ever. `_thread` begins a thread without any lock of Python's.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: _thread.start_new_thread(stop.set, ()))
