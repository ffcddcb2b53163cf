"""What a node must not forget besides its log: its term, and whom it voted for in it.

A small file of JSON behind its CRC32C. It is replaced as a whole, and the new one is durable before
anyone is told of the vote. The place for the next one is taken beforehand, so that a node whose
disk is full can still take part in an election.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import google_crc32c
import msgspec

from feeds.durable import sync_directory
from feeds.errors import LogDamaged
from feeds.replication.segment import write_all

__all__ = ["HardState", "load_hard_state", "save_hard_state", "take_place"]

_NAME: Final = "hard_state"
_DRAFT: Final = "hard_state.new"
_BYTES_MAX: Final = 4096
_BYTES: Final = 512
"""Bytes that a state is filled up to, with blanks."""
_CHECKSUM_BYTES: Final = 9


class HardState(msgspec.Struct, frozen=True):
    """The newest term that a node has seen, and the node that it voted for in it."""

    term: int = 0
    voted_for: str | None = None


def load_hard_state(directory: Path) -> HardState | None:
    """The hard state in a directory; None if there never was one. Raises `LogDamaged`, OSError."""
    path = directory / _NAME
    try:
        with path.open("rb") as file:
            data = file.read(_BYTES_MAX)
    except FileNotFoundError:
        return None
    checksum, _, content = data.partition(b" ")
    try:
        if int(checksum, 16) == google_crc32c.value(content):
            return msgspec.json.decode(content, type=HardState)
    except ValueError:  # msgspec's errors are ValueErrors
        pass
    raise LogDamaged(
        f"{path} is damaged: what this node voted is unknown, so it must not vote. Replace the "
        "node: give it an empty directory, and start it with --join"
    )


def save_hard_state(directory: Path, state: HardState) -> None:
    """Replace the hard state, durably; raises OSError."""
    content = msgspec.json.encode(state).ljust(_BYTES)
    data = b"%08x " % google_crc32c.value(content) + content
    draft = directory / _DRAFT
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        write_all(file, data)
        os.ftruncate(file, len(data))
        os.fsync(file)
    finally:
        os.close(file)
    draft.replace(directory / _NAME)
    sync_directory(directory)
    take_place(directory)


def take_place(directory: Path) -> None:
    """Keep room for the next state; where there is none, it must find some itself."""
    with suppress(OSError):
        file = os.open(directory / _DRAFT, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, _BYTES + _CHECKSUM_BYTES)
        finally:
            os.close(file)
