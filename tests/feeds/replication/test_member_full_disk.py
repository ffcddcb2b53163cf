"""A member whose disk is full: it refuses, lets others lead, and comes back."""

import errno
import os

import pytest

from feeds.errors import StorageFull
from feeds.replication.base import Applied
from feeds.replication.journal import Journal
from feeds.replication.messages import (
    AppendEntries,
    AppendReply,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from feeds.testing_member import MEMBER_CONFIG, PlayedNode, kinds

PACE = MEMBER_CONFIG.consensus


def offered(node: PlayedNode) -> list[str]:
    return [peer for peer, message in node.sent if isinstance(message, TimeoutNow)]


def asked(node: PlayedNode) -> bool:
    return bool(node.said(RequestVote))


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_leader_with_less_than_its_reserve_refuses_commands_and_not_barriers(
    node: PlayedNode,
) -> None:
    node.lead()
    node.free_bytes = 0
    node.clock.now_s += 0.2
    last = node.journal.last
    told = node.propose()
    node.member.tick()
    assert kinds(told) == [StorageFull]
    assert last == node.journal.last
    told = node.propose(b"")
    node.member.tick()
    node.answer("n2", "n3")
    assert kinds(told) == [Applied]


def test_follower_with_less_than_its_reserve_acknowledges_no_command(node: PlayedNode) -> None:
    node.follow("n2", 1, 0, b"")
    node.free_bytes = 0
    node.clock.now_s += 0.2
    node.follow("n2", 1, 1, b"a")
    assert [reply.index for reply in node.said(AppendReply)] == [1]
    node.follow("n2", 1, 1, b"")
    assert [reply.index for reply in node.said(AppendReply)] == [1, 2]


def test_full_disk_is_said_once_and_shown_until_there_is_space(
    node: PlayedNode, capsys: pytest.CaptureFixture[str]
) -> None:
    node.lead()
    node.free_bytes = 0
    for _ in range(20):
        node.clock.now_s += 0.05
        node.propose()
        node.member.tick()
        node.answer("n2", "n3")
    found = node.member.status().full
    assert found == "0 bytes are free, and 1 must be, the reserve included"
    node.free_bytes = 2**40
    for _ in range(20):
        node.clock.now_s += 0.05
        node.member.tick()
    assert node.member.status().full is None
    said = capsys.readouterr().out
    assert said.count("log_full") == said.count("log_has_space") == 1


def test_nothing_waits_behind_a_group_that_is_not_decided_where_the_disk_is_full(
    node: PlayedNode,
) -> None:
    node.lead()
    node.propose()
    node.member.tick()  # on its way, and nobody acknowledges it
    node.free_bytes = 0
    node.clock.now_s += 0.2
    node.member.tick()
    told = node.propose()
    node.member.tick()
    assert kinds(told) == [StorageFull]


def test_full_leader_asks_one_peer_after_the_other_to_lead(node: PlayedNode) -> None:
    node.lead()
    node.answer("n2", "n3")
    node.free_bytes = 0
    for _ in range(35):
        node.clock.now_s += PACE.hand_over_s / 10
        node.member.tick()
        node.answer("n2", "n3")
    assert offered(node) == ["n2", "n3", "n2", "n3"]
    node.member.disconnected("n2")
    for _ in range(11):
        node.clock.now_s += PACE.hand_over_s / 10
        node.member.tick()
        node.answer("n3")
    assert offered(node)[4:] == ["n3"]


def test_full_leader_does_not_ask_a_peer_that_lacks_what_is_decided(node: PlayedNode) -> None:
    node.lead()  # n2 has the entry that makes it the leader, and n3 has said nothing yet
    node.free_bytes = 0
    for _ in range(3):
        node.clock.now_s += PACE.hand_over_s / 2
        node.member.tick()
        node.answer("n2")
    assert set(offered(node)) == {"n2"}


def test_full_follower_does_not_heed_who_asks_it_to_lead(node: PlayedNode) -> None:
    node.follow("n2")
    node.free_bytes = 0
    node.clock.now_s += 0.2
    node.member.tick()
    node.receive("n2", TimeoutNow(1))
    node.member.tick()
    assert not asked(node)
    node.free_bytes = 2**40
    node.clock.now_s += 0.2
    node.member.tick()
    node.receive("n2", TimeoutNow(1))
    node.member.tick()
    assert asked(node)


def test_who_is_asked_to_lead_stands_though_it_hears_the_leader_meanwhile(
    node: PlayedNode,
) -> None:
    node.follow("n2")
    node.member.receive("n2", TimeoutNow(1))
    node.follow("n2")
    assert asked(node)


def test_who_was_asked_to_lead_does_not_stand_against_a_newer_leader(node: PlayedNode) -> None:
    node.follow("n2")
    node.member.receive("n2", TimeoutNow(1))
    node.follow("n3", 2)
    assert not asked(node)


def test_full_node_leaves_it_to_others_to_stand_and_stands_when_nobody_does(
    node: PlayedNode,
) -> None:
    node.follow("n2")
    node.free_bytes = 0
    for _ in range(PACE.full_timeouts):
        node.clock.now_s += PACE.election_timeout_s_max + 0.01
        node.member.tick()
        assert not asked(node)
    node.clock.now_s += PACE.election_timeout_s_max + 0.01
    node.member.tick()
    node.receive("n2", VoteReply(2, granted=True, pre=True))
    node.receive("n2", VoteReply(2, granted=True))
    assert node.member.leads
    node.receive("n3", AppendEntries(3, 1, 0, 0, 0, 0, []))
    assert not node.member.leads
    node.sent.clear()
    for _ in range(PACE.full_timeouts):
        node.clock.now_s += PACE.election_timeout_s_max + 0.01
        node.member.tick()
        assert not asked(node), "it has heard a leader since: others may stand first again"


def test_vote_that_cannot_be_saved_is_as_good_as_never_asked_for(
    node: PlayedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.follow("n2", 1, 0, b"a")
    node.sent.clear()
    with monkeypatch.context() as full:
        full.setattr(Journal, "save_vote", no_space)
        node.receive("n3", RequestVote(2, 1, 1))
        node.receive("n3", AppendEntries(3, 1, 1, 1, 1, 0, []))
        assert (node.sent, node.member.status().term) == ([], 1)
        assert node.member.status().commit_index == 0
    node.receive("n3", RequestVote(2, 1, 1))
    assert node.said(VoteReply) == [VoteReply(2, granted=True)]
    assert (node.journal.term, node.journal.voted_for) == (2, "n3")


def test_leader_that_cannot_save_a_newer_term_leads_no_more(
    node: PlayedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.lead()
    with monkeypatch.context() as full:
        full.setattr(Journal, "save_vote", no_space)
        node.receive("n3", RequestVote(9, 9, 9))
    assert not node.member.leads
    assert node.member.status().role == "follower"


def test_leader_that_cannot_write_its_first_entry_leads_no_more(
    node: PlayedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.clock.now_s += 2.0
    node.member.tick()
    node.receive("n2", VoteReply(1, granted=True, pre=True))
    with monkeypatch.context() as full:
        full.setattr(Journal, "append", no_space)
        node.receive("n2", VoteReply(1, granted=True))
    assert not node.member.leads
    node.lead()
