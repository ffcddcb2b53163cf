"""Sorting records by time with bounded memory: sorted runs on disk, merged as they are read."""

import heapq
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

__all__ = ["RUN_RECORDS_MAX", "TimeOrder"]

RUN_RECORDS_MAX = 200_000
"""Records held in memory before they are sorted and written to disk as one run."""

_HEAD = struct.Struct(">qqI")

_Record = tuple[int, int, bytes]


class TimeOrder:
    """Takes records in any order and gives them back by (time, order of adding).

    At most `run_records_max` are in memory; the others lie in sorted files below `directory`.
    """

    def __init__(self, directory: Path, run_records_max: int = RUN_RECORDS_MAX) -> None:
        self._directory = directory
        self._run_records_max = run_records_max
        self._waiting: list[_Record] = []
        self._runs: list[Path] = []
        self._count = 0

    def __len__(self) -> int:
        """How many records were added."""
        return self._count

    def add(self, time_us: int, payload: bytes) -> None:
        """Add a record; of equal times the one that was added first comes first."""
        self._waiting.append((time_us, self._count, payload))
        self._count += 1
        if len(self._waiting) >= self._run_records_max:
            self._spill()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """The (time, payload) pairs in order."""
        with ExitStack() as stack:
            runs = [_read_run(stack.enter_context(path.open("rb"))) for path in self._runs]
            for time_us, _, payload in heapq.merge(*runs, iter(sorted(self._waiting))):
                yield time_us, payload

    def _spill(self) -> None:
        with tempfile.NamedTemporaryFile(dir=self._directory, delete=False) as stream:
            for time_us, order, payload in sorted(self._waiting):
                stream.write(_HEAD.pack(time_us, order, len(payload)))
                stream.write(payload)
        self._runs.append(Path(stream.name))
        self._waiting.clear()


def _read_run(stream: BinaryIO) -> Iterator[_Record]:
    while head := stream.read(_HEAD.size):
        time_us, order, length = _HEAD.unpack(head)
        yield time_us, order, stream.read(length)
