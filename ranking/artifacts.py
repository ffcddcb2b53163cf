"""Files of models at any address that fsspec knows: a directory, an object store, a server.

A flat directory of files is put and fetched as a whole. Sizes are asked before anything is read.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

import fsspec

from ranking.errors import BundleDamaged
from ranking.manifest import LIMITS

__all__ = ["fetch_files", "put_files", "read_files_of", "remove_files"]

_FILES_MAX: Final = 100
"""Files of one directory."""


def put_files(address: str, files: Mapping[str, bytes]) -> None:
    """Write files by name into the directory at an address; raises `OSError`."""
    system, root = _open(address)
    system.makedirs(root, exist_ok=True)
    for name, content in files.items():
        system.pipe_file(f"{root}/{name}", content)


def read_files_of(address: str, bytes_max: int = LIMITS.file_bytes_max) -> dict[str, bytes]:
    """Every file in the directory at an address by name; none where there is no such directory.

    Raises `OSError`, and `BundleDamaged` where they are more or larger than any that we wrote.
    """
    system, root = _open(address)
    return {name: system.cat_file(path) for name, path in _listed(system, root, bytes_max).items()}


def fetch_files(address: str, directory: Path) -> None:
    """Copy the files at an address into a directory that exists; as `read_files_of`."""
    system, root = _open(address)
    found = _listed(system, root, LIMITS.file_bytes_max)
    if not found:
        raise FileNotFoundError(f"there are no files at {address}")
    for name, path in found.items():
        system.get_file(path, str(directory / name))


def remove_files(address: str) -> None:
    """Remove the directory at an address with all that is in it; none is no error."""
    system, root = _open(address)
    if system.exists(root):
        system.rm(root, recursive=True)


def _open(address: str) -> tuple[Any, str]:  # Any: fsspec is untyped
    system, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
    return system, root.rstrip("/")


def _listed(system: Any, root: str, bytes_max: int) -> dict[str, str]:  # Any: as above
    if not system.exists(root):
        return {}
    entries = system.ls(root, detail=True)
    if len(entries) > _FILES_MAX:
        raise BundleDamaged(f"there are {len(entries)} files at {root}, at most {_FILES_MAX} fit")
    for entry in entries:
        if entry["type"] != "file" or entry.get("islink"):
            raise BundleDamaged(f"{entry['name']} is not a regular file")
        if entry["size"] > bytes_max:
            raise BundleDamaged(f"{entry['name']} has {entry['size']} bytes, {bytes_max} may be")
    return {PurePosixPath(entry["name"]).name: entry["name"] for entry in entries}
