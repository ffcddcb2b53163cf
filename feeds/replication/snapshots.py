"""Snapshots: a store's files as of one place in the log, checked, streamed, and put in its place.

A data directory holds, while one is coming in, `snapshot.part` (as far as it came) and then
`snapshot.ready` (whole, checked and durable). `INSTALL` says that the ready one is taking the
store's place: from then on the old store and the log behind it count no more, and whoever opens the
directory next finishes what was cut short. So a crash leaves the old state or the new one.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Protocol

import google_crc32c
import msgspec

from feeds.durable import sync_directory
from feeds.errors import SnapshotDamaged, StorageError
from feeds.replication.base import LogPosition

__all__ = [
    "Chunk",
    "Manifest",
    "SnapshotFile",
    "SnapshotReceiver",
    "SnapshotSource",
    "begin_install",
    "chunks",
    "describe",
    "finish_install",
    "recover_install",
    "verify_files",
]

MANIFEST_VERSION: Final = 1
CHUNK_BYTES: Final = 256 * 1024
"""Bytes of a file that are sent at once."""

FILES_MAX: Final = 100_000
SNAPSHOT_BYTES_MAX: Final = 2**40
"""What a snapshot may be at most: more is no snapshot of ours."""

_PART: Final = "snapshot.part"
_READY: Final = "snapshot.ready"
_MARKER: Final = "INSTALL"
_STORE: Final = "store"
_LOG: Final = "log"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")

Size = Annotated[int, msgspec.Meta(ge=0, le=SNAPSHOT_BYTES_MAX)]


class SnapshotFile(msgspec.Struct, frozen=True):
    """A file of a store, its length, and the CRC32C of its bytes."""

    name: Annotated[str, msgspec.Meta(max_length=120)]
    bytes: Size
    crc32c: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class Manifest(msgspec.Struct, frozen=True):
    """What a snapshot holds, and up to which entry of the log."""

    version: int
    index: Size
    term: Size
    files: Annotated[tuple[SnapshotFile, ...], msgspec.Meta(max_length=FILES_MAX)]

    @property
    def position(self) -> LogPosition:
        """The last entry that the snapshot's store had applied."""
        return LogPosition(self.index, self.term)

    @property
    def bytes(self) -> int:
        """Bytes of all its files."""
        return sum(file.bytes for file in self.files)


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """A piece of the file with this number in the manifest."""

    file: int
    offset: int
    data: bytes


def describe(directory: Path, position: LogPosition) -> Manifest:
    """The manifest of a directory of files; reads all of them. Raises OSError."""
    files = [
        SnapshotFile(path.name, path.stat().st_size, _checksum(path))
        for path in sorted(directory.iterdir())
        if path.is_file()
    ]
    return Manifest(MANIFEST_VERSION, position.index, position.term, tuple(files))


def chunks(directory: Path, manifest: Manifest) -> Iterator[Chunk]:
    """The bytes of a snapshot in order. Raises OSError."""
    for number, file in enumerate(manifest.files):
        with (directory / file.name).open("rb") as stream:
            offset = 0
            while data := stream.read(CHUNK_BYTES):
                yield Chunk(number, offset, data)
                offset += len(data)


def verify_files(directory: Path, manifest: Manifest) -> Iterator[SnapshotFile]:
    """Each file once it was found to be what the manifest says. Raises `SnapshotDamaged`."""
    if manifest.version != MANIFEST_VERSION:
        raise SnapshotDamaged(
            f"the snapshot is of version {manifest.version}; this release reads {MANIFEST_VERSION}"
        )
    for file in manifest.files:
        path = directory / file.name
        if not _NAME.fullmatch(file.name) or not path.is_file():
            raise SnapshotDamaged(f"{path} is missing: take another snapshot or backup")
        size = path.stat().st_size
        if size != file.bytes:
            raise SnapshotDamaged(f"{path} has {size} bytes, and {file.bytes} belong there")
        if _checksum(path) != file.crc32c:
            raise SnapshotDamaged(f"the checksum of {path} is wrong: its content was altered")
        yield file


class SnapshotSource(Protocol):
    """The store's side of snapshots; called on the replica's thread, between two commands."""

    def checkpoint(self, path: Path) -> LogPosition:
        """Keep the store as it is at `path`, which does not exist; up to where it has applied."""
        ...

    def close_store(self) -> None:
        """Let go of the store: it is going to be replaced."""
        ...

    def open_store(self) -> LogPosition:
        """Open what lies there now; up to where it has applied."""
        ...


class SnapshotReceiver:
    """Writes a snapshot that comes in pieces into a data directory, beside the store."""

    def __init__(self, data: Path, manifest: Manifest) -> None:
        if manifest.version != MANIFEST_VERSION or manifest.bytes > SNAPSHOT_BYTES_MAX:
            raise SnapshotDamaged(
                f"a snapshot of version {manifest.version} with {manifest.bytes} bytes is none "
                "that this release takes"
            )
        names = [file.name for file in manifest.files]
        if len(set(names)) != len(names) or not all(_NAME.fullmatch(name) for name in names):
            raise SnapshotDamaged("a snapshot names files that no store has")
        self.manifest = manifest
        self._data = data
        self._part = data / _PART
        shutil.rmtree(self._part, ignore_errors=True)
        (self._part / _STORE).mkdir(parents=True)
        self._file = 0
        self._offset = 0
        self._stream: BinaryIO | None = None
        self._skip_empty()

    def add(self, chunk: Chunk) -> None:
        """Take the next piece; one that is here already changes nothing.

        Raises `SnapshotDamaged` if it is any other one, OSError.
        """
        if self._is_here(chunk):
            return
        if (
            self._file >= len(self.manifest.files)
            or (chunk.file, chunk.offset) != (self._file, self._offset)
            or self._offset + len(chunk.data) > self.manifest.files[self._file].bytes
            or not chunk.data
        ):
            raise SnapshotDamaged("a piece of a snapshot came out of place: it is begun anew")
        if self._stream is None:
            self._stream = (self._part / _STORE / self.manifest.files[self._file].name).open("wb")
        self._stream.write(chunk.data)
        self._offset += len(chunk.data)
        if self._offset == self.manifest.files[self._file].bytes:
            self._next()

    def finish(self) -> Path:
        """Check everything, make it durable, and say where it is. Raises `SnapshotDamaged`."""
        if self._file != len(self.manifest.files):
            raise SnapshotDamaged(
                f"a snapshot ended with file {self._file} of {len(self.manifest.files)}"
            )
        for _ in verify_files(self._part / _STORE, self.manifest):
            pass
        ready = self._data / _READY
        shutil.rmtree(ready, ignore_errors=True)
        sync_directory(self._part / _STORE)
        sync_directory(self._part)
        self._part.rename(ready)
        sync_directory(self._data)
        return ready

    def abandon(self) -> None:
        """Remove what came so far."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        shutil.rmtree(self._part, ignore_errors=True)

    def _is_here(self, chunk: Chunk) -> bool:
        """Whether all of a piece came before; what it holds is checked with its file."""
        end = chunk.offset + len(chunk.data)
        if chunk.file == self._file:
            return 0 <= chunk.offset < end <= self._offset
        files = self.manifest.files
        return 0 <= chunk.file < self._file and 0 <= chunk.offset < end <= files[chunk.file].bytes

    def _next(self) -> None:
        if self._stream is not None:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._stream = None
        self._file += 1
        self._offset = 0
        self._skip_empty()

    def _skip_empty(self) -> None:
        files = self.manifest.files
        while self._file < len(files) and files[self._file].bytes == 0:
            (self._part / _STORE / files[self._file].name).touch()
            self._file += 1


def begin_install(data: Path) -> None:
    """Put the ready snapshot in the store's place; the store is closed.

    The log is to be emptied next, and then `finish_install` to be called. Raises `SnapshotDamaged`
    where no snapshot is ready, with nothing changed, and OSError.
    """
    if not (data / _READY / _STORE).is_dir():
        raise SnapshotDamaged(f"no snapshot is ready in {data}: it is to be received first")
    with (data / _MARKER).open("wb") as file:
        os.fsync(file.fileno())
    sync_directory(data)
    _move(data)


def finish_install(data: Path) -> None:
    """Store and log are those of the snapshot. Raises OSError."""
    (data / _MARKER).unlink(missing_ok=True)
    sync_directory(data)


def recover_install(data: Path) -> bool:
    """Before anything is opened: finish an installation that was cut short; whether there was one.

    What came in of a snapshot that was not ready, or not being installed, is removed; the vote
    stays. Raises `StorageError`.
    """
    try:
        if not (data / _MARKER).exists():
            for left in (data / _PART, data / _READY, *data.glob("snapshot.out.*")):
                shutil.rmtree(left, ignore_errors=True)
            return False
        if not (data / _READY / _STORE).is_dir() and not (data / _STORE).is_dir():
            raise SnapshotDamaged(
                f"{data} was to take a snapshot, and has neither it nor a store: something else "
                "removed them. Give the node an empty directory, and start it with --join"
            )
        _move(data)
        for segment in sorted((data / _LOG).glob("*.log"), reverse=True):
            segment.unlink()
        if (data / _LOG).exists():
            sync_directory(data / _LOG)
        finish_install(data)
    except OSError as error:
        raise StorageError(
            f"the snapshot in {data} could not be put in place: {error}. Check the disk, then "
            "start again"
        ) from error
    return True


def _move(data: Path) -> None:
    """Each step is durable before the next: the only copy of the store is never without a name."""
    ready = data / _READY / _STORE
    if ready.exists():
        if (data / _STORE).exists():
            shutil.rmtree(data / _STORE)
            sync_directory(data)
        ready.rename(data / _STORE)
        sync_directory(data)
    shutil.rmtree(data / _READY, ignore_errors=True)
    sync_directory(data)


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while data := file.read(1024 * 1024):
            checksum = google_crc32c.extend(checksum, data)
    return checksum
