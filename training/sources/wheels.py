"""Public data that lies in a released wheel: downloaded, checked, and read without installing it.

pip downloads the wheel without its dependencies; nothing of it is installed or imported, and its
checksum is pinned.
"""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from training.errors import SourceError

__all__ = ["DOWNLOAD_S_MAX", "MEMBER_BYTES_MAX", "Wheel", "fetch", "read_member"]

MEMBER_BYTES_MAX = 16_777_216
"""The largest file that is read out of a wheel, in bytes."""

DOWNLOAD_S_MAX = 120
"""Seconds that the download may take."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A released wheel: what pip calls it, its file, its SHA-256, and the data it is read for."""

    project: str
    version: str
    file: str
    sha256: str
    holds: str

    @property
    def title(self) -> str:
        """The project and its version, as a sentence names them."""
        return f"{self.project} {self.version}"


def fetch(wheel: Wheel, cache: Path) -> Path:
    """The wheel's file, downloaded into `cache` unless it is there; its checksum is right.

    Raises `SourceError` with what to do when it cannot be had.
    """
    path = cache / wheel.file
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        _download(wheel, cache)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != wheel.sha256:
        raise SourceError(
            f"{path}: its SHA-256 is {digest}, not {wheel.sha256}; delete the file and try again, "
            "or use a package index that serves the released file"
        )
    return path


def read_member(wheel: Wheel, path: Path, member: str) -> str:
    """A text file of the wheel; raises `SourceError` where it cannot be read."""
    name = member.rpartition("/")[2]
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(member)
            if info.file_size > MEMBER_BYTES_MAX:
                raise SourceError(f"{path}: {name} is larger than {MEMBER_BYTES_MAX} bytes")
            return archive.read(info).decode("utf-8")
    except FileNotFoundError as error:
        raise SourceError(
            f"{path}: there is no such file; give the wheel {wheel.title}, or leave --path out to "
            "have it downloaded"
        ) from error
    except (OSError, KeyError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise SourceError(
            f"{path}: {name} cannot be read out of it ({error}); give the wheel {wheel.title}, "
            "or leave --path out to have it downloaded"
        ) from error


def _download(wheel: Wheel, cache: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(cache)]
    command += [f"{wheel.project}=={wheel.version}"]
    try:
        subprocess.run(  # noqa: S603 - a fixed command; only the directory is the caller's
            command, check=True, capture_output=True, text=True, timeout=DOWNLOAD_S_MAX
        )
    except (subprocess.SubprocessError, OSError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise SourceError(
            f"{wheel.holds} could not be downloaded ({said[-1] if said else error}). It comes in "
            f"the wheel {wheel.title}: go online once, or put {wheel.file} into {cache}"
        ) from error
