"""The data directory: one process owns it, and its format is known before anything is opened."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from feeds.durable import make_directory, sync_directory
from feeds.errors import DataDirectoryLocked, FormatUnsupported, StorageError

__all__ = ["FORMAT_VERSION", "IDENTITY", "SIBLINGS", "STORE", "DataDirectory", "check_format"]

FORMAT_VERSION: Final = 1
"""The version of the data directory's format that this release reads and writes."""

SIBLINGS: Final = frozenset({"registry", "models"})
"""What other parts of Headwater keep in a data directory, perhaps before an engine does."""

STORE: Final = "store"
"""Where the store lies in a data directory."""

IDENTITY: Final = "NODE"
"""The file that says which node of which cluster a data directory belongs to."""

_IDENTITIES: Final = frozenset({IDENTITY, f"{IDENTITY}.new"})
_LOCK: Final = "LOCK"
_FORMAT: Final = "FORMAT"
_FORMAT_DRAFT: Final = "FORMAT.new"
_FORMAT_BYTES_MAX: Final = 64


class DataDirectory:
    """The right to use a data directory, until it is closed or the process ends.

    The lock is the kernel's (flock on `LOCK`, which holds our process id for people to read), so a
    killed process leaves none behind. A child made by fork shares it; one made by exec does not.
    """

    def __init__(self, path: Path, lock: int) -> None:
        # Use `DataDirectory.lock`.
        self.path = path
        self._lock: int | None = lock

    @classmethod
    def lock(cls, path: Path) -> Self:
        """Own the directory, made if absent, and check its format.

        Raises `DataDirectoryLocked` if another process has it, `FormatUnsupported` if another
        release wrote it or it is no data directory, `StorageError` if it cannot be used.
        """
        try:
            make_directory(path)
            file = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(
                f"the data directory {path} cannot be used: {error}. Choose a directory that can "
                "be written with --data-dir"
            ) from error
        directory = cls(path, file)
        try:
            _take(path, file)
            check_format(path)
            if not (path / _FORMAT).exists():
                _write_format(path)
        except OSError as error:
            directory.close()
            raise StorageError(
                f"the data directory {path} cannot be used: {error}. Check its disk"
            ) from error
        except BaseException:
            directory.close()
            raise
        return directory

    @property
    def store(self) -> Path:
        """Where the store lies."""
        return self.path / STORE

    @property
    def log(self) -> Path:
        """Where the log's segments lie."""
        return self.path / "log"

    def close(self) -> None:
        """Let another process use the directory; closing twice is harmless."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _take(path: Path, file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(file, 20, 0).decode(errors="replace").strip() or "unknown"
        raise DataDirectoryLocked(
            f"the data directory {path} is in use by process {owner}: stop that process, or choose "
            "another directory with --data-dir"
        ) from None
    with suppress(OSError):  # it is for people; a full disk must not keep anyone from reading
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)


def check_format(path: Path) -> None:
    """Raise `FormatUnsupported` if a directory is of another format, or holds something else."""
    marker = path / _FORMAT
    if not marker.exists():
        others = {entry.name for entry in path.iterdir()} - {
            _LOCK,
            _FORMAT_DRAFT,
            *_IDENTITIES,
            *SIBLINGS,
        }
        if others:
            raise FormatUnsupported(
                f"{path} is no data directory: it has no {_FORMAT} file, but {min(others)!r}. "
                "Choose an empty or absent directory with --data-dir"
            )
        return
    with marker.open("rb") as file:
        found = file.read(_FORMAT_BYTES_MAX).decode(errors="replace").strip()
    if found != str(FORMAT_VERSION):
        raise FormatUnsupported(
            f"the data directory {path} has format {found!r}; this release reads format "
            f"{FORMAT_VERSION}: start the release that wrote it, or choose another directory"
        )


def _write_format(path: Path) -> None:
    draft = path / _FORMAT_DRAFT
    with draft.open("wb") as file:
        file.write(f"{FORMAT_VERSION}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path / _FORMAT)
    sync_directory(path)
