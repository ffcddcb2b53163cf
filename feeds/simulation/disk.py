"""A disk that forgets what was not synced: real files, and a model of what a loss of power leaves.

While it is `installed`, `os.fsync` and `os.fdatasync` of files below its root note what is durable
instead of waiting for a device. `lose_power` then makes a directory what it may be after a crash:
what was synced, and of what was not, any part. Pages reach a disk in any order: a later one may be
there and an earlier one not. Where one is not there are zeros, noise, or what the place held before
the file was cut back, as file systems show it that order nothing. What was synced of a sector stays
when the rest of it is written anew.
"""

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from typing_extensions import Buffer

__all__ = ["SimulatedDisk"]

SECTOR_BYTES: Final = 512
PAGE_BYTES: Final = 4096


@dataclass(slots=True)
class _Directory:
    """What of one directory is durable: names and the files (by inode) that they lead to."""

    names: dict[str, int] = field(default_factory=dict)


class SimulatedDisk:
    """The directories below a root, one for each node.

    `blocks` are the sizes in bytes of what is written, or lost, as one. Without any, nothing but
    the end of what was written is lost.
    """

    def __init__(self, root: Path, blocks: Sequence[int] = (SECTOR_BYTES, PAGE_BYTES)) -> None:
        self.root = root
        self.failing: set[Path] = set()
        """Directories whose next syncs fail."""
        self.full: set[Path] = set()
        """Directories in which nothing more can be written; a first half may be."""
        self.low: set[Path] = set()
        """Directories with less free than their nodes shall leave."""
        self.syncs = 0
        """Syncs so far."""
        self._prefix = str(root)
        self._blocks = tuple(blocks)
        self._files: dict[int, bytes] = {}
        self._former: dict[int, bytes] = {}  # what the places of a file held before
        self._directories: dict[Path, _Directory] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take the place of the kernel's syncs and cuts, and of its writes to what is full."""
        kept = os.fsync, os.fdatasync, os.write, os.ftruncate

        def sync(file: int) -> None:
            path = os.readlink(f"/proc/self/fd/{file}")  # noqa: PTH115 - hot
            if not path.startswith(self._prefix):
                kept[0](file)
                return
            self._sync(file, Path(path))

        def write(file: int, data: Buffer, /) -> int:
            size = memoryview(data).nbytes
            if self._is_full(file) and not self._has_place(file, size):
                half = memoryview(data)[: size // 2]
                if half.nbytes < SECTOR_BYTES // 2:
                    raise OSError(errno.ENOSPC, "the simulated disk is full", _path(file).name)
                return kept[2](file, half)
            return kept[2](file, data)

        def truncate(file: int, length: int, /) -> None:
            if os.readlink(f"/proc/self/fd/{file}").startswith(self._prefix):  # noqa: PTH115 - hot
                inode = os.fstat(file).st_ino
                self._former[inode] = _over(_read_open(file), self._former.get(inode, b""))
            kept[3](file, length)

        os.fsync = os.fdatasync = sync  # type: ignore[assignment]
        os.write = write
        os.ftruncate = truncate
        try:
            yield
        finally:
            os.fsync, os.fdatasync, os.write, os.ftruncate = kept

    def forget(self, directory: Path) -> None:
        """A new directory has taken the place of this one, durably."""
        self._directories.pop(directory, None)

    def _is_full(self, file: int) -> bool:
        if not self.full:
            return False
        path = _path(file)
        return any(path.is_relative_to(place) for place in self.full)

    def _has_place(self, file: int, size: int) -> bool:
        """Whether a write is over bytes that the file has already."""
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_APPEND:
            return False
        return os.lseek(file, 0, os.SEEK_CUR) + size <= os.fstat(file).st_size

    def free_bytes(self, directory: Path) -> int:
        """What a directory's disk has left, as it tells."""
        return 0 if directory in self.full | self.low else 2**40

    def lose_power(self, directory: Path, random: Random) -> None:
        """Leave in a directory what a loss of power may leave of it."""
        known = self._directories.get(directory, _Directory())
        now = {entry.name: entry.inode() for entry in os.scandir(directory) if entry.is_file()}
        names = now if now != known.names and random.random() < 0.5 else known.names  # noqa: PLR2004
        written = {name: _read(directory / name, inode) for name, inode in names.items()}
        contents = {
            name: self._survivor(inode, written[name], random) for name, inode in names.items()
        }
        for name in now:
            (directory / name).unlink()
        for name, content in contents.items():
            if content is not None:
                (directory / name).write_bytes(content)
                inode = (directory / name).stat().st_ino
                self._files[inode] = content
                former = self._former.pop(names[name], b"")
                if self._blocks:
                    self._former[inode] = _over(written[name] or b"", former)
        self._directories[directory] = _Directory(
            {entry.name: entry.inode() for entry in os.scandir(directory)}
        )

    def _sync(self, file: int, path: Path) -> None:
        self.syncs += 1
        if any(path.is_relative_to(place) for place in self.failing):
            raise OSError(5, "the simulated disk is broken", path.name)
        if path.is_dir():
            entries = [entry for entry in os.scandir(path) if entry.is_file()]
            self._directories[path] = _Directory({one.name: one.inode() for one in entries})
            return
        self._files[os.fstat(file).st_ino] = _read_open(file)

    def _survivor(self, inode: int, written: bytes | None, random: Random) -> bytes | None:
        """What is left of a file: its durable bytes, and some of those that were under way."""
        durable = self._files.get(inode)
        if written is None:
            return durable
        if durable is None:
            durable = b""
        if not written.startswith(durable):
            return random.choice((durable, written))
        if len(written) == len(durable):
            return durable
        end = random.choice((random.randint(len(durable), len(written)), len(written)))
        kept = bytearray(written[:end])
        never = self._never_written(inode, len(kept), random)
        block = random.choice(self._blocks or (SECTOR_BYTES,))
        lost = random.choice((0.0, 0.0, 0.2, 0.5, 0.8)) if self._blocks else 0.0
        for start in range(len(durable) // block * block, len(kept), block):
            if random.random() < lost:
                place = slice(max(start, len(durable)), min(start + block, len(kept)))
                kept[place] = never[place]
        if random.random() < 0.2:  # noqa: PLR2004 - the last sector was half written
            start = max(len(durable), len(kept) - random.randint(1, SECTOR_BYTES))
            kept[start:] = never[start:]
        return bytes(kept)

    def _never_written(self, inode: int, size: int, random: Random) -> bytes:
        """What may be found in a file where nothing was ever written to the disk."""
        former = self._former.get(inode, b"")[:size].ljust(size, b"\0")
        return random.choice((bytes(size), random.randbytes(size), former))


def _over(content: bytes, former: bytes) -> bytes:
    """What the places of a file hold once it was written over what they held."""
    return content + former[len(content) :]


def _read_open(file: int) -> bytes:
    """All bytes of an open file, which may have no name any more."""
    with Path(f"/proc/self/fd/{file}").open("rb") as stream:
        return stream.read()


def _path(file: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{file}"))  # noqa: PTH115 - hot


def _read(path: Path, inode: int) -> bytes | None:
    """A file's bytes, if it is still the one with this inode."""
    try:
        with path.open("rb") as file:
            return file.read() if os.fstat(file.fileno()).st_ino == inode else None
    except FileNotFoundError:
        return None
