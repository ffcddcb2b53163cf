"""Where segments lie, which there are, finding a slate in them, and what leaves first.

    <directory>/<tenant>/<time of the first record, us>-<number of the process>.slates

A segment is appended to by one process, and only until it stops: whoever comes after it begins a
new one. Any process may read it, and remove it once it is the tenant's oldest.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from feeds.errors import InvalidInput
from feeds.model import TenantId, check_tenant_id
from serving.slate_log.record import LoggedSlate, decode
from serving.slate_log.segments import SegmentDisk, find_record, key_of

__all__ = [
    "SEGMENTS_MAX",
    "Segment",
    "find_slate",
    "locked",
    "make_room",
    "remove_all",
    "remove_old",
    "remove_over",
    "segment_path",
    "segments_of",
    "tenants_of",
]

SEGMENTS_MAX: Final = 4_096
"""Segments of a tenant at most, however small: each start of a process makes one."""

_NAME: Final = re.compile(r"([0-9]{17})-([0-9]{3})\.slates")
_LOCK: Final = "LOCK"


class Segment(NamedTuple):
    """A segment as the directory shows it; segments sort by time."""

    start_us: int
    slot: int
    path: Path
    bytes: int
    changed_ns: int


def segment_path(home: Path, start_us: int, slot: int) -> Path:
    """Where a process's segment lies whose first record is of this time."""
    return home / f"{start_us:017d}-{slot:03d}.slates"


def segments_of(home: Path) -> list[Segment]:
    """A tenant's segments, the oldest first."""
    found = []
    try:
        with os.scandir(home) as entries:
            for entry in entries:
                if (named := _NAME.fullmatch(entry.name)) is not None:
                    with suppress(FileNotFoundError):  # removed by another process just now
                        at = entry.stat(follow_symlinks=False)
                        place = int(named[1]), int(named[2]), home / entry.name
                        found.append(Segment(*place, at.st_size, at.st_mtime_ns))
    except FileNotFoundError:
        return []
    return sorted(found)


def tenants_of(directory: Path) -> list[TenantId]:
    """The tenants that have a directory, by name."""
    found = []
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for name in sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False)):
            with suppress(InvalidInput):
                found.append(check_tenant_id(name))
    return found


def find_slate(
    directory: Path, tenant: TenantId, slate_id: str, changed_since_ns: int = 0
) -> LoggedSlate | None:
    """The tenant's slate of this id, None where the log has none; the newest segments first.

    With `changed_since_ns`, only in segments written to since then. Cost: up to 0.5 ms a MB of the
    tenant's log. Raises OSError, `FormatUnsupported`, or `RecordDamaged`.
    """
    key = key_of(slate_id)
    for segment in reversed(segments_of(directory / tenant)):
        with suppress(FileNotFoundError):
            if segment.changed_ns < changed_since_ns:
                continue
            if (content := find_record(segment.path, key)) is not None:
                slate = decode(content)
                if (slate.tenant, slate.slate_id) == (tenant, slate_id):
                    return slate
    return None


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Only one process at a time makes a segment: the bytes that it finds are those there are."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / _LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_room(home: Path, slot: int, segment_bytes: int, bytes_max: int, disk: SegmentDisk) -> None:
    """Remove a tenant's oldest segments until a whole new one fits into `bytes_max`.

    What another process may be appending to, the last changed of its number, counts as full: so all
    segments together never have more than `bytes_max`. Hold the lock.
    """
    found = segments_of(home)
    changed = sorted(found, key=lambda segment: segment.changed_ns)
    growing = {segment.slot: segment.path for segment in changed if segment.slot != slot}
    sizes = [
        max(each.bytes, segment_bytes) if growing.get(each.slot) == each.path else each.bytes
        for each in found
    ]
    total = sum(sizes) + segment_bytes
    for place, (segment, size) in enumerate(zip(found, sizes, strict=True)):
        if total <= bytes_max and len(found) - place < SEGMENTS_MAX:
            break
        disk.remove(segment.path)
        total -= size


def remove_all(home: Path) -> None:
    """Remove all that is kept of a tenant."""
    with suppress(FileNotFoundError):
        shutil.rmtree(home)


def remove_old(home: Path, before_us: int, disk: SegmentDisk) -> None:
    """Remove the segments whose first record is older."""
    for segment in segments_of(home):
        if segment.start_us < before_us:
            disk.remove(segment.path)


def remove_over(
    directory: Path, tenants: Iterable[TenantId], total_max: int, disk: SegmentDisk
) -> None:
    """Remove segments until all tenants' have `total_max` bytes: the oldest of who has most."""
    held = {tenant: segments_of(directory / tenant) for tenant in tenants}
    sizes = {tenant: sum(each.bytes for each in found) for tenant, found in held.items()}
    total = sum(sizes.values())
    most: Callable[[TenantId], int] = sizes.__getitem__
    while total > total_max and sizes:
        tenant = max(sizes, key=most)
        oldest = held[tenant].pop(0)
        disk.remove(oldest.path)
        total -= oldest.bytes
        sizes[tenant] -= oldest.bytes
        if not held[tenant]:
            del sizes[tenant]
