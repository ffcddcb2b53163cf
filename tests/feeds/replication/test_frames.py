"""Frames: whatever way bytes come in, the same frames come out, and a length is judged first."""

import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.errors import InvalidInput
from feeds.replication.frames import HEADER_BYTES, FrameReader, frame

LIMIT = 64

contents = st.lists(st.binary(max_size=LIMIT), max_size=8)


@given(contents, st.data())
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    sent: list[bytes], choices: st.DataObject
) -> None:
    stream = b"".join(frame(content) for content in sent)
    cuts = sorted(choices.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader = FrameReader(LIMIT)
    got: list[bytes] = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += reader.feed(stream[start:stop])
        assert reader.waiting <= HEADER_BYTES + LIMIT
    assert (sent, 0) == (got, reader.waiting)


@given(contents, st.integers(0, LIMIT), st.data())
def test_half_a_frame_waits(sent: list[bytes], size: int, choices: st.DataObject) -> None:
    half = frame(bytes(size))[: choices.draw(st.integers(0, HEADER_BYTES + size - 1))]
    reader = FrameReader(LIMIT)
    assert sent == reader.feed(b"".join(map(frame, sent)) + half)
    assert len(half) == reader.waiting


@given(contents, st.integers(LIMIT + 1, 2**32 - 1), st.binary(max_size=100))
def test_length_beyond_the_limit_is_refused_before_its_content_came(
    sent: list[bytes], length: int, rest: bytes
) -> None:
    reader = FrameReader(LIMIT)
    with pytest.raises(InvalidInput, match=f"a frame of {length} bytes is announced, and 64 may"):
        reader.feed(b"".join(map(frame, sent)) + length.to_bytes(HEADER_BYTES) + rest)


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_random_bytes_are_frames_or_refused(pieces: list[bytes]) -> None:
    reader = FrameReader(LIMIT)
    with suppress(InvalidInput):
        for piece in pieces:
            assert all(len(content) <= LIMIT for content in reader.feed(piece))
            assert reader.waiting < HEADER_BYTES + LIMIT


def test_two_announced_gigabytes_cost_nothing() -> None:
    reader = FrameReader(2**20)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput):
            reader.feed((2**31).to_bytes(HEADER_BYTES) + bytes(1_000))
        reader = FrameReader(2**20)
        for _ in range(1_000):  # the longest that is taken, byte by byte and never whole
            reader.feed((2**20).to_bytes(HEADER_BYTES) if not reader.waiting else bytes(1_000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.waiting > 900_000
    assert peak < 4 * 2**20
