"""Directories whose names survive a loss of power: what is in a file counts only if it is found."""

import os
from pathlib import Path

__all__ = ["make_directory", "sync_directory"]


def make_directory(path: Path) -> None:
    """Make a directory and its parents where they are absent, durably; raises OSError."""
    absent = [place for place in path.parents if not place.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for place in (path, *absent):
        sync_directory(place.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a loss of power; raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
