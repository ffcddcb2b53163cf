"""One member of a cluster, whose peers and clock a test plays."""

from pathlib import Path
from random import Random
from typing import Final, TypeVar

from feeds.errors import FeedsError
from feeds.replication.base import Applied, Entry, LogPosition
from feeds.replication.config import LogConfig, MemberConfig
from feeds.replication.disk_space import DiskSpace
from feeds.replication.journal import Journal
from feeds.replication.member import Member
from feeds.replication.messages import AppendEntries, AppendReply, Message, VoteReply

__all__ = ["MEMBER_CONFIG", "PlayedNode", "SteppedClock", "kinds"]

_Kind = TypeVar("_Kind", bound=Message)
_PEERS: Final = ("n2", "n3")
MEMBER_CONFIG: Final = MemberConfig(
    propose_timeout_s=5.0,
    proposals_max=4,
    proposals_bytes_max=100,
    record_bytes_max=50,
    group_commit_ops_max=3,
    log_keep_bytes_max=10_000,
    log_keep_s_max=60.0,
    snapshot_retry_s=2.0,
)
_LOG: Final = LogConfig(segment_bytes_max=1)
"""A segment for each group."""


class SteppedClock:
    """Monotonic seconds that pass where a test says so."""

    now_s = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now_s


class PlayedNode:
    """`n1` of three, whose peers are played by the test."""

    def __init__(self, directory: Path, clock: SteppedClock, *, joining: bool = False) -> None:
        self.clock = clock
        self.sent: list[tuple[str, Message]] = []
        self.applied: list[bytes] = []
        self.joined = False
        self.free_bytes = 2**40
        space = DiskSpace(lambda: self.free_bytes, 1, clock)
        self.journal = Journal.open(directory, LogPosition(0, 0), _LOG, space=space)
        self.member = Member(
            node="n1",
            peers=_PEERS,
            journal=self.journal,
            apply=self._apply,
            applied=LogPosition(0, 0),
            send=lambda peer, message: self.sent.append((peer, message)),
            clock=clock,
            random=Random(1),  # noqa: S311 - election timers, the same each time
            config=MEMBER_CONFIG,
            joining=joining,
            on_joined=self._on_joined,
        )
        for peer in _PEERS:
            self.member.connected(peer)

    def _apply(self, index: int, term: int, command: bytes) -> bytes:
        assert term >= 1
        self.applied.append(command)
        return b"%d" % index

    def _on_joined(self) -> None:
        self.joined = True

    def receive(self, peer: str, message: Message) -> None:
        """Let a peer say something, and go on."""
        self.member.receive(peer, message)
        self.member.tick()

    def said(self, kind: type[_Kind], peer: str | None = None) -> list[_Kind]:
        """What was said of one kind, to a peer or to all."""
        return [one for to, one in self.sent if isinstance(one, kind) and peer in (None, to)]

    def lead(self) -> None:
        """Win an election, and have the first entry decided."""
        self.clock.now_s += 2.0
        self.member.tick()
        term = self.journal.term + 1
        self.receive("n2", VoteReply(term, granted=True, pre=True))
        self.receive("n2", VoteReply(term, granted=True))
        assert self.member.leads
        self.answer("n2")

    def follow(self, leader: str = "n2", term: int = 1, previous: int = 0, *entries: bytes) -> None:
        """Hear a leader, which has these entries, and nothing of them decided."""
        self.receive(
            leader,
            AppendEntries(
                term,
                1,
                previous,
                (self.journal.term_at(previous) or 0) if previous else 0,
                0,
                0,
                [Entry(term, entry) for entry in entries],
            ),
        )

    def answer(self, *peers: str) -> None:
        """Peers acknowledge everything."""
        for peer in peers:
            sequence = max((one.sequence for one in self.said(AppendEntries, peer)), default=0)
            last = self.journal.last.index
            self.receive(peer, AppendReply(self.journal.term, sequence, True, last, last))

    def propose(self, command: bytes = b"x") -> list[Applied | FeedsError]:
        """Submit a command; what its proposer is told comes into the list."""
        told: list[Applied | FeedsError] = []
        self.member.submit(command, told.append)
        return told


def kinds(told: list[Applied | FeedsError]) -> list[type]:
    """What a proposer was told, by its types."""
    return [type(one) for one in told]
