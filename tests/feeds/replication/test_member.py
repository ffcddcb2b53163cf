"""One member of a cluster: whoever proposes is told once, in time, and what is true."""

import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pysyncobj.syncobj
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.errors import (
    FeedsError,
    LimitExceeded,
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    ReplicaStopped,
    StorageFull,
)
from feeds.replication.base import Applied, LogPosition
from feeds.replication.config import MemberConfig
from feeds.replication.journal import Journal
from feeds.replication.log import LogConfig
from feeds.replication.member import Member
from feeds.replication.messages import (
    AppendEntries,
    AppendReply,
    Forward,
    ForwardReply,
    JoinAsk,
    JoinTold,
    Message,
    Outcome,
    RequestVote,
    VoteReply,
)
from feeds.simulation.world import TICK_S, World

PEERS = ("n2", "n3")
CONFIG = MemberConfig(
    propose_timeout_s=5.0,
    proposals_max=4,
    proposals_bytes_max=100,
    record_bytes_max=50,
    group_commit_ops_max=3,
    log_keep_bytes_max=10_000,
    log_keep_s_max=60.0,
    snapshot_retry_s=2.0,
)
LOG = LogConfig(segment_bytes_max=1)  # a segment for each group
SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Clock:
    """Monotonic seconds that pass where a test says so."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pysyncobj.syncobj, "monotonicTime", clock)
    return clock


class Node:
    """`n1` of three, whose peers are played by the test."""

    def __init__(self, directory: Path, clock: Clock, *, joining: bool = False) -> None:
        self.clock = clock
        self.sent: list[tuple[str, Message]] = []
        self.applied: list[bytes] = []
        self.joined = False
        self.journal = Journal.open(directory, LogPosition(0, 0), LOG)
        self.member = Member(
            node="n1",
            peers=PEERS,
            journal=self.journal,
            apply=self._apply,
            applied=LogPosition(0, 0),
            send=lambda peer, message: self.sent.append((peer, message)),
            clock=clock,
            random=Random(1),
            config=CONFIG,
            joining=joining,
            on_joined=self._on_joined,
        )
        for peer in PEERS:
            self.member.connected(peer)

    def _apply(self, index: int, term: int, command: bytes) -> bytes:
        assert term >= 1
        self.applied.append(command)
        return b"%d" % index

    def _on_joined(self) -> None:
        self.joined = True

    def receive(self, peer: str, message: Message) -> None:
        self.member.receive(peer, message)
        self.member.tick()

    def said(self, kind: type[Message], peer: str | None = None) -> list[Message]:
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
                [(term, entry) for entry in entries],
            ),
        )

    def answer(self, *peers: str) -> None:
        """Peers acknowledge everything."""
        for peer in peers:
            sequence = max(
                (
                    one.sequence
                    for one in self.said(AppendEntries, peer)  # type: ignore[union-attr]
                ),
                default=0,
            )
            last = self.journal.last.index
            self.receive(peer, AppendReply(self.journal.term, sequence, True, last, last))

    def propose(self, command: bytes = b"x") -> list[Applied | FeedsError]:
        told: list[Applied | FeedsError] = []
        self.member.submit(command, told.append)
        return told


@pytest.fixture
def node(tmp_path: Path, clock: Clock) -> Iterator[Node]:
    node = Node(tmp_path / "log", clock)
    yield node
    node.journal.close()


def kinds(told: list[Applied | FeedsError]) -> list[type]:
    return [type(one) for one in told]


# What a proposer is told.


def test_leader_tells_once_a_majority_has_it_and_it_is_applied(node: Node) -> None:
    node.lead()
    told = node.propose(b"a")
    node.member.tick()
    assert told == []
    node.answer("n3")
    assert told == [Applied(2, b"2")]
    node.answer("n2", "n3")
    assert (len(told), node.member.waiting) == (1, 0)


def test_nothing_was_written_where_no_leader_is_known(node: Node) -> None:
    told = node.propose()
    node.member.tick()
    assert kinds(told) == [NoLeader]
    assert "nothing was written" in str(told[0])
    assert node.said(Forward) == []


def test_nothing_was_written_where_the_leader_cannot_be_reached(node: Node) -> None:
    node.follow("n2")
    node.member.disconnected("n2")
    told = node.propose()
    node.member.tick()
    assert kinds(told) == [NoLeader]
    assert "n2 leads and cannot be reached" in str(told[0])


def test_command_above_the_limit_is_refused_at_once_by_name(node: Node) -> None:
    told = node.propose(bytes(51))
    assert kinds(told) == [LimitExceeded]
    assert "record_bytes_max (50)" in str(told[0])


def test_more_than_may_wait_are_refused_at_once_and_taken_again_later(node: Node) -> None:
    node.lead()
    waiting = [node.propose() for _ in range(4)]
    assert kinds(node.propose()) == [Overloaded]
    node.member.tick()
    assert kinds(node.propose()) == [Overloaded], "what is written and not decided waits, too"
    node.answer("n2")
    node.member.tick()  # four in groups of three at most, one after the other
    node.answer("n2")
    assert [kinds(told) for told in waiting] == [[Applied]] * 4
    assert node.propose() == []


def test_more_bytes_than_may_wait_are_refused_at_once(node: Node) -> None:
    node.lead()
    assert [node.propose(bytes(50)), node.propose(bytes(50))] == [[], []]
    assert kinds(node.propose(b"x")) == [Overloaded]
    node.member.tick()
    assert node.propose(b"x") == [], "bytes count while they wait to be written"


def test_no_answer_in_time_is_an_unknown_outcome(node: Node) -> None:
    node.lead()
    told = node.propose()
    node.member.tick()
    node.clock.now_s += 4.9
    node.member.tick()
    assert told == []
    node.clock.now_s += 0.2
    node.member.tick()
    assert kinds(told) == [OutcomeUnknown]
    node.answer("n2")
    assert len(told) == 1, "it was decided after all, and whoever waited has been told"


def test_what_waits_for_too_long_to_be_written_never_is(node: Node) -> None:
    node.lead()
    told = [node.propose(b"%d" % number) for number in range(4)]
    node.clock.now_s += 6.0
    node.member.tick()  # writes three
    node.member.tick()
    node.answer("n2")
    assert [kinds(one) for one in told] == [[OutcomeUnknown]] * 4
    assert b"3" not in node.applied


def test_entry_that_another_leader_replaced_was_not_written(node: Node) -> None:
    node.lead()
    told = node.propose(b"mine")
    node.member.tick()
    node.receive("n3", AppendEntries(9, 1, 1, 1, 2, 0, [(9, b"theirs"), (9, b"more")]))
    assert kinds(told) == [NoLeader]
    assert "replaced by another leader's" in str(told[0])
    assert node.applied == [b"", b"theirs"]


def test_entry_that_another_leader_took_over_is_told_as_applied(node: Node) -> None:
    node.lead()
    told = node.propose(b"mine")
    node.member.tick()
    node.receive("n3", AppendEntries(9, 1, 2, 1, 3, 0, [(9, b"")]))
    assert told == [Applied(2, b"2")]


def test_entry_that_a_snapshot_passes_over_is_unknown(node: Node) -> None:
    node.lead()
    told = node.propose()
    node.member.tick()
    node.receive("n3", AppendEntries(9, 1, 90, 8, 90, 0, []))
    assert not node.member.leads
    assert told == []
    assert node.member.may_install(LogPosition(90, 8))
    node.member.installed(LogPosition(90, 8))
    assert kinds(told) == [OutcomeUnknown]
    assert "snapshot" in str(told[0])
    status = node.member.status()
    assert (status.applied_index, status.commit_index, status.snapshot_index) == (90, 90, 90)


def test_full_disk_is_told_and_nothing_was_written(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.lead()
    last = node.journal.last

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    told = node.propose()
    with monkeypatch.context() as fault:
        fault.setattr(node.journal, "append", full)
        node.member.tick()
    assert kinds(told) == [StorageFull]
    assert last == node.journal.last
    again = node.propose()
    node.member.tick()
    node.answer("n2")
    assert kinds(again) == [Applied]


def test_callback_that_raises_or_proposes_harms_nobody(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    node.lead()
    nested: list[Applied | FeedsError] = []

    def raising(outcome: object) -> None:
        node.member.submit(b"nested", nested.append)
        raise ValueError(outcome)

    node.member.submit(b"a", raising)
    told = node.propose(b"b")
    node.member.tick()
    node.answer("n2")
    node.member.tick()
    node.answer("n2")
    assert (kinds(told), kinds(nested)) == ([Applied], [Applied])
    assert "callback_failed" in capsys.readouterr().out


# Stopping.


def test_stop_tells_everyone_what_is_true_of_them(node: Node) -> None:
    node.lead()
    written = node.propose()
    node.member.tick()
    queued = node.propose()
    why = ReplicaStopped("it was closed")
    node.member.stop(why)
    node.member.stop(ReplicaStopped("again"))
    assert written == [why], "it may be decided all the same"
    assert kinds(queued) == [NoLeader]
    assert "nothing was written: it was closed" in str(queued[0])
    assert node.propose() == [why]
    node.answer("n2")
    node.member.tick()
    assert (len(written), len(queued), node.member.waiting) == (1, 1, 0)
    assert node.member.status().role == "stopped"
    assert not node.member.leads


# Forwarding.


def test_follower_sends_on_and_tells_what_the_leader_answers(node: Node) -> None:
    node.follow("n2")
    told = node.propose(b"a")
    node.member.tick()
    assert node.said(Forward) == [Forward(1, b"a")]
    assert [to for to, one in node.sent if isinstance(one, Forward)] == ["n2"]
    node.receive("n2", ForwardReply(1, "ok", 7, b"done"))
    node.receive("n2", ForwardReply(1, "ok", 7, b"done"))
    assert told == [Applied(7, b"done")]


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        ("no_leader", NoLeader),
        ("overloaded", Overloaded),
        ("full", StorageFull),
        ("limit", LimitExceeded),
        ("unknown", OutcomeUnknown),
        ("stopped", ReplicaStopped),
    ],
)
def test_error_of_the_leader_is_told_as_what_it_is(
    node: Node, outcome: Outcome, error: type[FeedsError]
) -> None:
    node.follow("n2")
    told = node.propose()
    node.member.tick()
    node.receive("n2", ForwardReply(1, outcome, message="as the leader says", retry_after_s=3.0))
    assert kinds(told) == [error]
    assert "as the leader says" in str(told[0])
    if isinstance(told[0], Overloaded):
        assert told[0].retry_after_s == 3.0


def test_forward_that_is_lost_is_unknown_when_its_time_is_up(node: Node) -> None:
    node.follow("n2")
    told = node.propose()
    node.member.tick()
    node.clock.now_s += 5.1
    node.member.tick()
    assert kinds(told) == [OutcomeUnknown]
    node.receive("n2", ForwardReply(1, "ok", 7, b""))
    assert len(told) == 1


def test_forward_to_a_leader_that_is_gone_is_unknown_at_once(node: Node) -> None:
    node.follow("n2")
    told = node.propose()
    node.member.tick()
    node.member.disconnected("n3")
    assert told == []
    node.member.disconnected("n2")
    assert kinds(told) == [OutcomeUnknown]


def test_leader_answers_a_forwarded_command_with_its_outcome(node: Node) -> None:
    node.lead()
    node.receive("n3", Forward(5, b"a"))
    assert node.said(ForwardReply) == []
    node.answer("n2")
    assert node.said(ForwardReply) == [ForwardReply(5, "ok", 2, b"2")]
    node.receive("n3", Forward(6, bytes(51)))
    (reply,) = node.said(ForwardReply)[1:]
    assert isinstance(reply, ForwardReply)
    assert (reply.request, reply.outcome) == (6, "limit")


def test_who_does_not_lead_sends_nothing_on_a_second_time(node: Node) -> None:
    node.follow("n2")
    node.receive("n3", Forward(5, b"a"))
    (reply,) = node.said(ForwardReply)
    assert isinstance(reply, ForwardReply)
    assert (reply.request, reply.outcome) == (5, "no_leader")
    assert node.said(Forward) == []


# Barriers.


def test_barrier_is_behind_everything_acknowledged_and_needs_a_majority(node: Node) -> None:
    node.lead()
    done = node.propose()
    node.member.tick()
    node.answer("n2")
    assert isinstance(done[0], Applied)
    found: list[int | FeedsError] = []
    node.member.barrier(found.append)
    node.member.tick()
    assert found == [], "a leader that was deposed unawares would answer what is not true any more"
    node.answer("n2")
    assert len(found) == 1
    assert isinstance(found[0], int)
    assert found[0] >= done[0].index


def test_barrier_of_a_deposed_leader_fails(node: Node) -> None:
    node.lead()
    found: list[int | FeedsError] = []
    node.member.barrier(found.append)
    node.member.tick()
    node.receive("n3", AppendEntries(9, 1, 1, 1, 2, 0, [(9, b"theirs")]))
    assert [type(one) for one in found] == [NoLeader]


def test_barrier_of_a_follower_is_the_leaders(node: Node) -> None:
    node.follow("n2")
    found: list[int | FeedsError] = []
    node.member.barrier(found.append)
    node.member.tick()
    assert node.said(Forward) == [Forward(1, b"")]
    node.receive("n2", ForwardReply(1, "ok", 41, b""))
    assert found == [41]


# Dropping the log.


def _write(node: Node, count: int) -> None:
    """Entries, each in a segment of its own, that n2 has and n3 has not."""
    for _ in range(count):
        node.propose()
        node.member.tick()
        node.answer("n2")


def first_kept(node: Node) -> int:
    """The first entry that is there, and is what the next one stands on."""
    return node.journal.base.index


def test_log_is_kept_for_a_peer_that_is_behind_and_dropped_below_what_it_has(node: Node) -> None:
    node.lead()
    _write(node, 5)
    assert node.member.compact(6) == 0
    node.receive("n3", AppendReply(1, 0, True, 4, 4))
    node.member.compact(6)
    assert 2 <= first_kept(node) <= 5, "the last entry that n3 has is what the next one stands on"
    node.answer("n3")
    node.member.compact(6)
    assert first_kept(node) == 6


def test_log_is_never_dropped_above_what_is_flushed_or_applied(node: Node) -> None:
    node.lead()
    _write(node, 3)
    node.answer("n3")
    assert node.member.compact(0) == 0
    node.member.compact(2)
    assert first_kept(node) <= 3
    node.propose()
    node.member.tick()  # written, and not decided
    node.member.compact(10**6)
    assert first_kept(node) <= 4


def test_log_is_not_kept_for_a_peer_that_is_silent_for_too_long(node: Node) -> None:
    node.lead()
    _write(node, 5)
    for _ in range(70):
        node.clock.now_s += 0.9
        node.answer("n2")
    node.member.compact(6)
    assert first_kept(node) == 6


def test_more_log_than_may_be_kept_is_dropped_and_the_peer_gets_a_snapshot(node: Node) -> None:
    node.lead()
    _write(node, 5)
    node.receive("n3", AppendReply(1, 0, True, 1, 1))
    for _ in range(220):
        command = bytes(50)
        node.propose(command)
        node.member.tick()
        node.answer("n2")
    assert node.journal.size_bytes > CONFIG.log_keep_bytes_max
    last = node.journal.last.index
    node.propose()
    node.member.tick()  # written, and not decided
    node.member.compact(10**6)
    assert first_kept(node) == last
    node.answer("n2")
    last += 1
    node.member.connected("n3")  # what was on its way is sent again
    node.member.tick()
    assert node.member.snapshot_wanted() == ["n3"]
    node.member.snapshot_started("n3")
    assert node.member.snapshot_wanted() == []
    node.member.snapshot_ended("n3", None)
    node.member.tick()
    assert node.member.snapshot_wanted() == [], "it is not sent again at once"
    node.clock.now_s += 0.9
    node.answer("n2")
    node.clock.now_s += 0.9
    node.answer("n2")
    node.clock.now_s += 0.9
    node.answer("n2")
    assert node.member.snapshot_wanted() == ["n3"]
    node.member.snapshot_started("n3")
    node.member.snapshot_ended("n3", LogPosition(last, 1))
    node.sent.clear()
    node.propose(b"next")
    node.member.tick()
    appends = node.said(AppendEntries, "n3")
    assert [one.entries for one in appends if isinstance(one, AppendEntries)] == [[(1, b"next")]]


def test_follower_keeps_the_log_as_far_as_the_leader_says(node: Node) -> None:
    for index in range(6):
        entries = [(1, b"%d" % index)]
        previous = (index, 1) if index else (0, 0)
        node.receive("n2", AppendEntries(1, index + 1, *previous, index + 1, 3, entries))
    node.member.compact(6)
    assert 2 <= first_kept(node) <= 4


# Snapshots.


def test_snapshot_is_taken_only_if_it_brings_what_is_neither_decided_nor_in_the_log(
    node: Node,
) -> None:
    node.follow("n2", 1, 0, b"a", b"b", b"c")
    node.receive("n2", AppendEntries(1, 2, 3, 1, 2, 0, []))
    assert node.member.status().commit_index == 2
    assert not node.member.may_install(LogPosition(1, 1))
    assert not node.member.may_install(LogPosition(2, 1)), "it is decided"
    assert not node.member.may_install(LogPosition(3, 1)), "the log has it"
    assert node.member.may_install(LogPosition(3, 2)), "what the log has there is another entry"
    assert node.member.may_install(LogPosition(4, 1))
    node.member.stop(ReplicaStopped("it was closed"))
    assert not node.member.may_install(LogPosition(4, 1))


# Joining, and strangers.


def test_joining_node_counts_for_nothing_until_every_peer_has_told_and_it_has_caught_up(
    tmp_path: Path, clock: Clock
) -> None:
    node = Node(tmp_path / "log", clock, joining=True)
    try:
        node.member.tick()
        assert [to for to, one in node.sent if isinstance(one, JoinAsk)] == ["n2", "n3"]
        node.receive("n3", RequestVote(9, 9, 9))
        node.receive("n3", RequestVote(9, 9, 9, pre=True))
        assert [one for one in node.said(VoteReply) if one.granted] == []  # type: ignore[union-attr]
        node.follow("n2", 3, 0, b"a")
        assert node.said(AppendReply) == []
        node.receive("n2", JoinTold(3, 2))
        assert (node.joined, node.member.status().role) == (False, "joining")
        node.receive("n3", JoinTold(2, 1))
        node.receive("n2", AppendEntries(3, 2, 0, 0, 2, 0, [(3, b"a"), (3, b"b")]))
        node.member.tick()
        assert (node.joined, node.member.status().role) == (True, "follower")
        assert node.applied == [b"a", b"b"]
    finally:
        node.journal.close()


def test_stranger_is_not_listened_to(node: Node) -> None:
    node.receive("n9", AppendEntries(9, 1, 0, 0, 1, 0, [(9, b"x")]))
    node.receive("n9", RequestVote(9, 9, 9))
    node.receive("n9", Forward(1, b"x"))
    assert node.said(AppendReply) + node.said(VoteReply) + node.said(ForwardReply) == []
    assert node.journal.last.index == 0


# The law, over whole clusters.


@dataclass
class _Submitted:
    """A command, when and where it was submitted, and what was told when."""

    name: str
    incarnation: int
    at_s: float
    told: list[tuple[float, object]] = field(default_factory=list)


ACTIONS = st.sampled_from(
    ["propose", "propose", "propose", "cut", "mend", "kill", "start", "lossy", "flush", "wait"]
)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(ACTIONS, st.sampled_from(["n1", "n2", "n3"])), max_size=40),
)
def test_everyone_is_told_once_and_in_time_whatever_happens(
    seed: int, schedule: list[tuple[str, str]]
) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    config = MemberConfig(propose_timeout_s=1.0, proposals_max=10)
    submitted: list[_Submitted] = []
    try:
        with (
            tempfile.TemporaryDirectory(dir=SCRATCH, prefix="member-") as root,
            World(Path(root), seed, config=config).running() as world,
        ):
            world.run(1.0)
            for action, name in schedule:
                _act(world, action, name, submitted)
            world.run(1.0 + 10 * TICK_S)
            _check(world, submitted)
    finally:
        structlog.reset_defaults()


def _act(world: World, action: str, name: str, submitted: list[_Submitted]) -> None:
    if action == "propose":
        one = _Submitted(name, world._nodes[name].incarnation, world.now_s)
        submitted.append(one)
        told = one.told
        world.propose(
            name, b"%d" % len(submitted), lambda outcome: told.append((world.now_s, outcome))
        )
    actions: dict[str, Callable[[], object]] = {
        "cut": lambda: world.blocked.update({(name, other) for other in world.names}),
        "mend": world.blocked.clear,
        "kill": lambda: world.kill(name),
        "start": lambda: world.start(name),
        "lossy": lambda: setattr(world, "lost", 0.3 - world.lost),
        "flush": lambda: world.flush(name),
    }
    actions.get(action, lambda: None)()
    world.run(world.random.uniform(0.0, 0.4))


def _check(world: World, submitted: list[_Submitted]) -> None:
    for one in submitted:
        lived = one.incarnation == world._nodes[one.name].incarnation
        assert len(one.told) <= 1
        assert one.told or not lived, "its node lives, and it was told nothing"
        for at_s, outcome in one.told:
            assert isinstance(outcome, Applied | NoLeader | OutcomeUnknown | Overloaded)
            assert at_s - one.at_s <= 1.0 + 2 * TICK_S
