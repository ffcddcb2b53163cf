"""Files of records: how they are written, and what a torn or damaged one still holds.

    header:  magic (8), version (4), salt (8), CRC32C of these (4)
    record:  salt (8), number (4), length (4), CRC32C (4), key (16), content

Numbers are big endian. A record's checksum continues that of its file's header, and covers its
number, its length, its key and its content. The salt is random: where a record is damaged, the next
one is found by it, and numbers without a gap tell how many were lost. The key is a digest of the
slate's id, so that a slate is found without decoding what lies before it.
"""

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import google_crc32c

from feeds.errors import FormatUnsupported

__all__ = [
    "FORMAT_VERSION",
    "HEADER_BYTES",
    "KEY_BYTES",
    "RECORD_BYTES",
    "Record",
    "SegmentDisk",
    "SegmentHeader",
    "SegmentReader",
    "find_record",
    "frame",
    "key_of",
]

FORMAT_VERSION: Final = 1
"""The version of the format that this code writes, and the only one that it reads."""

KEY_BYTES: Final = 16
"""Bytes of a record's key."""

WINDOW_BYTES: Final = 1024 * 1024
"""Bytes that are searched at once: other threads wait that long, under a millisecond."""

_MAGIC: Final = b"HWSLATES"
_HEADER: Final = struct.Struct(">8sI8s")
_RECORD: Final = struct.Struct(">8sIII16s")
_NUMBERS: Final = struct.Struct(">II")
_CHECKSUM: Final = struct.Struct(">I")
_KEY_OFFSET: Final = _RECORD.size - KEY_BYTES

HEADER_BYTES: Final = _HEADER.size + _CHECKSUM.size
"""Bytes of a segment's header."""

RECORD_BYTES: Final = _RECORD.size
"""Bytes of a record besides its content."""


def key_of(slate_id: str) -> bytes:
    """The key of a slate's record, 16 bytes."""
    return hashlib.blake2b(slate_id.encode(), digest_size=KEY_BYTES).digest()


class Record(NamedTuple):
    """A sound record: its number in the segment, from 0, its key and its content."""

    number: int
    key: bytes
    content: bytes


class SegmentHeader(NamedTuple):
    """What stands at the start of a segment; `seed` is where its records' checksums begin."""

    salt: bytes
    seed: int

    @classmethod
    def create(cls, salt: bytes) -> tuple["SegmentHeader", bytes]:
        """A header with these 8 random bytes, and its bytes in the file."""
        numbers = _HEADER.pack(_MAGIC, FORMAT_VERSION, salt)
        seed = google_crc32c.value(numbers)
        return cls(salt, seed), numbers + _CHECKSUM.pack(seed)

    @classmethod
    def parse(cls, data: bytes, path: Path) -> "SegmentHeader | None":
        """The header in the first bytes of a segment; None if they are no header.

        Raises `FormatUnsupported` if they are one of another version.
        """
        if len(data) < HEADER_BYTES:
            return None
        magic, version, salt = _HEADER.unpack_from(data)
        seed = google_crc32c.value(data[: _HEADER.size])
        if magic != _MAGIC or _CHECKSUM.unpack_from(data, _HEADER.size) != (seed,):
            return None
        if version != FORMAT_VERSION:
            raise FormatUnsupported(
                f"{path} is a segment of the slate log of format {version}; this release reads "
                f"format {FORMAT_VERSION}: read it with the release that wrote it, or remove it"
            )
        return cls(salt, seed)


def frame(header: SegmentHeader, number: int, key: bytes, content: bytes) -> bytes:
    """A record's bytes in the segment with this header."""
    numbers = _NUMBERS.pack(number, len(content))
    checksum = _checksum(header.seed, numbers, key, content)
    return b"".join((header.salt, numbers, _CHECKSUM.pack(checksum), key, content))


class SegmentReader:
    """The sound records of a segment in order, whatever lies between them.

    After the iteration `lost` is how many records were damaged (all before the last sound one are
    known by their numbers; what follows it is a torn tail, `torn_bytes`), and `headless` whether
    the file has no sound header, so that nothing in it can be read.
    """

    def __init__(self, path: Path) -> None:
        """Read the file whole: a segment's size is bounded."""
        self._data = path.read_bytes()
        self._header = SegmentHeader.parse(self._data[:HEADER_BYTES], path)
        self.headless = self._header is None
        self.lost = 0
        self.torn_bytes = 0

    def __iter__(self) -> Iterator[Record]:
        """The sound records, in one pass."""
        header, data = self._header, self._data
        if header is None:
            return
        offset, expected = HEADER_BYTES, 0
        while 0 <= offset < len(data):
            record = _record_at(data, offset, header)
            if record is None or record.number < expected:
                begin, offset = offset, data.find(header.salt, offset + 1)
                self.torn_bytes += (len(data) if offset < 0 else offset) - begin
                continue
            self.lost += record.number - expected
            self.torn_bytes = 0
            offset += RECORD_BYTES + len(record.content)
            expected = record.number + 1
            yield record


def find_record(path: Path, key: bytes) -> bytes | None:
    """The content of the sound record with this key; None where the segment has none.

    The segment is read whole. Raises FileNotFoundError where it has been removed, OSError where it
    cannot be read, and `FormatUnsupported`.
    """
    data = path.read_bytes()
    header = SegmentHeader.parse(data[:HEADER_BYTES], path)
    if header is None:
        return None
    for place in _occurrences(data, key):
        record = _record_at(data, place - _KEY_OFFSET, header)
        if record is not None and record.key == key:
            return record.content
    return None


def _occurrences(data: bytes, key: bytes) -> Iterator[int]:
    """Where the key's bytes stand, wherever that is."""
    for start in range(HEADER_BYTES, len(data), WINDOW_BYTES):
        place, end = start - 1, start + WINDOW_BYTES + KEY_BYTES - 1
        while (place := data.find(key, place + 1, end)) >= 0:
            yield place


def _record_at(data: bytes, offset: int, header: SegmentHeader) -> Record | None:
    begin = offset + RECORD_BYTES
    if offset < HEADER_BYTES or begin > len(data):
        return None
    salt, number, length, checksum, key = _RECORD.unpack_from(data, offset)
    if salt != header.salt or length > len(data) - begin:
        return None
    content = data[begin : begin + length]
    if _checksum(header.seed, _NUMBERS.pack(number, length), key, content) != checksum:
        return None
    return Record(number, key, content)


def _checksum(seed: int, numbers: bytes, key: bytes, content: bytes) -> int:
    head: int = google_crc32c.extend(seed, numbers + key)
    checksum: int = google_crc32c.extend(head, content)
    return checksum


@dataclass(frozen=True, slots=True)
class SegmentDisk:
    """The few things that the log does to a disk; a test lets them fail."""

    def create(self, path: Path, data: bytes) -> None:
        """Make a file that must not exist, with these bytes, or none at all."""
        try:
            self._write(path, os.O_CREAT | os.O_EXCL, data)
        except FileExistsError:
            raise
        except OSError:
            self.remove(path)
            raise

    def append(self, path: Path, data: bytes) -> None:
        """Append to a file, all or nothing; raises FileNotFoundError where it has been removed."""
        self._write(path, 0, data)

    def remove(self, path: Path) -> None:
        """Remove a file; it is no error if there is none."""
        path.unlink(missing_ok=True)

    def _write(self, path: Path, flags: int, data: bytes) -> None:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
        try:
            before = os.fstat(file).st_size
            try:
                self.write_all(file, data)
            except OSError:
                os.ftruncate(file, before)  # what was written of it goes; shrinking needs no room
                raise
        finally:
            os.close(file)

    def write_all(self, file: int, data: bytes) -> None:
        """Write every byte; raises OSError with an unknown part written."""
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
