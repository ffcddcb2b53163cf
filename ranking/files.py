"""Files and directories that appear whole or not at all, also when the process is killed."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["copy_files", "locked", "replace_file", "sweep_drafts", "whole_directory"]

_DRAFT: Final = ".draft-"


def replace_file(path: Path, content: bytes) -> None:
    """Make the file hold `content`: readers see the old or the new, and the new survives."""
    handle, draft = tempfile.mkstemp(prefix=_DRAFT, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    _sync(path.parent, os.O_DIRECTORY)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A draft directory to fill, which becomes `path` at the end of the block.

    Where the block raises, the draft is removed. Raises `FileExistsError` where `path` exists.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _refuse_existing(path)
    draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=path.parent))
    try:
        yield draft
        _sync_tree(draft)
        draft.chmod(0o755)
        _refuse_existing(path)
        draft.rename(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _sync(path.parent, os.O_DIRECTORY)


def copy_files(source: Path, target: Path) -> None:
    """Copy the regular files of a flat directory into another one that exists."""
    for entry in sorted(source.iterdir()):
        if entry.is_symlink() or not entry.is_file():
            raise FileNotFoundError(f"{entry} is not a regular file")
        shutil.copyfile(entry, target / entry.name)


def sweep_drafts(parent: Path) -> None:
    """Remove the drafts that killed processes left; hold the lock that the writers hold."""
    for entry in parent.glob(f"{_DRAFT}*"):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file alone, among threads and processes; wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} exists already: choose another directory, or remove it")


def _sync_tree(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir():
            _sync_tree(entry)
        else:
            _sync(entry, os.O_NOFOLLOW)
    _sync(directory, os.O_DIRECTORY)


def _sync(path: Path, flag: int) -> None:
    handle = os.open(path, os.O_RDONLY | flag)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
