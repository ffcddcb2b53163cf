"""Whatever comes in as a snapshot: the files that were sent are ready, or nothing is."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import google_crc32c
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.errors import SnapshotDamaged
from feeds.replication.base import LogPosition
from feeds.replication.snapshots import (
    Chunk,
    Manifest,
    SnapshotFile,
    SnapshotReceiver,
    recover_install,
)

SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None
OLD = {"CURRENT": b"old", "000001.sst": b"old rows"}

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
files = st.dictionaries(names, st.binary(max_size=40), max_size=4)


@contextmanager
def data_directory() -> Iterator[Path]:
    """A data directory with a store; what is beside it must stay as it is, too."""
    with tempfile.TemporaryDirectory(dir=SCRATCH, prefix="snapshot-") as root:
        data = Path(root) / "data"
        (data / "store").mkdir(parents=True)
        for name, content in OLD.items():
            (data / "store" / name).write_bytes(content)
        yield data
        assert OLD == read(data / "store")
        assert [path.name for path in Path(root).iterdir()] == ["data"]


def read(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def manifest_of(sent: dict[str, bytes]) -> Manifest:
    return Manifest(
        1,
        7,
        2,
        tuple(
            SnapshotFile(name, len(content), google_crc32c.value(content))
            for name, content in sorted(sent.items())
        ),
    )


@st.composite
def pieces_of(draw: st.DrawFn, sent: dict[str, bytes]) -> list[Chunk]:
    """The files in order, each cut wherever."""
    pieces = []
    for number, (_, content) in enumerate(sorted(sent.items())):
        cuts = draw(st.sets(st.integers(0, len(content)), max_size=4)) | {0, len(content)}
        for start, stop in pairwise(sorted(cuts)):
            pieces.append(Chunk(number, start, content[start:stop]))
    return pieces


def receive(data: Path, manifest: Manifest, pieces: list[Chunk]) -> dict[str, bytes] | None:
    """What is ready then; None where it was refused, and then there must be nothing."""
    receiver = None
    try:
        receiver = SnapshotReceiver(data, manifest)
        for piece in pieces:
            receiver.add(piece)
        return read(receiver.finish() / "store")
    except SnapshotDamaged:
        assert not (data / "snapshot.ready").exists()
        return None
    finally:
        if receiver is not None:
            receiver.abandon()
        assert not (data / "snapshot.part").exists()


@given(files, st.data())
def test_files_come_whole_however_they_are_cut(
    sent: dict[str, bytes], choices: st.DataObject
) -> None:
    with data_directory() as data:
        assert sent == receive(data, manifest_of(sent), choices.draw(pieces_of(sent)))


@given(files, st.data())
def test_cut_off_anywhere_nothing_is_ready(sent: dict[str, bytes], choices: st.DataObject) -> None:
    pieces = choices.draw(pieces_of(sent))
    if not pieces:
        return
    kept = pieces[: choices.draw(st.integers(0, len(pieces) - 1))]
    with data_directory() as data:
        with pytest.raises(SnapshotDamaged, match="a snapshot ended with file"):
            finish(SnapshotReceiver(data, manifest_of(sent)), kept)
        assert not recover_install(data)
        assert ["store"] == [path.name for path in data.iterdir()]


def finish(receiver: SnapshotReceiver, pieces: list[Chunk]) -> None:
    try:
        for piece in pieces:
            receiver.add(piece)
        receiver.finish()
    finally:
        receiver.abandon()


@given(files, st.data())
def test_flipped_byte_anywhere_is_found(sent: dict[str, bytes], choices: st.DataObject) -> None:
    pieces = choices.draw(pieces_of(sent))
    if not pieces:
        return
    place = choices.draw(st.integers(0, len(pieces) - 1))
    content = bytearray(pieces[place].data)
    content[choices.draw(st.integers(0, len(content) - 1))] ^= choices.draw(st.integers(1, 255))
    pieces[place] = msgspec.structs.replace(pieces[place], data=bytes(content))
    with data_directory() as data:
        with pytest.raises(SnapshotDamaged, match=r"the checksum of .* is wrong"):
            finish(SnapshotReceiver(data, manifest_of(sent)), pieces)
        assert not (data / "snapshot.ready").exists()


@given(files, st.data())
def test_other_order_repeats_and_gaps_bring_the_files_or_nothing(
    sent: dict[str, bytes], choices: st.DataObject
) -> None:
    pieces = choices.draw(pieces_of(sent))
    if not pieces:
        return
    shuffled = choices.draw(st.lists(st.sampled_from(pieces), max_size=2 * len(pieces)))
    with data_directory() as data:
        assert receive(data, manifest_of(sent), shuffled) in (None, sent)


@given(files, st.lists(st.builds(Chunk, st.integers(-2, 5), st.integers(-2, 50), st.binary())))
def test_strange_pieces_bring_the_files_or_nothing(
    sent: dict[str, bytes], pieces: list[Chunk]
) -> None:
    with data_directory() as data:
        assert receive(data, manifest_of(sent), pieces) in (None, sent)


@given(files, st.integers(0, 3), st.binary(min_size=1, max_size=5), st.data())
def test_more_than_was_announced_is_refused_as_soon_as_it_comes(
    sent: dict[str, bytes], number: int, more: bytes, choices: st.DataObject
) -> None:
    pieces = choices.draw(pieces_of(sent))
    number = min(number, len(sent))
    ahead = [piece for piece in pieces if piece.file <= number]
    size = sum(len(piece.data) for piece in pieces if piece.file == number)
    with data_directory() as data:
        receiver = SnapshotReceiver(data, manifest_of(sent))
        for piece in ahead:
            receiver.add(piece)
        with pytest.raises(SnapshotDamaged, match="out of place"):
            receiver.add(Chunk(number, size, more))
        receiver.abandon()


@given(
    st.lists(
        st.text(max_size=12)
        | st.sampled_from(["..", "../a", "a/../../b", "/etc/passwd", "a\0b", "a/b", "~", ".x"]),
        max_size=3,
    )
)
def test_names_never_lead_out_of_the_directory(strange: list[str]) -> None:
    """Also `data_directory` looks at what lies beside it."""
    manifest = Manifest(
        1, 7, 2, tuple(SnapshotFile(name, 1, google_crc32c.value(b"x")) for name in strange)
    )
    pieces = [Chunk(number, 0, b"x") for number in range(len(strange))]
    with data_directory() as data:
        found = receive(data, manifest, pieces)
        assert found is None or found.keys() == set(strange)
        if any("/" in name or name.startswith(".") or not name.isascii() for name in strange):
            assert found is None


@given(st.binary(max_size=100), files)
def test_manifest_of_other_bytes_is_refused(noise: bytes, sent: dict[str, bytes]) -> None:
    encoded = msgspec.msgpack.encode(manifest_of(sent))
    assert msgspec.msgpack.decode(encoded, type=Manifest).position == LogPosition(7, 2)
    for data in (noise, encoded[:-1], encoded + b"x", encoded[:3] + noise + encoded[3:]):
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            found = msgspec.msgpack.decode(data, type=Manifest)
            assert found.bytes >= 0


@given(files, files, st.data())
def test_what_is_left_of_one_snapshot_is_not_mixed_with_the_next(
    first: dict[str, bytes], second: dict[str, bytes], choices: st.DataObject
) -> None:
    """The process ends while one comes in; another one comes after the restart."""
    pieces = choices.draw(pieces_of(first))
    with data_directory() as data:
        receiver = SnapshotReceiver(data, manifest_of(first))
        for piece in pieces[: choices.draw(st.integers(0, len(pieces)))]:
            receiver.add(piece)
        shutil.copytree(data / "snapshot.part", data / "snapshot.ready")  # as of an older release
        receiver.abandon()
        assert second == receive(data, manifest_of(second), choices.draw(pieces_of(second)))
