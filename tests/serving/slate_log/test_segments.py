"""What was appended is read back, whatever was torn or damaged; what is damaged never is."""

import os
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.errors import FormatUnsupported
from serving.slate_log.segments import (
    HEADER_BYTES,
    RECORD_BYTES,
    SegmentDisk,
    SegmentHeader,
    SegmentReader,
    find_record,
    frame,
    key_of,
)

SALT = b"saltsalt"
CONTENTS = st.lists(st.binary(max_size=40) | st.just(SALT * 3), max_size=8)


def segment(contents: list[bytes]) -> tuple[bytes, list[int]]:
    """A segment's bytes, and where each record begins."""
    header, data = SegmentHeader.create(SALT)
    begins = []
    for number, content in enumerate(contents):
        begins.append(len(data))
        data += frame(header, number, key_of(str(number)), content)
    return data, begins


def read(directory: Path, data: bytes) -> tuple[SegmentReader, list[tuple[int, bytes]]]:
    path = directory / "segment"
    path.write_bytes(data)
    reader = SegmentReader(path)
    return reader, [(record.number, record.content) for record in reader]


@given(CONTENTS, st.data())
def test_a_torn_tail_costs_what_is_torn_alone(contents: list[bytes], data: st.DataObject) -> None:
    whole, begins = segment(contents)
    cut = data.draw(st.integers(HEADER_BYTES, len(whole)))
    ends = [*begins[1:], len(whole)] if begins else []
    sound = [
        (number, content)
        for number, (content, end) in enumerate(zip(contents, ends, strict=True))
        if end <= cut
    ]
    with TemporaryDirectory() as directory:
        reader, found = read(Path(directory), whole[:cut])
    assert sound == found
    assert reader.lost == 0
    assert reader.torn_bytes == cut - max([HEADER_BYTES, *(end for end in ends if end <= cut)])


@given(CONTENTS.filter(len), st.data())
def test_a_damaged_record_is_skipped_and_counted(
    contents: list[bytes], data: st.DataObject
) -> None:
    whole, begins = segment(contents)
    place = data.draw(st.integers(HEADER_BYTES, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place] ^= data.draw(st.integers(1, 255))
    hit = max(number for number, begin in enumerate(begins) if begin <= place)
    with TemporaryDirectory() as directory:
        reader, found = read(Path(directory), bytes(flipped))
    assert [(n, c) for n, c in enumerate(contents) if n != hit] == found
    last = hit == len(contents) - 1
    assert reader.lost == (0 if last else 1)
    assert (reader.torn_bytes > 0) == last


@given(st.binary(max_size=200))
def test_what_is_no_segment_holds_nothing(data: bytes) -> None:
    with TemporaryDirectory() as directory:
        reader, found = read(Path(directory), data)
    assert reader.headless
    assert found == []


def test_another_format_is_told(tmp_path: Path) -> None:
    numbers = struct.pack(">8sI8s", b"HWSLATES", 2, SALT)
    data = numbers + struct.pack(">I", google_crc32c.value(numbers))
    with pytest.raises(FormatUnsupported, match="format 2"):
        read(tmp_path, data)


@given(CONTENTS, st.binary(max_size=30))
def test_a_record_is_found_by_its_key_alone(contents: list[bytes], tail: bytes) -> None:
    data, _ = segment([*contents, key_of("7") + key_of("99")])  # keys within a content are no keys
    with TemporaryDirectory() as directory:
        path = Path(directory) / "segment"
        path.write_bytes(data + tail)
        for number, content in enumerate(contents):
            assert find_record(path, key_of(str(number))) == content
        assert find_record(path, key_of("99")) is None


def test_a_key_across_windows_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [bytes([number]) * 50 for number in range(20)]
    (tmp_path / "segment").write_bytes(segment(contents)[0])
    for window in range(1, 64):
        monkeypatch.setattr("serving.slate_log.segments.WINDOW_BYTES", window)
        for number, content in enumerate(contents):
            assert find_record(tmp_path / "segment", key_of(str(number))) == content


class HalfDisk(SegmentDisk):
    """Writes a part, then has no space."""

    def write_all(self, file: int, data: bytes) -> None:
        os.write(file, data[: len(data) // 2])
        raise OSError(28, "No space left on device")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    whole, begins = segment([b"one", b"two"])
    SegmentDisk().create(path, whole[: begins[1]])
    with pytest.raises(OSError, match="No space"):
        HalfDisk().append(path, whole[begins[1] :])
    assert path.read_bytes() == whole[: begins[1]]
    SegmentDisk().append(path, whole[begins[1] :])
    assert path.read_bytes() == whole
    assert whole[begins[1] + RECORD_BYTES :] == b"two"
