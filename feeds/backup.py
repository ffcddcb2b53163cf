"""Backups: a store as of one place in the log, with a checksum of every file.

A backup is a directory with `manifest.json` and `store/`. It is taken from a node while it serves,
or from a data directory that nobody has open; it is restored into an empty directory, which is then
the data directory of an engine with a log of its own.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from feeds.client import EngineClient
from feeds.config import FeedsConfig
from feeds.directory import DataDirectory
from feeds.durable import sync_directory
from feeds.errors import InvalidInput, SnapshotDamaged
from feeds.replication.base import LogPosition
from feeds.replication.config import LogConfig
from feeds.replication.journal import Journal
from feeds.replication.snapshots import Manifest, SnapshotFile, describe, verify_files
from feeds.state import applied_position
from feeds.store.base import COLUMN_FAMILIES
from feeds.store.rocks import RocksStore

__all__ = ["backup_directory", "backup_node", "load_manifest", "restore", "verify", "verify_data"]

_MANIFEST: Final = "manifest.json"
_STORE: Final = "store"
_MANIFEST_BYTES_MAX: Final = 64 * 1024 * 1024


def backup_node(socket: Path, out: Path) -> Manifest:
    """Back up the node behind a socket, which goes on serving; `out` must not exist.

    The node and this process are on one machine. Raises `InvalidInput`, `StorageError`.
    """
    _begin(out)
    client = EngineClient.connect(socket)
    try:
        position = client.checkpoint((out / _STORE).absolute())
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    finally:
        client.close()
    return _finish(out, position)


def backup_directory(data: Path, out: Path) -> Manifest:
    """Back up a data directory that no process has open; `out` must not exist.

    Raises `DataDirectoryLocked`, `InvalidInput`, `StorageError`.
    """
    if not (data / _STORE).is_dir():
        raise InvalidInput(f"{data} holds no store: name a data directory with --data-dir")
    with DataDirectory.lock(data) as directory:
        _begin(out)
        try:
            with RocksStore.open(directory.store) as store:
                position = applied_position(store)
                store.checkpoint((out / _STORE).absolute())
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            raise
    return _finish(out, position)


def load_manifest(backup: Path) -> Manifest:
    """What a backup holds. Raises `SnapshotDamaged`."""
    path = backup / _MANIFEST
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MANIFEST_BYTES_MAX), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise SnapshotDamaged(
            f"{path} cannot be read ({error}): {backup} is no backup, or an unfinished one"
        ) from error


def verify(backup: Path) -> Iterator[SnapshotFile]:
    """Each file of a backup once its checksum was found right. Raises `SnapshotDamaged`."""
    manifest = load_manifest(backup)
    yield from verify_files(backup / _STORE, manifest)
    found = {path.name for path in (backup / _STORE).iterdir()}
    if extra := found - {file.name for file in manifest.files}:
        raise SnapshotDamaged(f"{backup / _STORE / min(extra)} is not of this backup: remove it")


def verify_data(data: Path, config: FeedsConfig) -> Iterator[tuple[str, int]]:
    """(what, how many) of a data directory that no process has open, read to its end.

    Every record of the log, and every key of every column family: RocksDB checks its blocks as it
    reads them. Raises `LogDamaged` or another `StorageError`.
    """
    if not (data / _STORE).is_dir():
        raise InvalidInput(f"{data} holds no store: name a data directory")
    with DataDirectory.lock(data) as directory, RocksStore.open(directory.store) as store:
        for family in COLUMN_FAMILIES:
            yield family, sum(1 for _ in store.scan(family, b"", b"\xff" * 8))
        limits = LogConfig(record_bytes_max=config.command_bytes_max)
        journal = Journal.open(directory.log, applied_position(store), limits)
        try:
            yield "log", journal.last.index - journal.base.index
        finally:
            journal.close()


def restore(backup: Path, data: Path) -> Manifest:
    """Make a data directory of a backup whose every checksum is right.

    The directory must be absent or empty. It belongs to no node: a restored copy of a node must
    not pose as the node. Raises `SnapshotDamaged`, `InvalidInput`, OSError.
    """
    if data.exists() and any(data.iterdir()):
        raise InvalidInput(f"{data} is not empty: choose another directory with --data-dir")
    manifest = load_manifest(backup)
    for _ in verify(backup):
        pass
    with DataDirectory.lock(data) as directory:
        part = data / "store.part"
        shutil.copytree(backup / _STORE, part)
        for _ in verify_files(part, manifest):
            pass
        for path in part.iterdir():
            _sync(path)
        sync_directory(part)
        part.rename(directory.store)
        sync_directory(data)
        with RocksStore.open(directory.store) as store:
            found = applied_position(store)
    if found != manifest.position:
        raise SnapshotDamaged(f"{backup} says that it is at {manifest.position}, and is at {found}")
    return manifest


def _begin(out: Path) -> None:
    if out.exists():
        raise InvalidInput(f"{out} is there already: choose another directory with --out")
    out.mkdir(parents=True)


def _finish(out: Path, position: LogPosition) -> Manifest:
    """Write the manifest last: a backup without one is none."""
    manifest = describe(out / _STORE, position)
    for path in (out / _STORE).iterdir():
        _sync(path)
    sync_directory(out / _STORE)
    draft = out / f"{_MANIFEST}.new"
    with draft.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(out / _MANIFEST)
    sync_directory(out)
    return manifest


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
