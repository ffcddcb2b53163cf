"""The bounded queue in front of a log: many threads propose, one takes groups."""

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition

from feeds.errors import Overloaded
from feeds.replication.base import Applied

__all__ = ["Proposal", "ProposalQueue"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A command that waits, and the future that its proposer holds."""

    command: bytes
    future: "Future[Applied]" = field(default_factory=Future)


class ProposalQueue:
    """Proposals in the order they came, at most `ops_max` and `bytes_max` of them waiting.

    Only the bytes that already wait count against `bytes_max`, so one command always fits.
    """

    def __init__(self, ops_max: int, bytes_max: int) -> None:
        self._ops_max = ops_max
        self._bytes_max = bytes_max
        self._waiting: deque[Proposal] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = Condition()

    def put(self, command: bytes) -> "Future[Applied] | None":
        """Queue a command; None if the queue is closed. Raises `Overloaded` if it is full."""
        proposal = Proposal(command)
        with self._changed:
            if self._closed:
                return None
            if len(self._waiting) >= self._ops_max or self._bytes >= self._bytes_max:
                raise Overloaded(
                    f"{len(self._waiting)} commands ({self._bytes} bytes) wait for the log, and no "
                    f"more than {self._ops_max} ({self._bytes_max} bytes) may: retry in a moment"
                )
            self._waiting.append(proposal)
            self._bytes += len(command)
            self._changed.notify()
        return proposal.future

    def take(self, ops_max: int, bytes_max: int) -> list[Proposal]:
        """Wait for a proposal and take those that wait, up to these limits, the first always.

        Empty once the queue is closed and nothing waits.
        """
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            group: list[Proposal] = []
            size = 0
            while self._waiting and len(group) < ops_max:
                size += len(self._waiting[0].command)
                if group and size > bytes_max:
                    break
                group.append(self._waiting.popleft())
            self._bytes -= sum(len(proposal.command) for proposal in group)
            return group

    def close(self) -> None:
        """Take no more; what waits can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
