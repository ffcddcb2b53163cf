"""What may be written with a reserve left, and how seldom the disk is asked."""

from dataclasses import dataclass
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from feeds.replication.disk_space import LOOK_EVERY_S, REFUSED_S, DiskSpace


@dataclass
class Disk:
    """Bytes that are free, and how often that was looked at."""

    free: int
    looks: int = 0
    now_s: float = 0.0

    def look(self) -> int:
        self.looks += 1
        return self.free

    def space(self, reserve: int) -> DiskSpace:
        return DiskSpace(self.look, reserve, lambda: self.now_s)


@given(
    st.integers(0, 100),
    st.integers(0, 500),
    st.lists(st.tuples(st.integers(0, 60), st.floats(0, 0.3)), max_size=30),
)
def test_reserve_is_never_touched_and_nothing_that_fits_is_refused(
    reserve: int, free: int, writes: list[tuple[int, float]]
) -> None:
    disk = Disk(free)
    space = disk.space(reserve)
    full = False
    for size, passes_s in writes:
        disk.now_s += passes_s
        refused = space.lacking(size) is not None
        assert refused == (disk.free < reserve + size + (reserve // 4 if full else 0))
        full = refused
        if not refused:
            disk.free -= size
            assert disk.free >= reserve


def test_disk_is_looked_at_ten_times_a_second_however_much_is_written() -> None:
    disk = Disk(10**12)
    space = disk.space(10**6)
    for _ in range(1_000):
        assert space.lacking(1_000) is None
        disk.now_s += LOOK_EVERY_S / 100
    assert disk.looks <= 12


def test_disk_that_was_full_needs_a_fourth_more_to_be_written_to_again() -> None:
    disk = Disk(99)
    space = disk.space(100)
    assert space.lacking(0) == "99 bytes are free, and 100 must be, the reserve included"
    disk.free = 124
    assert space.lacking(0) == "124 bytes are free, and 125 must be, the reserve included"
    disk.free = 125
    assert space.lacking(0) is None
    disk.free = 100
    disk.now_s += LOOK_EVERY_S
    assert space.lacking(0) is None


def test_disk_that_refused_a_write_counts_as_full_for_a_moment() -> None:
    disk = Disk(10**9)
    space = disk.space(0)
    space.refused("a quota")
    assert space.lacking(0) == "a quota"
    disk.now_s += REFUSED_S
    assert space.lacking(0) is None


def test_of_several_disks_the_fullest_counts(tmp_path: Path) -> None:
    assert DiskSpace.of([tmp_path, Path("/")], 0).lacking(0) is None
    found = DiskSpace.of([tmp_path, Path("/proc")], 1).lacking(0)  # which has no bytes at all
    assert found == "0 bytes are free, and 1 must be, the reserve included"
