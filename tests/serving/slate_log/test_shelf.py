"""A tenant's log stays within its bytes and its age, and the oldest leaves first."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from feeds.model import TenantId
from serving.slate_log.config import SlateRules
from serving.slate_log.segments import SegmentDisk, SegmentReader, key_of
from serving.slate_log.shelf import (
    SEGMENTS_MAX,
    find_slate,
    make_room,
    remove_old,
    remove_over,
    segment_path,
    segments_of,
    tenants_of,
)
from serving.slate_log.testing import ACME, entry
from serving.slate_log.writer import SPAN_US, TenantShelf

SEGMENT_BYTES = 1_000
STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),  # which process appends
        st.lists(st.integers(0, 900), max_size=4),  # how long its records are
        st.integers(0, SPAN_US // 2),  # how much later
        st.booleans(),  # whether it was started again
    ),
    max_size=30,
)


def total(home: Path) -> int:
    return sum(path.stat().st_size for path in home.glob("*.slates"))


@given(STEPS, st.integers(4, 9))
def test_no_more_bytes_than_allowed_and_the_newest_stay(
    steps: list[tuple[int, list[int], int, bool]], segments: int
) -> None:
    rules = SlateRules(bytes_max=segments * SEGMENT_BYTES)
    with TemporaryDirectory() as directory:
        home, now_us, number = Path(directory) / "acme", 0, 0
        made = {slot: TenantShelf(home, slot, SEGMENT_BYTES, SegmentDisk()) for slot in range(3)}
        appended: list[bytes] = []
        for slot, sizes, later_us, again in steps:
            now_us += later_us
            if again:
                made[slot] = TenantShelf(home, slot, SEGMENT_BYTES, SegmentDisk())
            batch = []
            for size in sizes:
                content = number.to_bytes(4) + bytes(size)
                batch.append((key_of(str(number)), content))
                appended.append(content)
                number += 1
            made[slot].append(batch, rules, now_us)
            assert total(home) <= rules.bytes_max
        found = [
            int.from_bytes(record.content[:4])
            for segment in segments_of(home)
            for record in SegmentReader(segment.path)
        ]
        assert sorted(set(found)) == sorted(found)
        if appended:
            assert number - 1 in found
        if sum(len(content) + 40 for content in appended) < SEGMENT_BYTES:
            assert sorted(found) == list(range(number))


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    shelf = TenantShelf(tmp_path, 3, SEGMENT_BYTES, SegmentDisk())
    batch = [(key_of(str(n)), bytes([n]) * 100) for n in range(40)]
    for start in range(0, 40, 7):
        shelf.append(batch[start : start + 7], SlateRules(), 5)
    found = [
        (record.key, record.content)
        for segment in segments_of(tmp_path)
        for record in SegmentReader(segment.path)
    ]
    assert found == batch
    assert shelf.written == (40, total(tmp_path) - 24 * len(segments_of(tmp_path)))
    assert max(segment.bytes for segment in segments_of(tmp_path)) <= SEGMENT_BYTES


def test_a_segment_that_another_process_removed_is_begun_anew(tmp_path: Path) -> None:
    shelf = TenantShelf(tmp_path, 1, SEGMENT_BYTES, SegmentDisk())
    shelf.append([entry("a", 2)], SlateRules(), 5)
    segments_of(tmp_path)[0].path.unlink()
    shelf.append([entry("b", 2)], SlateRules(), 6)
    records = [record for each in segments_of(tmp_path) for record in SegmentReader(each.path)]
    assert [record.key for record in records] == [key_of("b")]


def test_records_of_one_segment_span_an_hour_at_most(tmp_path: Path) -> None:
    shelf = TenantShelf(tmp_path, 1, SEGMENT_BYTES, SegmentDisk())
    for now_us in (0, SPAN_US - 1, SPAN_US, SPAN_US - 1):
        shelf.append([(key_of("a"), b"")], SlateRules(), now_us)
    assert [segment.start_us for segment in segments_of(tmp_path)] == [0, SPAN_US - 1, SPAN_US]


def test_the_oldest_leave_by_age(tmp_path: Path) -> None:
    for start_us in (1, 2, 3):
        segment_path(tmp_path, start_us, 0).write_bytes(b"x")
    remove_old(tmp_path, 3, SegmentDisk())
    assert [segment.start_us for segment in segments_of(tmp_path)] == [3]


def test_segments_are_bounded_by_number_too(tmp_path: Path) -> None:
    for start_us in range(SEGMENTS_MAX + 3):
        segment_path(tmp_path, start_us, 0).touch()
    make_room(tmp_path, 0, 1, 10**9, SegmentDisk())
    found = segments_of(tmp_path)
    assert (len(found), found[0].start_us) == (SEGMENTS_MAX - 1, 4)


def test_beyond_the_total_who_has_most_loses_its_oldest(tmp_path: Path) -> None:
    for tenant, sizes in {"big": (50, 40, 30), "small": (20,)}.items():
        (tmp_path / tenant).mkdir()
        for start_us, size in enumerate(sizes):
            segment_path(tmp_path / tenant, start_us, 0).write_bytes(bytes(size))
    remove_over(tmp_path, tenants_of(tmp_path), 100, SegmentDisk())
    assert [each.start_us for each in segments_of(tmp_path / "big")] == [1, 2]
    remove_over(tmp_path, tenants_of(tmp_path), 0, SegmentDisk())
    assert segments_of(tmp_path / "big") == segments_of(tmp_path / "small") == []


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "notes.txt").write_text("mine")
    (tmp_path / "Not A Tenant").mkdir()
    assert tenants_of(tmp_path) == [ACME]
    make_room(tmp_path / "acme", 0, 1, 1, SegmentDisk())
    assert (tmp_path / "acme" / "notes.txt").exists()


def test_a_slate_is_found_in_its_tenants_log_alone(tmp_path: Path) -> None:
    for slot, (tenant, name) in enumerate([("acme", "a"), ("acme", "b"), ("other", "c")]):
        shelf = TenantShelf(tmp_path / tenant, slot, 100_000, SegmentDisk())
        shelf.append([entry(name, tenant=tenant)], SlateRules(), slot)
    # what lies in another tenant's directory is not believed
    TenantShelf(tmp_path / "acme", 9, 100_000, SegmentDisk()).append(
        [entry("d", tenant="other")], SlateRules(), 9
    )

    def found(tenant: str, name: str) -> str | None:
        slate = find_slate(tmp_path, TenantId(tenant), name)
        return None if slate is None else slate.slate_id

    assert [found("acme", name) for name in "abcd"] == ["a", "b", None, None]
    assert [found("other", name) for name in "abcd"] == [None, None, "c", None]
    assert found("nobody", "a") is None
    assert find_slate(tmp_path, ACME, "a", changed_since_ns=2**62) is None
