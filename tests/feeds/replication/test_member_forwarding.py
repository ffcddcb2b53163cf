"""What a follower sends on to the leader, and what it tells of it."""

import pytest

from feeds.errors import (
    FeedsError,
    LimitExceeded,
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    ReplicaStopped,
    StorageFull,
)
from feeds.replication.base import Applied
from feeds.replication.messages import (
    Forward,
    ForwardReply,
    Outcome,
)
from feeds.testing_member import PlayedNode, kinds


def test_follower_sends_on_and_tells_what_the_leader_answers(node: PlayedNode) -> None:
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
    node: PlayedNode, outcome: Outcome, error: type[FeedsError]
) -> None:
    node.follow("n2")
    told = node.propose()
    node.member.tick()
    node.receive("n2", ForwardReply(1, outcome, message="as the leader says", retry_after_s=3.0))
    assert kinds(told) == [error]
    assert "as the leader says" in str(told[0])
    if isinstance(told[0], Overloaded):
        assert told[0].retry_after_s == 3.0


def test_forward_that_is_lost_is_unknown_when_its_time_is_up(node: PlayedNode) -> None:
    node.follow("n2")
    told = node.propose()
    node.member.tick()
    node.clock.now_s += 5.1
    node.member.tick()
    assert kinds(told) == [OutcomeUnknown]
    node.receive("n2", ForwardReply(1, "ok", 7, b""))
    assert len(told) == 1


def test_forward_to_a_leader_that_is_gone_is_unknown_at_once(node: PlayedNode) -> None:
    node.follow("n2")
    told = node.propose()
    node.member.tick()
    node.member.disconnected("n3")
    assert told == []
    node.member.disconnected("n2")
    assert kinds(told) == [OutcomeUnknown]


def test_leader_answers_a_forwarded_command_with_its_outcome(node: PlayedNode) -> None:
    node.lead()
    node.receive("n3", Forward(5, b"a"))
    assert node.said(ForwardReply) == []
    node.answer("n2")
    assert node.said(ForwardReply) == [ForwardReply(5, "ok", 2, b"2")]
    node.receive("n3", Forward(6, bytes(51)))
    (reply,) = node.said(ForwardReply)[1:]
    assert isinstance(reply, ForwardReply)
    assert (reply.request, reply.outcome) == (6, "limit")


def test_who_does_not_lead_sends_nothing_on_a_second_time(node: PlayedNode) -> None:
    node.follow("n2")
    node.receive("n3", Forward(5, b"a"))
    (reply,) = node.said(ForwardReply)
    assert isinstance(reply, ForwardReply)
    assert (reply.request, reply.outcome) == (5, "no_leader")
    assert node.said(Forward) == []
