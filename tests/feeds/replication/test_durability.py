"""What a member says while its disk has not answered yet."""

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pysyncobj.syncobj
import pytest

from feeds.replication.base import Applied, Entry, LogPosition
from feeds.replication.config import ConsensusConfig, MemberConfig
from feeds.replication.journal import Journal
from feeds.replication.member import Member
from feeds.replication.messages import (
    AppendEntries,
    AppendReply,
    Forward,
    ForwardReply,
    Message,
    RequestVote,
    VoteReply,
)
from feeds.replication.segment import PendingSync

PEERS = ("n2", "n3")


class Clock:
    """Monotonic seconds that pass where a test says so."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Node:
    """`n1` of three, whose disk answers when the test says so."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.clock = clock
        self.sent: list[tuple[str, Message]] = []
        self.syncs: list[PendingSync] = []
        self.journal = Journal.open(directory, LogPosition(0, 0))
        self.member = Member(
            node="n1",
            peers=PEERS,
            journal=self.journal,
            apply=lambda index, _, command: b"%d %b" % (index, command),
            applied=LogPosition(0, 0),
            send=lambda peer, message: self.sent.append((peer, message)),
            clock=clock,
            random=Random(1),
            config=MemberConfig(consensus=ConsensusConfig()),
            run_sync=self.syncs.append,
        )
        for peer in PEERS:
            self.member.connected(peer)

    def receive(self, peer: str, message: Message) -> None:
        self.member.receive(peer, message)
        self.member.tick()

    def sync(self) -> None:
        pending = self.syncs.pop(0)
        pending.run()
        self.member.synced(pending)
        self.member.tick()

    def said(self, kind: type[Message]) -> list[Message]:
        return [message for _, message in self.sent if isinstance(message, kind)]

    def lead(self) -> None:
        """Win an election; the leader's first entry is durable here and nowhere else."""
        self.clock.now_s += 2.0
        self.member.tick()
        term = self.journal.term + 1
        self.receive("n2", VoteReply(term, granted=True, pre=True))
        self.receive("n2", VoteReply(term, granted=True))
        assert self.member.leads
        while self.syncs:
            self.sync()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    clock = Clock()
    monkeypatch.setattr(pysyncobj.syncobj, "monotonicTime", clock)
    node = Node(tmp_path, clock)
    yield node
    for pending in node.syncs:
        os.close(pending.file)
    node.journal.close()


def commands_sent(node: Node) -> list[list[bytes]]:
    """The commands of each append that was sent to n2, but for heartbeats."""
    appends = [
        message
        for peer, message in node.sent
        if peer == "n2" and isinstance(message, AppendEntries) and message.entries
    ]
    return [[command for _, command in message.entries] for message in appends]


def acknowledge(node: Node, peer: str = "n2") -> None:
    """A peer has everything."""
    sequence = max(
        message.sequence
        for to, message in node.sent
        if to == peer and isinstance(message, AppendEntries)
    )
    last = node.journal.last.index
    node.receive(peer, AppendReply(node.journal.term, sequence, True, last, last))


def append(term: int, previous: int, *commands: bytes, sequence: int = 1) -> AppendEntries:
    entries = [(term, command) for command in commands]
    return AppendEntries(term, sequence, previous, term if previous else 0, 0, 0, entries)


def test_follower_acknowledges_an_entry_once_it_is_durable(node: Node) -> None:
    node.receive("n2", append(1, 0, b"a"))
    assert node.said(AppendReply) == []
    node.sync()
    assert node.said(AppendReply) == [AppendReply(1, 1, True, 1, 1)]


def test_new_leader_decides_what_it_found_with_an_entry_of_its_own_and_not_before(
    node: Node,
) -> None:
    """It never goes by the entries one by one: the library's way to do so is barred."""
    node.receive("n2", append(1, 0, b"a", b"b", b"c"))
    node.sync()
    node.lead()
    node.receive("n2", AppendReply(node.journal.term, 1, True, 3, 3))
    node.member.tick()
    assert node.member.status().commit_index == 0, "a majority has them, but another may lead yet"
    acknowledge(node)
    assert node.member.status().commit_index == 4


def test_follower_applies_nothing_that_is_not_durable_here(node: Node) -> None:
    node.receive("n2", append(1, 0, b"a"))
    node.receive("n2", AppendEntries(1, 2, 1, 1, 1, 0, []))
    status = node.member.status()
    assert (status.commit_index, status.applied_index) == (1, 0)
    assert not node.member.busy, "there is nothing to do before the disk answers"
    node.sync()
    assert node.member.status().applied_index == 1


def test_followers_disk_goes_before_its_applying(node: Node) -> None:
    node.receive("n2", append(1, 0, b"a"))
    node.sync()
    node.receive("n2", AppendEntries(1, 2, 1, 1, 1, 0, [Entry(1, b"b")]))
    assert node.member.status().applied_index == 0
    assert not node.member.busy, "what waits is not looked at again and again"
    node.sync()
    assert node.member.status().applied_index == 1


def test_disk_that_takes_long_keeps_nothing_from_being_applied(node: Node) -> None:
    node.receive("n2", append(1, 0, b"a"))
    node.sync()
    node.receive("n2", AppendEntries(1, 2, 1, 1, 1, 0, [Entry(1, b"b")]))
    node.clock.now_s += ConsensusConfig().apply_wait_s
    assert node.member.busy
    node.member.tick()
    assert node.member.status().applied_index == 1


def test_disk_that_is_never_at_rest_keeps_nothing_from_being_applied(node: Node) -> None:
    node.receive("n2", append(1, 0, b"a"))
    for index in range(1, 9):
        node.clock.now_s += ConsensusConfig().apply_wait_s / 3
        pending = node.syncs.pop(0)
        pending.run()
        node.member.receive("n2", AppendEntries(1, 1 + index, index, 1, index, 0, [Entry(1, b"b")]))
        node.member.synced(pending)  # and the next sync has begun before the tick
        node.member.tick()
        assert index - node.member.status().applied_index <= 4


def test_leader_decides_entries_of_earlier_terms_with_one_of_its_own_and_not_before(
    node: Node,
) -> None:
    node.receive("n3", append(1, 0, b"a", b"b"))
    node.sync()
    node.lead()
    term = node.journal.term
    sent = max(m.sequence for m in node.said(AppendEntries) if isinstance(m, AppendEntries))
    node.receive("n2", AppendReply(term, sent, True, 2, 2))
    assert node.member.status().commit_index == 0, "a majority has them, of another leader's term"
    node.receive("n2", AppendReply(term, sent, True, 3, 3))
    assert node.member.status().commit_index == 3


def test_follower_does_not_acknowledge_in_a_term_that_is_over(node: Node) -> None:
    """The old leader would count an entry that this node may cut off for the new one."""
    node.receive("n2", append(1, 0, b"a"))
    node.clock.now_s += 2.0
    node.receive("n3", RequestVote(2, 5, 1))
    assert node.said(VoteReply) == [VoteReply(2, granted=True)]
    node.sync()
    assert node.said(AppendReply) == []


def test_leader_sends_before_its_own_disk_answers_and_decides_after(node: Node) -> None:
    node.lead()
    told: list[object] = []
    node.member.submit(b"w", told.append)
    node.member.tick()
    index = node.journal.last.index
    assert [
        entry
        for message in node.said(AppendEntries)
        if isinstance(message, AppendEntries)
        for entry in message.entries
        if entry[1] == b"w"
    ] == [(node.journal.term, b"w")] * 2
    sent = max(m.sequence for m in node.said(AppendEntries) if isinstance(m, AppendEntries))
    node.receive("n2", AppendReply(node.journal.term, sent, True, index, index))
    assert told == [], "a majority has it, and this node may still lose it"
    node.sync()
    assert told == [Applied(index, b"%d w" % index)]


def test_leader_whose_disk_hangs_leads_no_more(node: Node) -> None:
    node.lead()
    node.member.submit(b"w", lambda _: None)
    node.member.tick()
    for _ in range(30):  # both peers answer, so that nothing but the disk is amiss
        node.clock.now_s += 0.05
        for peer in PEERS:
            node.member.receive(peer, AppendReply(node.journal.term, 0, True, 0, 0))
        node.member.tick()
    assert not node.member.leads


def test_what_comes_while_a_group_is_not_decided_goes_together_after_it(node: Node) -> None:
    node.lead()
    acknowledge(node)
    for command in (b"a", b"b", b"c"):
        node.member.submit(command, lambda _: None)
        node.member.tick()
    assert commands_sent(node)[1:] == [[b"a"]]
    node.sync()
    acknowledge(node)
    node.member.tick()
    assert commands_sent(node)[1:] == [[b"a"], [b"b", b"c"]]


def test_enough_commands_for_a_group_do_not_wait(node: Node) -> None:
    node.lead()
    acknowledge(node)
    many = MemberConfig().group_commit_ops_min
    node.member.submit(b"a", lambda _: None)
    node.member.tick()
    for _ in range(many):
        node.member.submit(b"b", lambda _: None)
    assert node.member.busy
    node.member.tick()
    assert commands_sent(node)[1:] == [[b"a"], [b"b"] * many]


def test_group_of_a_lost_leadership_keeps_nobody_waiting(node: Node) -> None:
    node.lead()
    acknowledge(node)
    node.member.submit(b"a", lambda _: None)
    node.member.tick()
    node.sync()
    node.receive("n3", AppendEntries(node.journal.term + 1, 1, 1, 1, 1, 0, []))
    assert not node.member.leads
    node.lead()
    node.member.submit(b"b", lambda _: None)
    node.member.tick()
    assert commands_sent(node)[-1] == [b"b"]


def commits_told(node: Node, peer: str) -> list[int]:
    """The commit indexes that a peer was told, each once."""
    told = [
        message.commit_index
        for to, message in node.sent
        if to == peer and isinstance(message, AppendEntries)
    ]
    return list(dict.fromkeys(told))


def test_commit_is_told_with_the_next_entries_or_alone_a_little_later(node: Node) -> None:
    node.lead()
    acknowledge(node)
    assert commits_told(node, "n2") == [0]
    assert node.member.owes_news
    node.member.submit(b"a", lambda _: None)
    node.member.tick()
    assert commits_told(node, "n2") == [0, 1], "the next entries take it along"
    assert not node.member.owes_news
    node.sync()
    acknowledge(node)
    node.clock.now_s += ConsensusConfig().commit_news_s
    node.member.tick()
    assert commits_told(node, "n2") == [0, 1, 2]
    assert not node.member.owes_news


def test_peer_that_sent_a_command_on_hears_of_the_commit_at_once(node: Node) -> None:
    node.lead()
    acknowledge(node)
    node.receive("n3", Forward(7, b"a"))
    node.sync()
    acknowledge(node)
    assert node.said(ForwardReply) != []
    assert commits_told(node, "n3")[-1] == 2
    assert commits_told(node, "n2")[-1] == 1
