"""What is held over a store reads as if it were written."""

from hypothesis import given
from hypothesis import strategies as st

from feeds.store.base import Write
from feeds.store.held import HELD_MAX, KEPT_BYTES_MAX, KEPT_MAX, HeldWrites
from feeds.store.memory import MemoryStore

KEYS = st.sampled_from((b"a", b"ab", b"b", b"stamp"))
WRITES = st.lists(
    st.builds(Write, st.sampled_from(("feeds", "meta")), KEYS, st.none() | st.binary(max_size=2)),
    max_size=6,
)
STAMP = Write("config", b"stamp", b"")


@given(st.lists(st.tuples(WRITES, KEYS, KEYS, st.none() | st.integers(0, 3), st.booleans())))
def test_held_writes_read_as_if_they_were_written(
    steps: list[tuple[list[Write], bytes, bytes, int | None, bool]],
) -> None:
    below, written = MemoryStore(), MemoryStore()
    held = HeldWrites(below, lambda: STAMP)
    for writes, start, stop, limit, write_out in steps:
        held.hold(writes)
        written.write(writes)
        for family in ("feeds", "meta"):
            keys = [start, stop]
            assert held.get(family, start) == written.get(family, start)
            assert held.get_many(family, keys) == written.get_many(family, keys)
            assert held.keys(family, start, stop, 3) == written.keys(family, start, stop, 3)
            expected = list(written.scan(family, start, stop, limit))
            assert list(held.scan(family, start, stop, limit)) == expected
        if write_out:
            held.write_out()
    held.write_out()
    for family in ("feeds", "meta"):
        everything = list(written.scan(family, b"", b"\xff" * 9))
        assert list(below.scan(family, b"", b"\xff" * 9)) == everything


def test_nothing_is_written_without_its_stamp() -> None:
    store = MemoryStore()
    stamps = iter((b"1", b"2"))
    held = HeldWrites(store, lambda: Write("meta", b"stamp", next(stamps)))
    held.hold([Write("feeds", b"a", b"1")])
    held.hold([Write("feeds", b"b", b"2")])
    assert store.get("feeds", b"a") is None
    assert [key for key, _ in held.scan("feeds", b"a", b"z")] == [b"a", b"b"]
    assert held.get("meta", b"stamp") == store.get("meta", b"stamp") == b"1"
    held.write_out()
    assert store.get("meta", b"stamp") == b"1"
    held.hold([Write("feeds", b"c", b"3")])
    held.write_out()
    assert held.get("meta", b"stamp") == store.get("meta", b"stamp") == b"2"


def test_a_command_with_many_writes_does_not_wait() -> None:
    store = MemoryStore()
    held = HeldWrites(store, lambda: STAMP)
    held.hold([Write("feeds", b"%d" % n, b"") for n in range(HELD_MAX)])
    assert store.get("feeds", b"7") == b""


class Counting(MemoryStore):
    """Counts what is read of it."""

    reads = 0

    def get(self, family: str, key: bytes) -> bytes | None:
        self.reads += 1
        return super().get(family, key)


def test_what_was_read_is_kept_up_to_its_limits() -> None:
    store = Counting()
    few = [Write("feeds", b"%d" % n, b"x") for n in range(KEPT_MAX + 1)]
    store.write([*few, Write("meta", b"long", bytes(KEPT_BYTES_MAX + 1))])
    held = HeldWrites(store, lambda: STAMP)
    for family, key, reads in (
        ("feeds", b"0", 1),
        ("feeds", b"0", 1),
        ("meta", b"long", 2),
        ("meta", b"long", 3),
    ):
        assert held.get(family, key) == MemoryStore.get(store, family, key)
        assert reads == store.reads
    for write in few:
        assert held.get("feeds", write.key) == b"x"
    assert KEPT_MAX + 3 == store.reads
    held.get("feeds", b"0")
    assert KEPT_MAX + 4 == store.reads, "beyond the limit all are let go"
