"""Whether a node's disks have room for more: looked at now and then, and reckoned in between.

A store needs room to apply what the log holds, and a log to say so; so some of it is left free.
"""

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Final, Self

__all__ = ["LOOK_EVERY_S", "NO_SPACE", "DiskSpace"]

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system says where a disk is full."""

LOOK_EVERY_S: Final = 0.1
"""Seconds for which what is free is reckoned from the last look."""

REFUSED_S: Final = 1.0
"""Seconds for which a disk that refused a write counts as full, whatever it says: a quota shows
nowhere else."""

_AGAIN: Final = 4
"""A disk that was full has room again with a fourth of the reserve more: else it would be full and
not full by turns, and the lead would wander."""


class DiskSpace:
    """What may be written with `reserve_bytes` left. One thread.

    `look` tells how many bytes are free.
    """

    def __init__(
        self, look: Callable[[], int], reserve_bytes: int, clock: Callable[[], float] = monotonic
    ) -> None:
        self._look = look
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self._free_bytes = 0
        self._due_s = float("-inf")
        self._refused: str | None = None
        self._refused_until_s = float("-inf")
        self._full = False

    @classmethod
    def of(cls, directories: Sequence[Path], reserve_bytes: int) -> Self:
        """The disks of these directories: that which has least free."""
        return cls(lambda: min(map(_free_bytes, directories)), reserve_bytes)

    def lacking(self, bytes_wanted: int) -> str | None:
        """Why so many bytes more must not be written; None where they may be, and they count.

        Costs nothing but for a look every `LOOK_EVERY_S`, and one before a refusal.
        """
        now_s = self._clock()
        if now_s < self._refused_until_s:
            return self._refused
        needed = bytes_wanted + self._reserve_bytes
        if self._full:
            needed += self._reserve_bytes // _AGAIN
        if now_s >= self._due_s or self._free_bytes < needed:
            self._free_bytes = self._look()
            self._due_s = now_s + LOOK_EVERY_S
        self._full = self._free_bytes < needed
        if self._full:
            return f"{self._free_bytes} bytes are free, and {needed} must be, the reserve included"
        self._free_bytes -= bytes_wanted
        return None

    def refused(self, why: str) -> None:
        """A write has failed because there is no space, whatever was seen."""
        self._refused, self._refused_until_s = why, self._clock() + REFUSED_S


def _free_bytes(directory: Path) -> int:
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize
