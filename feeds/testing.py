"""What every implementation of the feed engine's protocols must pass.

A test subclasses a contract and says how to open what it tests:
`class TestRocksStore(StoreContract)`.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import get_ident

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.errors import ReplicaStopped, StorageError
from feeds.replication.base import Applied, ApplyCommand, Replica
from feeds.store.base import COLUMN_FAMILIES, Store, View, Write
from feeds.store.memory import MemoryStore

__all__ = ["Recorder", "ReplicaContract", "StoreContract", "writes"]

_KEYS = st.binary(max_size=3)
_WAIT_S = 30  # a future that takes longer is lost
_LONG = 3_000  # rows: more than a store reads in one chunk


def writes() -> st.SearchStrategy[list[Write]]:
    """Batches with few distinct keys, so that they overwrite and delete each other."""
    value = st.none() | st.binary(max_size=4)
    families = st.sampled_from(COLUMN_FAMILIES[:3])
    return st.lists(st.builds(Write, families, _KEYS, value), max_size=12)


class StoreContract:
    """What the engine relies on, of any `Store`."""

    def open_store(self, directory: Path) -> Store:
        """A store without rows; `directory` is empty and the store's own."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        """The store under test."""
        with self.open_store(tmp_path / "store") as store:
            yield store

    def test_it_is_a_store(self, store: Store) -> None:
        """It has every method of the protocol."""
        assert isinstance(store, Store)

    def test_absent_key_reads_none(self, store: Store) -> None:
        """No value is not an error."""
        assert store.get("meta", b"absent") is None

    def test_empty_value_is_not_an_absent_one(self, store: Store) -> None:
        """Empty bytes are a value."""
        store.write([Write("meta", b"k", b"")])
        assert store.get("meta", b"k") == b""

    def test_families_are_apart(self, store: Store) -> None:
        """The same key holds one value for each family."""
        store.write([Write(family, b"k", family.encode()) for family in COLUMN_FAMILIES])
        assert [store.get(family, b"k") for family in COLUMN_FAMILIES] == [
            family.encode() for family in COLUMN_FAMILIES
        ]

    def test_last_write_to_a_key_wins(self, store: Store) -> None:
        """Within one batch too, deletions included."""
        store.write([Write("meta", b"a", b"1"), Write("meta", b"a", b"2")])
        store.write([Write("meta", b"b", b"1"), Write("meta", b"b", None)])
        store.write([Write("meta", b"c", None), Write("meta", b"c", b"1")])
        assert store.get_many("meta", [b"a", b"b", b"c"]) == [b"2", None, b"1"]

    def test_many_values_come_in_the_order_of_their_keys(self, store: Store) -> None:
        """Repeats and absent keys keep their places."""
        store.write([Write("meta", b"a", b"1"), Write("meta", b"b", b"2")])
        keys = [b"b", b"absent", b"a", b"b"]
        assert store.get_many("meta", keys) == [b"2", None, b"1", b"2"]
        assert store.get_many("meta", []) == []

    def test_scan_is_in_byte_order_and_excludes_its_stop(self, store: Store) -> None:
        """Bytes compare unsigned, and a prefix comes before what it starts."""
        keys = [b"\x80", b"a", b"", b"\xff\xff", b"a\x00", b"\x7f", b"b", b"\xff"]
        store.write([Write("feeds", key, key) for key in keys])
        rows = store.scan("feeds", b"", b"\xff\xff")
        assert [key for key, _ in rows] == sorted(keys)[:-1]
        assert list(store.scan("feeds", b"a", b"b")) == [(b"a", b"a"), (b"a\x00", b"a\x00")]

    def test_scan_without_room_is_empty(self, store: Store) -> None:
        """Start at or behind stop, or a limit of nothing."""
        store.write([Write("feeds", b"a", b"")])
        assert list(store.scan("feeds", b"a", b"a")) == []
        assert list(store.scan("feeds", b"b", b"a")) == []
        assert list(store.scan("feeds", b"a", b"b", 0)) == []
        assert store.keys("feeds", b"b", b"a", 9) == store.keys("feeds", b"a", b"b", 0) == []

    def test_scan_sees_the_state_at_its_start(self, store: Store) -> None:
        """Rows written or deleted while it runs change nothing, however long it is."""
        before = [Write("feeds", b"%08d" % n, b"old") for n in range(_LONG)]
        store.write(before)
        for limit in (None, _LONG, 10):
            scan = store.scan("feeds", b"", b"9", limit)
            first = next(scan)
            store.write([Write("feeds", key, None) for _, key, _ in before[1:]])
            store.write([Write("feeds", b"00000000x", b"new")])
            assert [first, *scan] == [(key, b"old") for _, key, _ in before[:limit]]
            store.write([*before, Write("feeds", b"00000000x", None)])

    def test_unknown_family_is_refused_and_nothing_is_written(self, store: Store) -> None:
        """A batch is written whole or not at all."""
        with pytest.raises(ValueError, match="no column family 'nope'"):
            store.write([Write("meta", b"k", b"1"), Write("nope", b"k", b"1")])
        with pytest.raises(ValueError, match="no column family 'nope'"):
            store.get("nope", b"k")
        assert store.get("meta", b"k") is None

    def test_closed_store_refuses(self, store: Store) -> None:
        """Every call is an error that says so; closing again is none."""
        store.close()
        store.close()
        for call in (
            lambda: store.get("meta", b"k"),
            lambda: store.get_many("meta", [b"k"]),
            lambda: store.scan("meta", b"a", b"b"),
            lambda: store.keys("meta", b"a", b"b", 1),
            lambda: store.write([Write("meta", b"k", b"1")]),
            store.flush,
        ):
            with pytest.raises(StorageError, match="closed"):
                call()

    def test_it_equals_the_memory_store(self, store: Store) -> None:
        """Whatever is written, every read gives what the reference gives."""

        @settings(max_examples=60, deadline=None)
        @given(st.lists(writes(), max_size=5), _KEYS, _KEYS, st.none() | st.integers(0, 5))
        def law(batches: list[list[Write]], start: bytes, stop: bytes, limit: int | None) -> None:
            for family in COLUMN_FAMILIES[:3]:
                store.write([Write(family, key, None) for key, _ in _rows(store, family)])
            reference = MemoryStore()
            for batch in batches:
                store.write(batch)
                reference.write(batch)
            for family in COLUMN_FAMILIES[:3]:
                rows = _rows(reference, family)
                keys = [start, *(key for key, _ in rows), stop]
                values = reference.get_many(family, keys)
                assert rows == _rows(store, family)
                assert values == store.get_many(family, keys)
                assert values == [store.get(family, key) for key in keys]
                found = list(store.scan(family, start, stop, limit))
                assert list(reference.scan(family, start, stop, limit)) == found
                most = len(rows) + 1 if limit is None else limit
                assert [key for key, _ in found] == store.keys(family, start, stop, most)

        law()


class Recorder:
    """An `ApplyCommand` that keeps what it applied and answers with index and command.

    The command `raise` is an I/O error.
    """

    def __init__(self) -> None:
        self.applied: list[tuple[int, bytes]] = []
        self.threads: set[int] = set()

    def __call__(self, index: int, term: int, command: bytes) -> bytes:
        """Apply one command."""
        assert term >= 1
        if command == b"raise":
            raise OSError("the store's disk is broken")
        self.threads.add(get_ident())
        self.applied.append((index, command))
        return b"%d:%b" % (index, command)

    def since(self, first: int) -> list[tuple[int, bytes]]:
        """What was applied from this index on."""
        return [(index, command) for index, command in self.applied if index >= first]


class ReplicaContract:
    """What the engine relies on, of any `Replica`.

    A replica may write commands of its own before the first that is proposed: a new leader writes
    an empty one.
    """

    def open_replica(self, directory: Path, apply: ApplyCommand, applied_index: int) -> Replica:
        """A replica in a directory of its own, that takes proposals and has applied its own."""
        raise NotImplementedError

    @pytest.fixture
    def recorder(self) -> Recorder:
        """What the replica under test applies with."""
        return Recorder()

    @pytest.fixture
    def replica(self, tmp_path: Path, recorder: Recorder) -> Iterator[Replica]:
        """The replica under test, with an empty log."""
        replica = self.open_replica(tmp_path / "log", recorder, 0)
        yield replica
        replica.close()

    def test_results_come_with_gapless_indexes_in_order(
        self, replica: Replica, recorder: Recorder
    ) -> None:
        """One proposer: the order of its proposals."""
        first = _next_index(replica)
        commands = [b"%d" % n for n in range(100)]
        futures = [replica.propose(command) for command in commands]
        assert [future.result(_WAIT_S) for future in futures] == [
            Applied(index, b"%d:%b" % (index, command))
            for index, command in enumerate(commands, first)
        ]
        assert recorder.since(first) == list(enumerate(commands, first))

    def test_many_threads_get_one_order(self, replica: Replica, recorder: Recorder) -> None:
        """Each thread's commands keep their order, none is lost or applied twice."""
        first = _next_index(replica)

        def client(number: int) -> list[tuple[bytes, Applied]]:
            commands = [b"%d/%d" % (number, n) for n in range(50)]
            futures = [(command, replica.propose(command)) for command in commands]
            return [(command, future.result(_WAIT_S)) for command, future in futures]

        with ThreadPoolExecutor(8) as threads:
            answers = [answer for answers in threads.map(client, range(8)) for answer in answers]
        assert all(done.result == b"%d:%b" % (done.index, sent) for sent, done in answers)
        applied = recorder.since(first)
        assert applied == sorted((done.index, sent) for sent, done in answers)
        assert [index for index, _ in applied] == list(range(first, first + len(answers)))
        for number in range(8):
            own = [done.index for sent, done in answers if sent.startswith(b"%d/" % number)]
            assert own == sorted(own)

    def test_result_is_there_once_the_effects_are(
        self, replica: Replica, recorder: Recorder
    ) -> None:
        """Whoever holds the result reads its own write."""
        for n in range(20):
            done = replica.propose(b"%d" % n).result(_WAIT_S)
            assert recorder.applied[-1] == (done.index, b"%d" % n)
            assert replica.status().applied_index == done.index

    def test_it_goes_on_behind_what_is_applied(self, tmp_path: Path, recorder: Recorder) -> None:
        """A new log begins behind the store."""
        replica = self.open_replica(tmp_path / "other", recorder, 41)
        first = _next_index(replica)
        assert replica.propose(b"x").result(_WAIT_S).index == first
        assert [index for index, _ in recorder.applied] == list(range(42, first + 1))
        replica.close()

    def test_empty_command_is_a_command(self, replica: Replica) -> None:
        """Commands are opaque."""
        first = _next_index(replica)
        assert replica.propose(b"").result(_WAIT_S) == Applied(first, b"%d:" % first)

    def test_error_while_applying_stops_it(self, replica: Replica, recorder: Recorder) -> None:
        """The command and every later one fail; what was applied before stays answered."""
        first = _next_index(replica)
        before = replica.propose(b"before")
        futures = [replica.propose(command) for command in (b"raise", b"after")]
        assert before.result(_WAIT_S).index == first
        for future in futures:
            with pytest.raises(ReplicaStopped, match="the store's disk is broken"):
                future.result(_WAIT_S)
        with pytest.raises(ReplicaStopped):
            replica.propose(b"later").result(_WAIT_S)
        assert recorder.since(first) == [(first, b"before")]
        replica.close()
        assert replica.status().role == "stopped"

    def test_close_finishes_what_was_proposed(self, replica: Replica, recorder: Recorder) -> None:
        """Then it refuses; closing again is harmless."""
        first = _next_index(replica)
        futures = [replica.propose(b"%d" % n) for n in range(200)]
        replica.close()
        replica.close()
        assert [future.result(0).index for future in futures] == list(range(first, first + 200))
        with pytest.raises(ReplicaStopped, match="closed"):
            replica.propose(b"late").result(_WAIT_S)
        assert replica.status().role == "stopped"
        assert len(recorder.since(first)) == len(futures)

    def test_callback_that_raises_or_proposes_harms_nobody(
        self, replica: Replica, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It runs where the future is completed."""
        nested: list[Future[Applied]] = []
        place = _next_index(replica)

        def callback(done: "Future[Applied]") -> None:
            nested.append(replica.propose(b"nested"))
            raise ValueError(done.result().index)

        first = replica.propose(b"first")
        first.add_done_callback(callback)
        assert first.result(_WAIT_S).index == place
        indexes = [replica.propose(b"%d" % n).result(_WAIT_S).index for n in range(3)]
        indexes.append(nested[0].result(_WAIT_S).index)
        assert sorted(indexes) == list(range(place + 1, place + 5))
        assert "exception calling callback" in caplog.text

    def test_barrier_covers_what_was_acknowledged(self, replica: Replica) -> None:
        """Its index is at or above that of every write answered before it."""
        done = [replica.propose(b"%d" % n).result(_WAIT_S).index for n in range(5)]
        assert replica.barrier().result(_WAIT_S) >= max(done)
        replica.close()
        with pytest.raises(ReplicaStopped):
            replica.barrier().result(_WAIT_S)

    def test_compaction_loses_nothing(self, replica: Replica, recorder: Recorder) -> None:
        """Not even where it is asked for more than is applied."""
        first = _next_index(replica)
        for n in range(10):
            replica.propose(b"%d" % n).result(_WAIT_S)
            replica.compact(10**6)
        assert [index for index, _ in recorder.since(first)] == list(range(first, first + 10))
        assert replica.status().last_index == replica.status().applied_index == first + 9


def _next_index(replica: Replica) -> int:
    return replica.status().last_index + 1


def _rows(view: View, family: str) -> list[tuple[bytes, bytes]]:
    return list(view.scan(family, b"", b"\xff" * 4))
