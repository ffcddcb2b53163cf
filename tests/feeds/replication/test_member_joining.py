"""A member that begins with nothing, and strangers."""

from pathlib import Path

from feeds.replication.messages import (
    AppendEntries,
    AppendReply,
    Forward,
    ForwardReply,
    JoinAsk,
    JoinTold,
    RequestVote,
    VoteReply,
)
from feeds.testing_member import PlayedNode, SteppedClock


def test_joining_node_counts_for_nothing_until_every_peer_has_told_and_it_has_caught_up(
    tmp_path: Path, clock: SteppedClock
) -> None:
    node = PlayedNode(tmp_path / "log", clock, joining=True)
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


def test_stranger_is_not_listened_to(node: PlayedNode) -> None:
    node.receive("n9", AppendEntries(9, 1, 0, 0, 1, 0, [(9, b"x")]))
    node.receive("n9", RequestVote(9, 9, 9))
    node.receive("n9", Forward(1, b"x"))
    assert node.said(AppendReply) + node.said(VoteReply) + node.said(ForwardReply) == []
    assert node.journal.last.index == 0
