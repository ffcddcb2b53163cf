"""Snapshots: they come whole or not at all, and take the store's place whole or not at all."""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.errors import SnapshotDamaged, StorageError
from feeds.replication import snapshots
from feeds.replication.base import LogPosition
from feeds.replication.snapshots import (
    Chunk,
    Manifest,
    SnapshotFile,
    SnapshotReceiver,
    begin_install,
    chunks,
    describe,
    finish_install,
    recover_install,
    verify_files,
)

AT = LogPosition(7, 2)
FILES = {
    "000009.sst": Random(1).randbytes(600_000),
    "CURRENT": b"MANIFEST-000005\n",
    "EMPTY": b"",
    "LAST": b"",
    "MANIFEST-000005": b"m" * 100,
}


class Crash(BaseException):
    """The process ends here; nothing of ours catches it."""


def make(directory: Path, files: dict[str, bytes]) -> Path:
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def read(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def sent(tmp_path: Path) -> tuple[Manifest, list[Chunk]]:
    source = make(tmp_path / "source", FILES)
    manifest = describe(source, AT)
    return manifest, list(chunks(source, manifest))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with a store and a log of two segments and a vote."""
    make(tmp_path / "data" / "store", {"CURRENT": b"old", "000001.sst": b"old rows"})
    make(tmp_path / "data" / "log", {"1.log": b"a", "2.log": b"b", "hard_state": b"vote"})
    return tmp_path / "data"


def receive(data: Path, manifest: Manifest, pieces: list[Chunk]) -> None:
    receiver = SnapshotReceiver(data, manifest)
    try:
        for piece in pieces:
            receiver.add(piece)
        receiver.finish()
    finally:
        receiver.abandon()


def test_what_is_received_is_what_was_sent(data: Path, sent: tuple[Manifest, list[Chunk]]) -> None:
    manifest, pieces = sent
    assert manifest.position == AT
    assert manifest.bytes == sum(len(content) for content in FILES.values())
    receive(data, manifest, pieces)
    assert read(data / "snapshot.ready" / "store") == FILES


def test_manifest_survives_the_wire(sent: tuple[Manifest, list[Chunk]]) -> None:
    encoded = msgspec.msgpack.encode(sent[0])
    assert msgspec.msgpack.decode(encoded, type=Manifest) == sent[0]


def test_piece_that_comes_again_changes_nothing(
    data: Path, sent: tuple[Manifest, list[Chunk]]
) -> None:
    manifest, pieces = sent
    again = [piece for place in range(len(pieces)) for piece in pieces[: place + 1]]
    receive(data, manifest, again)
    assert read(data / "snapshot.ready" / "store") == FILES


@pytest.mark.parametrize(
    "change",
    [
        lambda pieces: pieces[1:],
        lambda pieces: [pieces[0], *pieces[2:]],
        lambda pieces: [pieces[1], pieces[0], *pieces[2:]],
        lambda pieces: [Chunk(0, 0, pieces[0].data + b"x" * 600_000)],
        lambda pieces: [*pieces[:0], Chunk(0, 0, b"")],
        lambda pieces: [*pieces[:0], Chunk(-1, 0, b"x")],
        lambda pieces: [*pieces[:0], Chunk(99, 0, b"x")],
        lambda pieces: [*pieces[:0], Chunk(0, -1, b"x")],
        lambda pieces: [*pieces, Chunk(5, 0, b"x")],
        lambda pieces: [pieces[0], Chunk(0, 10, pieces[1].data)],
    ],
)
def test_piece_out_of_place_is_refused(
    data: Path,
    sent: tuple[Manifest, list[Chunk]],
    change: Callable[[list[Chunk]], list[Chunk]],
) -> None:
    with pytest.raises(SnapshotDamaged, match="out of place"):
        receive(data, sent[0], change(sent[1]))
    assert not (data / "snapshot.ready").exists()


def test_snapshot_that_was_cut_off_is_none(data: Path, sent: tuple[Manifest, list[Chunk]]) -> None:
    before = read(data / "store")
    with pytest.raises(SnapshotDamaged, match="ended with file"):
        receive(data, sent[0], sent[1][:-1])
    assert not (data / "snapshot.ready").exists()
    assert not recover_install(data)
    assert not (data / "snapshot.part").exists()
    assert read(data / "store") == before


@given(st.data())
def test_flipped_bit_is_found(
    tmp_path_factory: pytest.TempPathFactory, choices: st.DataObject
) -> None:
    tmp_path = tmp_path_factory.mktemp("flip")
    source = make(tmp_path / "source", {"a": b"0123456789", "b": b"abcdef"})
    manifest = describe(source, AT)
    pieces = list(chunks(source, manifest))
    place = choices.draw(st.integers(0, len(pieces) - 1))
    content = bytearray(pieces[place].data)
    bit = choices.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    pieces[place] = msgspec.structs.replace(pieces[place], data=bytes(content))
    (tmp_path / "data").mkdir()
    with pytest.raises(SnapshotDamaged, match="checksum"):
        receive(tmp_path / "data", manifest, pieces)
    assert not (tmp_path / "data" / "snapshot.ready").exists()
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(
    "name", ["../a", "/etc/passwd", "a/b", "", ".", "..", ".hidden", "a\0", "ä", "x" * 102]
)
def test_name_that_no_store_has_is_refused(data: Path, name: str) -> None:
    manifest = Manifest(1, 7, 2, (SnapshotFile(name, 1, 0),))
    with pytest.raises(SnapshotDamaged):
        SnapshotReceiver(data, manifest)
    with pytest.raises(SnapshotDamaged):
        list(verify_files(data, manifest))
    assert not (data / "snapshot.part").exists()


def test_name_twice_a_strange_version_and_too_much_are_refused(data: Path) -> None:
    file = SnapshotFile("a", 2**39 + 1, 0)
    for manifest in (
        Manifest(1, 7, 2, (SnapshotFile("a", 1, 0), SnapshotFile("a", 1, 0))),
        Manifest(2, 7, 2, ()),
        Manifest(1, 7, 2, (file, msgspec.structs.replace(file, name="b"))),
    ):
        with pytest.raises(SnapshotDamaged):
            SnapshotReceiver(data, manifest)
    too_many = Manifest(1, 7, 2, (SnapshotFile("a", 1, 0),) * (snapshots.FILES_MAX + 1))
    with pytest.raises(msgspec.ValidationError, match="length"):
        msgspec.msgpack.decode(msgspec.msgpack.encode(too_many), type=Manifest)


def test_abandoned_snapshot_leaves_nothing(data: Path, sent: tuple[Manifest, list[Chunk]]) -> None:
    receiver = SnapshotReceiver(data, sent[0])
    receiver.add(sent[1][0])
    receiver.abandon()
    assert sorted(path.name for path in data.iterdir()) == ["log", "store"]


def test_nothing_is_removed_where_no_snapshot_is_ready(data: Path) -> None:
    before = read(data / "store")
    with pytest.raises(SnapshotDamaged, match="no snapshot is ready"):
        begin_install(data)
    assert not recover_install(data)
    assert read(data / "store") == before
    assert len(read(data / "log")) == 3


def test_directory_whose_store_and_snapshot_are_gone_is_not_begun_anew(
    data: Path, sent: tuple[Manifest, list[Chunk]]
) -> None:
    receive(data, *sent)
    begin_install(data)
    shutil.rmtree(data / "store")
    with pytest.raises(SnapshotDamaged, match="--join"):
        recover_install(data)
    assert len(read(data / "log")) == 3


def test_full_disk_while_it_is_put_in_place_is_told(
    data: Path, sent: tuple[Manifest, list[Chunk]], monkeypatch: pytest.MonkeyPatch
) -> None:
    receive(data, *sent)
    begin_install(data)

    def fail(file: int) -> None:
        del file
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as fault:
        fault.setattr(os, "fsync", fail)
        with pytest.raises(StorageError, match="could not be put in place"):
            recover_install(data)
    assert recover_install(data)
    assert read(data / "store") == FILES


CHANGES = ("fsync", "rename", "unlink", "rmdir", "mkdir")


@contextmanager
def crash_before(step: int) -> Iterator[None]:
    """Each call that opens, changes or syncs a file is a step; the process ends before one."""
    left = step

    def stopping(original: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            nonlocal left
            if left == 0:
                raise Crash
            left -= 1
            return original(*args, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, stopping(getattr(os, name)))
        patch.setattr(io, "open", stopping(io.open))  # what pathlib opens files with
        yield


def crashes(step: int, action: Callable[[], object]) -> bool:
    """Whether the process ended within the action, before its `step`-th step."""
    try:
        with crash_before(step):
            action()
    except Crash:
        return True
    return False


def install(data: Path) -> None:
    """As a node does."""
    begin_install(data)
    for path in sorted((data / "log").glob("*.log"), reverse=True):
        path.unlink()
    finish_install(data)


OLD = {"CURRENT": b"old", "000001.sst": b"old rows"}


def is_new(data: Path) -> bool:
    """Whether store and log are the snapshot's; fails where they are a mix."""
    store, log = read(data / "store"), read(data / "log")
    assert log.pop("hard_state") == b"vote"
    assert (store, log) in ((FILES, {}), (OLD, {"1.log": b"a", "2.log": b"b"}))
    assert sorted(path.name for path in data.iterdir()) == ["log", "store"]
    return store == FILES


def test_crash_at_any_step_leaves_the_old_state_or_the_new_one(
    data: Path, sent: tuple[Manifest, list[Chunk]], tmp_path: Path
) -> None:
    receive(data, *sent)
    outcomes, step, ended = [], 0, True
    while ended:
        copy = shutil.copytree(data, tmp_path / str(step))
        ended = crashes(step, partial(install, copy))
        again = 0
        while crashes(again, partial(recover_install, copy)):
            again += 1
        outcomes.append(is_new(copy))
        step += 1
    assert step > 10
    assert outcomes == sorted(outcomes), "once it is new it stays new"
    assert [outcomes[0], outcomes[-1]] == [False, True]


def test_crash_while_it_comes_in_leaves_the_old_state(
    data: Path, sent: tuple[Manifest, list[Chunk]], tmp_path: Path
) -> None:
    step, ended = 0, True
    while ended:
        copy = shutil.copytree(data, tmp_path / str(step))
        ended = crashes(step, partial(receive, copy, *sent))
        assert not recover_install(copy)
        assert not is_new(copy)
        step += 1
    assert step > 5
