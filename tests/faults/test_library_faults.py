"""The faults of the stock library that the guard answers, each shown on it and then on ours.

Each pair is one schedule: `Stock` drives pysyncobj as it comes, `Guarded` the same messages into
`Consensus`. The numbers are those of the replicated store's specification. It is long because the
two of a pair are read side by side.
"""

import gc
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pysyncobj.syncobj
import pytest
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.journal import FileJournal
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from feeds.errors import InvalidInput, LogDamaged, ReplicaStopped
from feeds.replication.base import Entry, LogPosition
from feeds.replication.config import ConsensusConfig, LogConfig
from feeds.replication.consensus import Consensus
from feeds.replication.journal import Journal
from feeds.replication.messages import (
    AppendEntries,
    AppendReply,
    Message,
    RequestVote,
    VoteReply,
    decode_message,
)

PEERS = ("n2", "n3")
# The library leaves a file of its own open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
ran: list[str] = []


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pysyncobj.syncobj, "monotonicTime", clock)
    return clock


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What the library left open is closed here, where its warnings are expected."""
    yield
    gc.collect()


class Wire(Transport):
    """Keeps what is sent."""

    ready = True

    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self.sent.append((node.id, message))
        return True


class Stock(SyncObj):
    """pysyncobj as it comes, but for the network; its machine keeps what it applied."""

    def __init__(self, journal: Path | None = None, **settings: Any) -> None:
        self.applied: list[str] = []
        self.wire = Wire()
        config = SyncObjConf(
            autoTick=False, journalFile=str(journal) if journal else None, **settings
        )
        super().__init__(Node("n1"), [Node(peer) for peer in PEERS], config, transport=self.wire)

    @replicated
    def put(self, value: str) -> None:
        self.applied.append(value)
        if value == "raise":
            raise ValueError(value)

    def hear(self, peer: str, **message: Any) -> None:
        self._SyncObj__onMessageReceived(Node(peer), message)

    def log(self) -> list[int]:
        journal = self._SyncObj__raftLog
        return [journal[place][1] for place in range(len(journal))]

    def lead(self) -> None:
        for peer in PEERS:
            self._SyncObj__onNodeConnected(Node(peer))
        self._SyncObj__raftElectionDeadline = 0.0
        self._onTick()
        self.hear("n2", type="response_vote", term=self._SyncObj__raftCurrentTerm)
        assert self._isLeader()

    def commit(self, index: int) -> None:
        """The two others have everything up to an index."""
        for peer in PEERS:
            self.hear(
                peer, type="next_node_idx", next_node_idx=index + 1, reset=False, success=True
            )
        self._onTick()


def put_command(value: str) -> bytes:
    return b"\x00" + pickle.dumps((0, (value,), {}))


class Guarded:
    """Ours, fed by hand."""

    def __init__(self, directory: Path, clock: Clock, applied: LogPosition | None = None) -> None:
        self.applied: list[tuple[int, bytes]] = []
        self.sent: list[tuple[str, Message]] = []
        start = applied or LogPosition(0, 0)
        self.journal = Journal.open(directory, start)
        self.consensus = Consensus(
            node="n1",
            peers=PEERS,
            journal=self.journal,
            applied=start,
            apply=self._apply,
            send=lambda peer, message: self.sent.append((peer, message)),
            clock=clock,
            random=Random(1),
            config=ConsensusConfig(),
        )
        for peer in PEERS:
            self.consensus.connected(peer)

    def _apply(self, index: int, term: int, command: bytes) -> bytes:
        assert term >= 1
        self.applied.append((index, command))
        if command == b"raise":
            raise OSError("the store's disk is broken")
        return b""

    def hear(self, peer: str, message: Message) -> list[Message]:
        """What it answers to a message."""
        self.sent.clear()
        self.consensus.receive(peer, message)
        self.consensus.tick()
        self.consensus.flush()
        return [answer for to, answer in self.sent if to == peer]

    def append(
        self, term: int, previous: tuple[int, int], *commands: bytes, commit: int = 0, seq: int = 1
    ) -> list[Message]:
        entries = [(term, command) for command in commands]
        return self.hear("n2", AppendEntries(term, seq, *previous, commit, 0, entries))


@pytest.fixture
def guarded(tmp_path: Path, clock: Clock) -> Iterator[Guarded]:
    guarded = Guarded(tmp_path / "log", clock)
    yield guarded
    guarded.journal.close()


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The syncs that are asked for, by name."""
    seen: list[str] = []

    def watch(name: str) -> Callable[[int], None]:
        sync = getattr(os, name)

        def watched(file: int) -> None:
            seen.append(name)
            sync(file)

        return watched

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, watch(name))
    return seen


# 1: nothing is ever synced.


def test_stock_acknowledges_what_was_never_synced(tmp_path: Path, syncs: list[str]) -> None:
    stock = Stock(tmp_path / "journal")
    stock.hear(
        "n2", type="append_entries", term=1, commit_index=1, prevLogIdx=1, prevLogTerm=0,
        entries=[(put_command("a"), 2, 1)],
    )  # fmt: skip
    stock.hear("n3", type="request_vote", term=2, last_log_index=9, last_log_term=9)
    assert [message["type"] for _, message in stock.wire.sent] == ["next_node_idx", "response_vote"]
    assert syncs == []
    stock.destroy()


def test_guarded_syncs_before_an_acknowledgement_or_a_vote_leaves(
    guarded: Guarded, syncs: list[str]
) -> None:
    order: list[str] = []
    guarded.consensus._send = lambda *_: order.append(f"sent after {len(syncs)} syncs")
    syncs.clear()
    guarded.append(1, (0, 0), b"a")
    assert order == ["sent after 5 syncs"]  # vote file and directory, new segment and directory,
    #                                         and the entry itself
    before = len(syncs)
    guarded.hear("n3", RequestVote(2, 9, 9))
    assert len(syncs) > before


# 2: no checksums.


def test_stock_loads_a_flipped_byte_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = FileJournal(str(path))
    journal.add(b"\x00value-a", 1, 1)
    journal._destroy()
    data = path.read_bytes()
    path.write_bytes(data.replace(b"value-a", b"value-b", 1))
    again = FileJournal(str(path))
    assert again[0][0] == b"\x00value-b"
    again._destroy()


def test_guarded_refuses_a_flipped_byte(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, LogPosition(0, 0))
    for value in (b"value-a", b"value-c"):
        journal.append([Entry(1, value)])
        journal.sync()
    journal.close()
    (segment,) = tmp_path.glob("*.log")
    segment.write_bytes(segment.read_bytes().replace(b"value-a", b"value-b", 1))
    with pytest.raises(LogDamaged, match="offset"):
        Journal.open(tmp_path, LogPosition(0, 0))


# 3: compaction rewrites the log in place.


def test_stock_loses_entries_when_it_is_killed_while_it_drops_older_ones(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = FileJournal(str(path))
    for index in range(1, 101):
        journal.add(b"\x00entry", index, 1)
    added = journal.add
    count = 0

    def killed(*entry: Any) -> None:
        nonlocal count
        count += 1
        if count > 20:
            raise KeyboardInterrupt
        added(*entry)

    journal.add = killed
    with pytest.raises(KeyboardInterrupt):
        journal.deleteEntriesTo(50)
    journal._destroy()
    again = FileJournal(str(path))
    assert len(again) < 50  # 50 should be left
    again._destroy()


def test_guarded_drops_whole_segments_and_nothing_else(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, LogPosition(0, 0), LogConfig(segment_bytes_max=500))
    for index in range(1, 101):
        journal.append([Entry(1, b"%d" % index)])
    journal.sync()
    journal.compact(50)
    journal.close()
    again = Journal.open(tmp_path, LogPosition(50, 1))
    assert [again.entries(index, 1, 1)[0].command for index in range(51, 101)] == [
        b"%d" % index for index in range(51, 101)
    ]
    again.close()


# 4: a snapshot's message moves the commit index over a tail that nobody compared.


def test_stock_commits_its_own_unverified_tail() -> None:
    stock = Stock()
    tail = [(put_command(value), index, 1) for index, value in enumerate("abc", 2)]
    stock.hear(
        "n2", type="append_entries", term=1, commit_index=1, prevLogIdx=1, prevLogTerm=0,
        entries=tail,
    )  # fmt: skip
    stock.hear("n3", type="append_entries", term=2, commit_index=4, serialized=None)
    stock._onTick()
    assert stock.applied == ["a", "b", "c"]  # the leader of term 2 may have others there


def test_guarded_commits_only_what_a_message_verified(guarded: Guarded) -> None:
    guarded.append(1, (0, 0), b"a", b"b", b"c")
    guarded.hear("n3", AppendEntries(2, 1, 1, 1, 3, 0, []))
    assert guarded.applied == [(1, b"a")]
    guarded.hear("n3", AppendEntries(2, 2, 1, 1, 3, 0, [(2, b"B"), (2, b"C")]))
    assert guarded.applied == [(1, b"a"), (2, b"B"), (3, b"C")]


# 5: an append that comes again cuts off what matches.


def test_stock_cuts_entries_that_match() -> None:
    stock = Stock()
    entries = [(put_command(value), index, 1) for index, value in enumerate("abc", 2)]
    first = {
        "type": "append_entries", "term": 1, "commit_index": 4, "prevLogIdx": 1, "prevLogTerm": 0,
    }  # fmt: skip
    stock.hear("n2", **first, entries=entries)
    stock._onTick()
    stock.hear("n2", **first, entries=entries[:1])
    assert stock.applied == ["a", "b", "c"]
    assert stock.log() == [1, 2]  # 3 and 4 were committed, applied, and acknowledged


def test_guarded_keeps_entries_that_match(guarded: Guarded) -> None:
    guarded.append(1, (0, 0), b"a", b"b", b"c", commit=3)
    (answer,) = guarded.append(1, (0, 0), b"a", seq=2)
    assert answer == AppendReply(1, 2, True, 1, 3)
    assert guarded.journal.last == LogPosition(3, 1)


def test_guarded_stops_where_a_committed_entry_would_be_cut(guarded: Guarded) -> None:
    guarded.append(1, (0, 0), b"a", b"b", commit=2)
    with pytest.raises(ReplicaStopped, match="committed"):
        guarded.append(2, (1, 1), b"other", seq=2)
    assert guarded.journal.last == LogPosition(2, 1)


# 6: acknowledgements without a term; no answer to an older term; a slow node deposes the leader.


def test_stock_leaves_a_leader_of_an_older_term_without_an_answer() -> None:
    stock = Stock()
    stock.hear("n2", type="append_entries", term=5, commit_index=1, prevLogIdx=1, prevLogTerm=0)
    stock.wire.sent.clear()
    stock.hear("n3", type="append_entries", term=4, commit_index=1, prevLogIdx=1, prevLogTerm=0)
    assert stock.wire.sent == []


def test_guarded_tells_a_leader_of_an_older_term(guarded: Guarded) -> None:
    guarded.append(5, (0, 0))
    (answer,) = guarded.hear("n3", AppendEntries(4, 1, 0, 0, 0, 0, []))
    assert isinstance(answer, AppendReply)
    assert (answer.term, answer.success) == (5, False)


def test_stock_counts_an_acknowledgement_of_an_earlier_leadership() -> None:
    stock = Stock(raftMinTimeout=0.4)
    stock.lead()
    stock.put("a")
    stock._onTick()
    stock.commit(9_999)  # no message says in which term, nor is the index compared with the log
    assert stock.applied == ["a"]


def test_guarded_counts_only_acknowledgements_of_its_own_leadership(
    guarded: Guarded, clock: Clock
) -> None:
    _lead(guarded, clock)
    index = guarded.consensus.append([b"a"])
    for answer in (
        AppendReply(guarded.consensus.term - 1, 1, True, index, index),
        AppendReply(guarded.consensus.term, 1, True, 9_999, 9_999),
        AppendReply(guarded.consensus.term, 9_999, True, index, index),
    ):
        guarded.hear("n2", answer)
    assert guarded.applied == []


def test_stock_deposes_a_healthy_leader_when_one_node_was_slow() -> None:
    stock = Stock()
    stock.lead()
    term = stock._SyncObj__raftCurrentTerm
    stock.hear("n3", type="request_vote", term=term + 1, last_log_index=1, last_log_term=0)
    assert not stock._isLeader()


def test_guarded_leader_stays_when_one_node_was_slow(guarded: Guarded, clock: Clock) -> None:
    _lead(guarded, clock)
    term = guarded.consensus.term
    answers = guarded.hear("n3", RequestVote(term + 1, 9, 9, pre=True))
    assert [one for one in answers if isinstance(one, VoteReply)] == [
        VoteReply(term, granted=False, pre=True)
    ]
    assert (guarded.consensus.role, guarded.consensus.term) == ("leader", term)


# 7: an apply that raises is applied again.


def test_stock_applies_again_what_raised() -> None:
    stock = Stock()
    stock.hear(
        "n2", type="append_entries", term=1, commit_index=2, prevLogIdx=1, prevLogTerm=0,
        entries=[(put_command("raise"), 2, 1)],
    )  # fmt: skip
    for _ in range(3):
        with pytest.raises(ValueError, match="raise"):
            stock._onTick()
    assert stock.applied == ["raise"] * 3


def test_guarded_stops_at_what_raised(guarded: Guarded) -> None:
    with pytest.raises(ReplicaStopped, match="could not be applied"):
        guarded.append(1, (0, 0), b"raise", b"after", commit=2)
    assert guarded.applied == [(1, b"raise")]


# 8: a restart applies the log again.


def test_stock_applies_its_journal_again_after_a_restart(tmp_path: Path) -> None:
    stock = Stock(tmp_path / "journal")
    stock.hear(
        "n2", type="append_entries", term=1, commit_index=2, prevLogIdx=1, prevLogTerm=0,
        entries=[(put_command("a"), 2, 1)],
    )  # fmt: skip
    stock._onTick()
    stock._SyncObj__raftLog.onOneSecondTimer()
    stock.destroy()
    again = Stock(tmp_path / "journal")
    again.hear("n2", type="append_entries", term=1, commit_index=2, prevLogIdx=2, prevLogTerm=1)
    again._onTick()
    assert (stock.applied, again.applied) == (["a"], ["a"])
    again.destroy()


def test_guarded_goes_on_behind_what_the_store_has_applied(tmp_path: Path, clock: Clock) -> None:
    first = Guarded(tmp_path, clock)
    first.append(1, (0, 0), b"a", b"b", commit=1)
    first.journal.close()
    again = Guarded(tmp_path, clock, LogPosition(1, 1))
    again.append(1, (2, 1), commit=2)
    assert (first.applied, again.applied) == ([(1, b"a")], [(2, b"b")])
    again.journal.close()


# 9: pickle from the network.


def _run() -> None:
    ran.append("code from the network")


class Attack:
    def __reduce__(self) -> Any:
        return _run, ()


def test_stock_runs_code_that_a_message_brings() -> None:
    ran.clear()
    stock = Stock()
    stock.hear(
        "n2", type="append_entries", term=1, commit_index=2, prevLogIdx=1, prevLogTerm=0,
        entries=[(b"\x00" + pickle.dumps(Attack()), 2, 1)],
    )  # fmt: skip
    with pytest.raises(KeyError):
        stock._onTick()
    assert ran == ["code from the network"]


def test_guarded_takes_pickle_for_bytes(guarded: Guarded) -> None:
    ran.clear()
    attack = pickle.dumps(Attack())
    with pytest.raises(InvalidInput):
        decode_message(attack)
    guarded.append(1, (0, 0), b"\x00" + attack, commit=1)
    assert guarded.applied == [(1, b"\x00" + attack)]
    assert ran == []


def test_guarded_never_reaches_the_library_s_own_storage(guarded: Guarded) -> None:
    for name in ("_SyncObj__doApplyCommand", "_SyncObj__loadDumpFile", "_applyCommand"):
        with pytest.raises(ReplicaStopped, match="guard"):
            getattr(guarded.consensus, name)(b"x")


# 10: a command waits for the next heartbeat.


def test_stock_lets_a_command_wait_for_the_next_heartbeat(clock: Clock) -> None:
    stock = Stock()
    stock.lead()
    stock._onTick()
    stock.wire.sent.clear()
    stock.put("a")
    stock._onTick()
    stock._onTick()
    assert [m for _, m in stock.wire.sent if m.get("entries")] == []
    clock.now_s += 0.101
    stock._onTick()
    assert [m for _, m in stock.wire.sent if m.get("entries")] != []


def test_guarded_sends_a_command_in_the_turn_in_which_it_came(
    guarded: Guarded, clock: Clock
) -> None:
    _lead(guarded, clock)
    guarded.sent.clear()
    guarded.consensus.append([b"a"])
    guarded.consensus.tick()
    guarded.consensus.flush()
    assert [
        peer
        for peer, message in guarded.sent
        if isinstance(message, AppendEntries) and message.entries[-1][1] == b"a"
    ] == list(PEERS)


def _lead(guarded: Guarded, clock: Clock) -> None:
    clock.now_s += 1.0
    guarded.consensus.tick()
    guarded.consensus.flush()
    guarded.hear("n2", VoteReply(guarded.consensus.term + 1, granted=True, pre=True))
    guarded.hear("n2", VoteReply(guarded.consensus.term, granted=True))
    assert guarded.consensus.role == "leader"
