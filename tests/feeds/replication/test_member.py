"""One member of a cluster: whoever proposes is told once, in time, and what is true."""

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
from feeds.replication.base import Applied, LogPosition
from feeds.replication.messages import (
    AppendEntries,
    Forward,
    ForwardReply,
)
from feeds.testing_member import MEMBER_CONFIG, PlayedNode, kinds

# What a proposer is told.


def test_leader_tells_once_a_majority_has_it_and_it_is_applied(node: PlayedNode) -> None:
    node.lead()
    told = node.propose(b"a")
    node.member.tick()
    assert told == []
    node.answer("n3")
    assert told == [Applied(2, b"2")]
    node.answer("n2", "n3")
    assert (len(told), node.member.waiting) == (1, 0)


def test_what_must_be_before_a_write_is_before_its_group_and_nobodys(node: PlayedNode) -> None:
    node.lead()
    firsts = [b"first", None]
    node.member.before_write = lambda: firsts.pop(0)
    told = [node.propose(b"a"), node.propose(b"b")]
    node.member.tick()
    told.append(node.propose(b"c"))
    node.answer("n2")
    node.member.tick()
    node.answer("n2")
    assert node.applied == [b"", b"first", b"a", b"b", b"c"]
    assert told == [[Applied(index, b"%d" % index)] for index in (3, 4, 5)]


def test_who_does_not_lead_puts_nothing_before_a_write(node: PlayedNode) -> None:
    node.member.before_write = lambda: b"first"
    node.follow("n2")
    node.propose(b"a")
    node.member.tick()
    assert node.said(Forward) == [Forward(1, b"a")]


def test_nothing_was_written_where_no_leader_is_known(node: PlayedNode) -> None:
    told = node.propose()
    node.member.tick()
    assert kinds(told) == [NoLeader]
    assert "nothing was written" in str(told[0])
    assert node.said(Forward) == []


def test_leader_that_is_not_heard_for_the_longest_timeout_is_named_no_more(
    node: PlayedNode,
) -> None:
    pace = MEMBER_CONFIG.consensus
    node.follow("n2")
    node.clock.now_s += pace.election_timeout_s_max
    assert node.member.status().leader == "n2"
    node.clock.now_s += 60.0
    assert node.member.status().leader == "n2", "it stood still itself, and may hear it now"
    node.member.tick()
    node.clock.now_s += pace.heartbeat_s / 2
    node.member.tick()
    assert node.member.status().leader == "n2"
    node.clock.now_s += pace.heartbeat_s / 2
    assert node.member.status().leader is None
    told = node.propose()
    node.member.tick()
    assert kinds(told) == [NoLeader]
    assert node.said(Forward) == []
    node.follow("n2")
    assert node.member.status().leader == "n2"


def test_peer_that_was_never_heard_has_been_silent_for_nobody_knows_how_long(
    node: PlayedNode,
) -> None:
    node.follow("n2")
    node.clock.now_s += 0.5
    silences = {peer.node: peer.silent_s for peer in node.member.status().peers}
    assert silences == {"n2": 0.5, "n3": None}


def test_nothing_was_written_where_the_leader_cannot_be_reached(node: PlayedNode) -> None:
    node.follow("n2")
    node.member.disconnected("n2")
    told = node.propose()
    node.member.tick()
    assert kinds(told) == [NoLeader]
    assert "n2 leads and cannot be reached" in str(told[0])


def test_command_above_the_limit_is_refused_at_once_by_name(node: PlayedNode) -> None:
    told = node.propose(bytes(51))
    assert kinds(told) == [LimitExceeded]
    assert "record_bytes_max (50)" in str(told[0])


def test_more_than_may_wait_are_refused_at_once_and_taken_again_later(node: PlayedNode) -> None:
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


def test_more_bytes_than_may_wait_are_refused_at_once(node: PlayedNode) -> None:
    node.lead()
    assert [node.propose(bytes(50)), node.propose(bytes(50))] == [[], []]
    assert kinds(node.propose(b"x")) == [Overloaded]
    node.member.tick()
    assert node.propose(b"x") == [], "bytes count while they wait to be written"


def test_no_answer_in_time_is_an_unknown_outcome(node: PlayedNode) -> None:
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


def test_what_waits_for_too_long_to_be_written_never_is(node: PlayedNode) -> None:
    node.lead()
    told = [node.propose(b"%d" % number) for number in range(4)]
    node.clock.now_s += 6.0
    node.member.tick()  # writes three
    node.member.tick()
    node.answer("n2")
    assert [kinds(one) for one in told] == [[OutcomeUnknown]] * 4
    assert b"3" not in node.applied


def test_entry_that_another_leader_replaced_was_not_written(node: PlayedNode) -> None:
    node.lead()
    told = node.propose(b"mine")
    node.member.tick()
    node.receive("n3", AppendEntries(9, 1, 1, 1, 2, 0, [(9, b"theirs"), (9, b"more")]))
    assert kinds(told) == [NoLeader]
    assert "replaced by another leader's" in str(told[0])
    assert node.applied == [b"", b"theirs"]


def test_entry_that_another_leader_took_over_is_told_as_applied(node: PlayedNode) -> None:
    node.lead()
    told = node.propose(b"mine")
    node.member.tick()
    node.receive("n3", AppendEntries(9, 1, 2, 1, 3, 0, [(9, b"")]))
    assert told == [Applied(2, b"2")]


def test_entry_that_a_snapshot_passes_over_is_unknown(node: PlayedNode) -> None:
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
    node: PlayedNode, monkeypatch: pytest.MonkeyPatch
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
    node: PlayedNode, capsys: pytest.CaptureFixture[str]
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


def test_stop_tells_everyone_what_is_true_of_them(node: PlayedNode) -> None:
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


# Barriers.


def test_barrier_is_behind_everything_acknowledged_and_needs_a_majority(node: PlayedNode) -> None:
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


def test_barrier_of_a_deposed_leader_fails(node: PlayedNode) -> None:
    node.lead()
    found: list[int | FeedsError] = []
    node.member.barrier(found.append)
    node.member.tick()
    node.receive("n3", AppendEntries(9, 1, 1, 1, 2, 0, [(9, b"theirs")]))
    assert [type(one) for one in found] == [NoLeader]


def test_barrier_of_a_follower_is_the_leaders(node: PlayedNode) -> None:
    node.follow("n2")
    found: list[int | FeedsError] = []
    node.member.barrier(found.append)
    node.member.tick()
    assert node.said(Forward) == [Forward(1, b"")]
    node.receive("n2", ForwardReply(1, "ok", 41, b""))
    assert found == [41]
