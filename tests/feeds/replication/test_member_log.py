"""How much of the log a member keeps, for whom, and when a snapshot takes its place."""

from feeds.errors import (
    ReplicaStopped,
)
from feeds.replication.base import LogPosition
from feeds.replication.messages import (
    AppendEntries,
    AppendReply,
)
from feeds.testing_member import MEMBER_CONFIG, PlayedNode


def _write(node: PlayedNode, count: int) -> None:
    """Entries, each in a segment of its own, that n2 has and n3 has not."""
    for _ in range(count):
        node.propose()
        node.member.tick()
        node.answer("n2")


def first_kept(node: PlayedNode) -> int:
    """The first entry that is there, and is what the next one stands on."""
    return node.journal.base.index


def test_log_is_kept_for_a_peer_that_is_behind_and_dropped_below_what_it_has(
    node: PlayedNode,
) -> None:
    node.lead()
    _write(node, 5)
    assert node.member.compact(6) == 0
    node.receive("n3", AppendReply(1, 0, True, 4, 4))
    node.member.compact(6)
    assert 2 <= first_kept(node) <= 5, "the last entry that n3 has is what the next one stands on"
    node.answer("n3")
    node.member.compact(6)
    assert first_kept(node) == 6


def test_log_is_never_dropped_above_what_is_flushed_or_applied(node: PlayedNode) -> None:
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


def test_log_is_not_kept_for_a_peer_that_is_silent_for_too_long(node: PlayedNode) -> None:
    node.lead()
    _write(node, 5)
    for _ in range(70):
        node.clock.now_s += 0.9
        node.answer("n2")
    node.member.compact(6)
    assert first_kept(node) == 6


def test_more_log_than_may_be_kept_is_dropped_and_the_peer_gets_a_snapshot(
    node: PlayedNode,
) -> None:
    node.lead()
    _write(node, 5)
    node.receive("n3", AppendReply(1, 0, True, 1, 1))
    for _ in range(220):
        command = bytes(50)
        node.propose(command)
        node.member.tick()
        node.answer("n2")
    assert node.journal.size_bytes > MEMBER_CONFIG.log_keep_bytes_max
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


def test_follower_keeps_the_log_as_far_as_the_leader_says(node: PlayedNode) -> None:
    for index in range(6):
        entries = [(1, b"%d" % index)]
        previous = (index, 1) if index else (0, 0)
        node.receive("n2", AppendEntries(1, index + 1, *previous, index + 1, 3, entries))
    node.member.compact(6)
    assert 2 <= first_kept(node) <= 4


# Snapshots.


def test_snapshot_is_taken_only_if_it_brings_what_is_neither_decided_nor_in_the_log(
    node: PlayedNode,
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
