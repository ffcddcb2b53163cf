"""The journal is a list that survives: what was synced is there after any crash, in its place.

A state machine holds it against a list in memory, over a disk that forgets what was not synced.
"""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from random import Random

import structlog.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from feeds.replication.base import Entry, LogPosition
from feeds.replication.config import LogConfig
from feeds.replication.journal import Journal
from feeds.replication.segment import HEADER_BYTES, PendingSync
from feeds.simulation.disk import SimulatedDisk

CONFIG = LogConfig(segment_bytes_max=200)
TAIL_BYTES = 30
BLOCKS = (16, 64, 512)  # smaller than a disk's, as the segments are
SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None
VOTERS = st.sampled_from([None, "n1", "n2"])


class JournalEqualsList(RuleBasedStateMachine):
    """`entries` are those behind `base`; up to `durable` they must survive a loss of power."""

    def __init__(self) -> None:
        super().__init__()
        self.exits = ExitStack()
        root = Path(
            self.exits.enter_context(tempfile.TemporaryDirectory(dir=SCRATCH, prefix="journal-"))
        )
        self.disk = SimulatedDisk(root, BLOCKS)
        self.exits.enter_context(self.disk.installed())
        self.directory = root / "log"
        self.directory.mkdir()
        self.entries: dict[int, Entry] = {}
        self.terms = {0: 0}  # of every entry there was
        self.last = 0
        self.durable = 0
        self.applied = LogPosition(0, 0)
        self.vote: tuple[int, str | None] = (0, None)
        self.pending: tuple[PendingSync, int, bool] | None = None
        self.open()

    def open(self) -> None:
        self.journal = Journal.open(self.directory, self.applied, CONFIG, TAIL_BYTES)
        self.pending = None

    def teardown(self) -> None:
        self.drop_pending()
        self.journal.close()
        self.exits.close()

    def drop_pending(self) -> None:
        if self.pending is not None and not self.pending[2]:
            self.pending[0].run()
        self.pending = None

    def has(self, last: int) -> None:
        """The log ends here now; `base` may have moved on, over what is applied."""
        self.last = last
        self.entries = {index: entry for index, entry in self.entries.items() if index <= self.last}

    # What a node does.

    @initialize()
    def begin(self) -> None:
        self.save_vote(1, None)

    @rule(steps=st.integers(0, 2), voted_for=VOTERS)
    def save_vote(self, steps: int, voted_for: str | None) -> None:
        self.vote = (self.vote[0] + steps, voted_for)
        self.journal.save_vote(*self.vote)

    @rule(commands=st.lists(st.binary(max_size=60), min_size=1, max_size=6), choices=st.data())
    def append(self, commands: list[bytes], choices: st.DataObject) -> None:
        term = self.terms[self.last]
        entries = []
        for command in commands:
            term = choices.draw(st.integers(term, self.vote[0]))
            entries.append(Entry(term, command))
        self.journal.append(entries)
        for entry in entries:
            self.last += 1
            self.entries[self.last] = entry
            self.terms[self.last] = entry.term

    @rule()
    def sync(self) -> None:
        self.journal.sync()
        self.durable = self.last

    @precondition(lambda self: self.pending is None)
    @rule(early=st.booleans())
    def begin_sync(self, early: bool) -> None:
        pending = self.journal.begin_sync()
        assert (pending is None) == (self.journal.durable_index == self.last)
        if pending is not None:
            self.pending = (pending, self.last, early)
            if early:
                pending.run()

    @precondition(lambda self: self.pending is not None)
    @rule()
    def end_sync(self) -> None:
        assert self.pending is not None
        pending, covered, early = self.pending
        self.pending = None
        if not early:
            pending.run()
        self.journal.end_sync(pending)
        self.durable = max(self.durable, covered)

    @precondition(lambda self: self.pending is None and self.durable < self.last)
    @rule(commands=st.lists(st.binary(max_size=10), min_size=1, max_size=2), choices=st.data())
    def append_beside_a_sync(self, commands: list[bytes], choices: st.DataObject) -> None:
        """The disk was done before these came, and is heard of afterwards."""
        self.begin_sync(early=True)
        self.append(commands, choices)
        self.end_sync()

    @precondition(lambda self: self.last > max(self.applied.index, self.journal.base.index))
    @rule(choices=st.data())
    def truncate(self, choices: st.DataObject) -> None:
        first = max(self.applied.index, self.journal.base.index) + 1
        index = choices.draw(st.integers(first, self.last))
        self.journal.truncate_from(index)
        self.has(index - 1)
        self.durable = self.last
        if self.pending is not None:  # it speaks of entries that are gone
            self.pending = (self.pending[0], 0, self.pending[2])

    @precondition(lambda self: self.durable > self.applied.index)
    @rule(choices=st.data())
    def apply(self, choices: st.DataObject) -> None:
        index = choices.draw(st.integers(self.applied.index + 1, self.durable))
        self.applied = LogPosition(index, self.terms[index])

    @rule(choices=st.data())
    def compact(self, choices: st.DataObject) -> None:
        index = choices.draw(st.integers(0, max(0, self.applied.index - 1)))
        before, size = self.journal.base.index, self.journal.size_bytes
        dropped = self.journal.compact(index)
        assert before <= self.journal.base.index <= max(before, index + 1)
        assert (dropped > 0) == (self.journal.size_bytes < size)

    @rule(ahead=st.integers(1, 5), choices=st.data())
    def reset(self, ahead: int, choices: st.DataObject) -> None:
        index = self.applied.index + ahead
        term = choices.draw(st.integers(max(1, self.applied.term), self.vote[0]))
        self.applied = LogPosition(index, term)
        self.journal.reset(self.applied)
        self.entries.clear()
        self.terms = {index: term}
        self.last = self.durable = index
        if self.pending is not None:
            self.pending = (self.pending[0], 0, self.pending[2])

    # What becomes of it.

    @rule()
    def restart(self) -> None:
        self.drop_pending()
        self.journal.close()
        self.open()
        self.durable = self.last
        self.learn_vote()

    @rule(seed=st.integers(0, 2**32))
    def lose_power(self, seed: int) -> None:
        self.journal.close()
        self.disk.lose_power(self.directory, Random(seed))
        self.drop_pending()
        self.open()
        found = self.journal.last.index
        assert self.durable <= found <= self.last
        self.has(found)
        self.durable = found
        self.learn_vote()

    def learn_vote(self) -> None:
        assert (self.journal.term, self.journal.voted_for) == self.vote

    # What is always so.

    @invariant()
    def every_entry_is_in_its_place(self) -> None:
        journal = self.journal
        base = journal.base
        assert base.index <= self.last
        assert base.index <= max(self.applied.index, 0) or base.index == 0
        assert base.term == self.terms[base.index]
        assert journal.last == LogPosition(self.last, self.terms[self.last])
        assert journal.term_at(self.last + 1) is None
        place, found = base.index + 1, []
        while place <= self.last:
            some = journal.entries(place, 3, 50)
            assert 1 <= len(some) <= 3
            found += some
            place += len(some)
        expected = [self.entries[index] for index in range(base.index + 1, self.last + 1)]
        assert expected == found
        terms = [journal.term_at(index) for index in range(base.index, self.last + 1)]
        assert terms == [self.terms[index] for index in range(base.index, self.last + 1)]

    @invariant()
    def it_claims_no_more_than_is_durable(self) -> None:
        assert self.durable <= self.journal.durable_index <= self.last
        self.durable = self.journal.durable_index  # a full segment is synced; it must stay true
        assert (self.journal.term, self.journal.voted_for) == self.vote
        assert self.journal.broken is None


def test_journal_equals_a_list() -> None:
    with structlog.testing.capture_logs():
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            JournalEqualsList, settings=settings(max_examples=200, stateful_step_count=40)
        )


def test_log_whose_first_record_was_lost_begins_anew_behind_a_snapshot(tmp_path: Path) -> None:
    """Power is lost behind the creation of a segment: it has a header, and nothing in it."""
    journal = Journal.open(tmp_path, LogPosition(0, 0), CONFIG)
    journal.append([Entry(1, b"lost")])
    journal.close()
    (segment,) = tmp_path.glob("*.log")
    os.truncate(segment, HEADER_BYTES)
    journal = Journal.open(tmp_path, LogPosition(0, 0), CONFIG)
    journal.reset(LogPosition(5, 1))
    assert journal.last == journal.base == LogPosition(5, 1)
    journal.append([Entry(1, b"x")])
    journal.sync()
    journal.close()
    journal = Journal.open(tmp_path, LogPosition(5, 1), CONFIG)
    assert journal.entries(6, 10, 100) == [Entry(1, b"x")]
    journal.close()
