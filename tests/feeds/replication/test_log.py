import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.errors import (
    FormatUnsupported,
    LimitExceeded,
    LogDamaged,
    ReplicaStopped,
    StorageError,
)
from feeds.replication import segment
from feeds.replication.config import LogConfig
from feeds.replication.log import SegmentLog
from feeds.replication.segment import (
    HEADER_BYTES,
    RECORD_BYTES,
    SegmentHeader,
    SegmentReader,
    encode_record,
)

SMALL = LogConfig(segment_bytes_max=200, record_bytes_max=1_000)
COMMANDS = [b"a" * 10, b"", b"c" * 100, b"d", b"e" * 30]


def fixed_salt() -> int:
    return 7


def filled(
    directory: Path, commands: list[bytes], config: LogConfig | None = None, applied: int = 0
) -> list[Path]:
    log = SegmentLog.open(directory, applied, config, fixed_salt)
    for command in commands:
        log.append(1, [command])
        log.sync()
    log.close()
    return sorted(directory.iterdir())


def read(directory: Path, applied: int = 0) -> list[bytes]:
    log = SegmentLog.open(directory, applied)
    try:
        return [record.command for record in log.records(0)]
    finally:
        log.close()


def offsets(commands: list[bytes]) -> list[int]:
    """Where each record begins in one segment, and where the last ends."""
    places = [HEADER_BYTES]
    for command in commands:
        places.append(places[-1] + RECORD_BYTES + len(command))
    return places


@given(st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=4), max_size=8))
@settings(max_examples=40, deadline=None)
def test_what_was_appended_is_read_back_after_a_restart(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[bytes]]
) -> None:
    directory = tmp_path_factory.mktemp("log")
    log = SegmentLog.open(directory, config=SMALL)
    expected = []
    for term, group in enumerate(groups, 1):
        first = log.append(term, group)
        log.sync()
        expected += [(first + n, term, command) for n, command in enumerate(group)]
    log.close()
    again = SegmentLog.open(directory, config=SMALL)
    found = [(r.index, r.term, r.command) for r in again.records(0)]
    assert expected == found
    assert list(range(1, len(expected) + 1)) == [index for index, _, _ in found]
    assert (len(expected), len(groups)) == (again.last_index, again.term)
    assert again.size_bytes == sum(path.stat().st_size for path in directory.iterdir())
    again.close()


def test_records_behind_an_index_are_read_alone(tmp_path: Path) -> None:
    filled(tmp_path, COMMANDS, SMALL)
    log = SegmentLog.open(tmp_path, config=SMALL)
    for after in range(len(COMMANDS) + 1):
        assert COMMANDS[after:] == [record.command for record in log.records(after)]
    log.close()


def test_segments_are_named_by_their_first_index(tmp_path: Path) -> None:
    paths = filled(tmp_path, [b"x" * 100] * 5, SMALL)
    assert [path.name for path in paths] == [
        "00000000000000000001.log",
        "00000000000000000003.log",
        "00000000000000000005.log",
    ]


def test_appending_goes_on_after_a_restart(tmp_path: Path) -> None:
    filled(tmp_path, COMMANDS, SMALL)
    filled(tmp_path, COMMANDS, SMALL)
    assert COMMANDS * 2 == read(tmp_path)


def test_command_above_the_limit_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    log = SegmentLog.open(tmp_path, config=SMALL)
    with pytest.raises(LimitExceeded, match="record_bytes_max"):
        log.append(1, [b"fits", b"x" * 1_001])
    assert log.append(1, [b"x" * 1_000]) == 1
    log.close()


def test_compaction_drops_whole_segments_and_never_the_last(tmp_path: Path) -> None:
    commands = [b"%d" % n + b"x" * 100 for n in range(7)]
    filled(tmp_path, commands, SMALL)
    log = SegmentLog.open(tmp_path, config=SMALL)
    assert log.compact(1) == 0
    assert log.compact(5) == 2
    assert log.first_index == 5
    assert log.compact(10**9) == 1
    assert log.append(1, [b"more"]) == 8
    log.close()
    assert [*commands[6:], b"more"] == read(tmp_path, applied=7)


def test_empty_log_begins_behind_what_is_applied(tmp_path: Path) -> None:
    filled(tmp_path, [b"a", b"b"], applied=41)
    log = SegmentLog.open(tmp_path, 41)
    assert [42, 43] == [record.index for record in log.records(0)]
    log.close()


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_torn_tail_is_cut_wherever_it_is_torn(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("log")
    (path,) = filled(directory, COMMANDS)
    begin, end = offsets(COMMANDS)[-2:]
    os.truncate(path, data.draw(st.integers(begin, end - 1), label="size"))
    with path.open("ab") as file:  # what a file system may leave behind the tear
        file.write(bytes(data.draw(st.sampled_from([0, 1, 7, 24, 4096]), label="zeros")))
    assert COMMANDS[:-1] == read(directory)
    assert begin == path.stat().st_size
    filled(directory, [b"next"])
    assert [*COMMANDS[:-1], b"next"] == read(directory)


def test_torn_tail_is_cut_at_every_byte(tmp_path: Path) -> None:
    (path,) = filled(tmp_path, COMMANDS)
    whole = path.read_bytes()
    begin, end = offsets(COMMANDS)[-2:]
    for size in range(begin, end):
        path.write_bytes(whole[:size])
        assert COMMANDS[:-1] == read(tmp_path)


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_flipped_bit_before_the_last_record_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("log")
    (path,) = filled(directory, COMMANDS)
    place = data.draw(st.integers(0, offsets(COMMANDS)[-2] - 1), label="place")
    bit = data.draw(st.integers(0, 7), label="bit")
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1 << bit
    path.write_bytes(damaged)
    with pytest.raises(LogDamaged, match="is damaged at offset") as refused:
        read(directory)
    begin = max([0, *(offset for offset in offsets(COMMANDS) if offset <= place)])
    assert f"{path} is damaged at offset {begin}:" in str(refused.value)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("zeros", [1, 24, 512, 4096])
def test_zeroed_page_in_the_middle_is_refused(tmp_path: Path, zeros: int) -> None:
    commands = [b"%04d" % n * 200 for n in range(12)]
    (path,) = filled(tmp_path, commands)
    damaged = bytearray(path.read_bytes())
    damaged[4096 : 4096 + zeros] = bytes(zeros)
    path.write_bytes(damaged)
    with pytest.raises(LogDamaged, match="and a sound record at"):
        read(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 50, 10**6, 0xFFFF_FFFF])
def test_damaged_length_in_the_middle_is_refused_and_not_cut(tmp_path: Path, length: int) -> None:
    (path,) = filled(tmp_path, COMMANDS)
    damaged = bytearray(path.read_bytes())
    begin = offsets(COMMANDS)[2]
    damaged[begin : begin + 4] = length.to_bytes(4)
    path.write_bytes(damaged)
    with pytest.raises(LogDamaged, match=f"offset {begin}: .* and a sound record at"):
        read(tmp_path)
    assert path.read_bytes() == damaged


def test_flipped_byte_in_an_earlier_segment_is_refused_even_in_its_last_record(
    tmp_path: Path,
) -> None:
    first, *_ = filled(tmp_path, [b"x" * 100] * 5, SMALL)
    damaged = bytearray(first.read_bytes())
    damaged[-1] ^= 1
    first.write_bytes(damaged)
    with pytest.raises(LogDamaged, match=f"{first.name} .* newer segments follow"):
        read(tmp_path)


def test_damaged_last_record_is_refused_if_it_was_applied(tmp_path: Path) -> None:
    (path,) = filled(tmp_path, COMMANDS)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(LogDamaged, match="the store has applied this record"):
        read(tmp_path, applied=5)
    assert COMMANDS[:-1] == read(tmp_path, applied=4)


def test_record_out_of_place_is_refused(tmp_path: Path) -> None:
    (path,) = filled(tmp_path, [b"a", b"b"])
    log = SegmentLog.open(tmp_path)
    seed = log._segments[0].header.seed
    log.close()
    with path.open("ab") as file:
        file.write(encode_record(seed, 2, 1, 1, b"again"))
    with pytest.raises(LogDamaged, match="index 2, where 3 belongs"):
        read(tmp_path)


def test_command_that_holds_a_record_of_another_log_does_not_stop_the_cut(tmp_path: Path) -> None:
    foreign = encode_record(12345, 3, 1, 2, b"forged")
    (path,) = filled(tmp_path, [b"a", foreign * 3])
    os.truncate(path, path.stat().st_size - 1)
    assert [b"a"] == read(tmp_path)


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1])
def test_segment_whose_creation_was_cut_short_is_dropped(tmp_path: Path, size: int) -> None:
    filled(tmp_path, COMMANDS)
    unborn = tmp_path / "00000000000000000006.log"
    unborn.write_bytes(bytes(size))
    assert COMMANDS == read(tmp_path)
    assert not unborn.exists()


def remove_middle(paths: list[Path]) -> None:
    paths[1].unlink()


def remove_first(paths: list[Path]) -> None:
    paths[0].unlink()


def rename_first(paths: list[Path]) -> None:
    paths[0].rename(paths[0].with_name("00000000000000000000.log"))


def rename_last(paths: list[Path]) -> None:
    paths[-1].rename(paths[-1].with_name("last.log"))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (remove_middle, "the record 5, where 3 belongs"),
        (remove_first, "begins with 3, but the store has applied only 0"),
        (rename_first, "a segment that begins with 1"),
        (rename_last, "is no name of a log segment"),
    ],
)
def test_missing_or_renamed_segment_is_refused(
    tmp_path: Path, fault: Callable[[list[Path]], None], words: str
) -> None:
    fault(filled(tmp_path, [b"x" * 100] * 5, SMALL))
    with pytest.raises(LogDamaged, match=words):
        read(tmp_path)


def test_log_that_ends_before_what_is_applied_is_refused(tmp_path: Path) -> None:
    filled(tmp_path, [b"a", b"b"])
    with pytest.raises(LogDamaged, match="ends with 2, but the store has applied 3"):
        read(tmp_path, applied=3)


def test_segment_of_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        later.setattr(segment, "FORMAT_VERSION", 3)
        filled(tmp_path, COMMANDS)
    with pytest.raises(FormatUnsupported, match="format 3; this release reads formats 1 to 2"):
        read(tmp_path)


def test_directory_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be opened"):
        SegmentLog.open(tmp_path / "file")


def test_partial_write_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, [b"a"])
    log = SegmentLog.open(tmp_path)
    (path,) = tmp_path.iterdir()
    size = path.stat().st_size
    write = os.write

    def half_then_full(file: int, data: memoryview) -> int:
        if len(data) <= 50:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:50])

    with monkeypatch.context() as fault:
        fault.setattr(segment.os, "write", half_then_full)
        with pytest.raises(OSError, match="No space left"):
            log.append(1, [b"b" * 70])
    assert path.stat().st_size == size
    assert log.broken is None
    assert log.append(1, [b"c"]) == 2
    log.sync()
    log.close()
    assert [b"a", b"c"] == read(tmp_path)


def test_failed_creation_of_a_segment_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SegmentLog.open(tmp_path, config=SMALL)
    log.append(1, [b"x" * 300])
    log.sync()

    def full(file: int, data: memoryview) -> int:
        del file, data
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as fault:
        fault.setattr(segment.os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            log.append(1, [b"y"])
    assert len(list(tmp_path.iterdir())) == 1
    assert log.append(1, [b"y"]) == 2
    log.close()
    assert [b"x" * 300, b"y"] == read(tmp_path)


def test_sync_beside_the_writer_covers_what_was_appended_before_it(tmp_path: Path) -> None:
    log = SegmentLog.open(tmp_path)
    log.append(1, [b"a", b"b"])
    pending = log.begin_sync()
    assert pending is not None
    log.append(1, [b"c"])
    assert log.durable_index == 0
    pending.run()
    log.end_sync(pending)
    assert (log.durable_index, log.last_index) == (2, 3)
    log.sync()
    assert log.durable_index == 3
    assert log.begin_sync() is None
    log.close()


def test_sync_that_runs_while_the_log_is_truncated_says_nothing_of_what_comes_after(
    tmp_path: Path,
) -> None:
    log = SegmentLog.open(tmp_path)
    log.append(1, [b"a", b"b", b"c"])
    pending = log.begin_sync()
    assert pending is not None
    log.truncate_from(2)
    log.append(2, [b"B", b"C"])
    pending.run()
    log.end_sync(pending)
    assert (log.durable_index, log.last_index) == (1, 3)
    log.close()


def test_sync_that_runs_while_a_segment_is_filled_still_ends(tmp_path: Path) -> None:
    log = SegmentLog.open(tmp_path, 0, SMALL)
    log.append(1, [b"a" * 190])
    pending = log.begin_sync()
    assert pending is not None
    log.append(1, [b"b"])  # in the next segment: the one before was synced for it
    assert log.durable_index == 1
    pending.run()
    log.end_sync(pending)
    assert (log.durable_index, log.last_index) == (1, 2)
    log.close()


def test_failed_sync_is_never_pretended_to_have_worked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SegmentLog.open(tmp_path)
    log.append(1, [b"durable"])
    log.sync()
    log.append(1, [b"lost"])

    def broken_disk(file: int) -> None:
        del file
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as fault:
        fault.setattr(os, "fdatasync", broken_disk)
        with pytest.raises(OSError, match="Input/output error"):
            log.sync()
    for write in (log.sync, lambda: log.append(1, [b"more"])):
        with pytest.raises(ReplicaStopped, match="could not be synced"):
            write()
    log.close()
    assert [b"durable"] == read(tmp_path)


@contextmanager
def directory_sync_fails(number: int) -> Iterator[None]:
    """Names in a directory cannot be made durable."""

    def fail(file: int) -> None:
        del file
        raise OSError(number, os.strerror(number))

    with pytest.MonkeyPatch.context() as fault:
        fault.setattr(os, "fsync", fail)
        yield


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_segment_whose_name_is_not_durable_is_not_used(tmp_path: Path, number: int) -> None:
    log = SegmentLog.open(tmp_path, config=SMALL)
    log.append(1, [b"x" * 300])
    log.sync()
    with directory_sync_fails(number), pytest.raises(OSError, match=os.strerror(number)):
        log.append(1, [b"y"])
    assert (1, None) == (log.last_index, log.broken)
    assert 1 == len(list(tmp_path.iterdir()))
    assert 2 == log.append(1, [b"z"])
    log.close()
    assert [b"x" * 300, b"z"] == read(tmp_path)


def test_log_directory_whose_name_is_not_durable_is_not_used(tmp_path: Path) -> None:
    with directory_sync_fails(errno.EIO), pytest.raises(StorageError, match="cannot be opened"):
        SegmentLog.open(tmp_path / "log")
    log = SegmentLog.open(tmp_path / "log")
    assert 1 == log.append(1, [b"x"])
    log.close()


def test_compaction_that_is_not_durable_leaves_a_log_without_a_gap(tmp_path: Path) -> None:
    log = SegmentLog.open(tmp_path, config=SMALL)
    for number in range(6):
        log.append(1, [b"%d" % number * 300])
        log.sync()
    with directory_sync_fails(errno.EIO), pytest.raises(OSError, match="Input/output error"):
        log.compact(3)
    assert 2 == log.first_index
    assert 7 == log.append(1, [b"more"])
    log.close()
    log = SegmentLog.open(tmp_path, 3)
    assert [2, 3, 4, 5, 6, 7] == [record.index for record in log.records(0)]
    log.close()


def test_closed_log_refuses_writes(tmp_path: Path) -> None:
    log = SegmentLog.open(tmp_path)
    log.close()
    log.close()
    with pytest.raises(ReplicaStopped, match="closed"):
        log.append(1, [b"x"])


@given(
    st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=90)), max_size=12),
    st.integers(0, 2_000),
    st.sampled_from(["whole", "cut", "flipped", "repeated"]),
    st.integers(1, 400),
)
@settings(max_examples=200, deadline=None)
def test_an_index_read_in_pieces_is_that_of_the_records_one_by_one(
    tmp_path_factory: pytest.TempPathFactory,
    commands: list[tuple[int, bytes]],
    place: int,
    fault: str,
    piece_bytes: int,
) -> None:
    """Also up to a fault, and with the same words for it, however long the pieces are."""
    header, data = SegmentHeader.create(7, 5)
    for index, (term, command) in enumerate(commands, 5):
        data += encode_record(header.seed, index, term, index - 1, command)
    at = HEADER_BYTES + place % (len(data) - HEADER_BYTES + 1)
    if fault == "cut":
        data = data[:at]
    elif fault == "flipped" and at < len(data):
        data = data[:at] + bytes((data[at] ^ 4,)) + data[at + 1 :]
    elif fault == "repeated":
        data += data[HEADER_BYTES:]
    path = tmp_path_factory.mktemp("segment") / f"{5:020d}.log"
    path.write_bytes(data)
    plain, in_pieces = SegmentReader(path), SegmentReader(path)
    expected = []
    offset = plain.offset
    for record in plain:
        expected.append((record.index, record.term, offset, plain.offset))
        offset = plain.offset
    found: list[tuple[int, int, int, int]] = []
    for start, terms, ends in in_pieces.pieces(piece_bytes):
        begin = start
        for term, end in zip(terms, ends, strict=True):
            found.append((5 + len(found), term, begin, start + end))
            begin = start + end
    assert expected == found
    assert (plain.offset, plain.next_index) == (in_pieces.offset, in_pieces.next_index)
    assert (plain.problem, plain.misplaced) == (in_pieces.problem, in_pieces.misplaced)
