"""Who waits for a command, and how they are told: once."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from feeds.errors import FeedsError
from feeds.replication.base import Applied

__all__ = ["Done", "Waiter", "tell"]

_log = structlog.get_logger(__name__)

Done = Callable[[Applied | FeedsError], None]
"""Told once what became of a command."""


@dataclass(slots=True)
class Waiter:
    """Someone who proposed a command; `done` is None once they were told."""

    done: Done | None
    deadline_s: float
    term: int = 0
    """Of the entry that was written for it."""
    leader: str | None = None
    """The peer that it was sent on to."""


def tell(done: Done, outcome: Applied | FeedsError) -> None:
    """Tell what became of a command; what the one who is told raises goes no further."""
    try:
        done(outcome)
    except Exception:  # noqa: BLE001 - whoever waits must not stop the log
        _log.exception("callback_failed")
