"""Term and vote survive, also where the disk is full."""

import errno
import os
from pathlib import Path

import google_crc32c
import pytest

from feeds.errors import LogDamaged
from feeds.replication.hard_state import (
    HardState,
    load_hard_state,
    save_hard_state,
    take_place,
)


def test_hard_state_comes_back(tmp_path: Path) -> None:
    assert load_hard_state(tmp_path) is None
    for state in (HardState(1, "n1"), HardState(10**18, "n" * 63), HardState(2)):
        save_hard_state(tmp_path, state)
        assert state == load_hard_state(tmp_path)


def test_hard_state_of_an_older_release_is_read(tmp_path: Path) -> None:
    content = b'{"term":7,"voted_for":"n2"}'
    (tmp_path / "hard_state").write_bytes(b"%08x " % google_crc32c.value(content) + content)
    assert HardState(7, "n2") == load_hard_state(tmp_path)


def test_damaged_hard_state_is_refused(tmp_path: Path) -> None:
    save_hard_state(tmp_path, HardState(7, "n2"))
    path = tmp_path / "hard_state"
    data = bytearray(path.read_bytes())
    data[12] ^= 1
    path.write_bytes(data)
    with pytest.raises(LogDamaged, match="must not vote"):
        load_hard_state(tmp_path)


def test_room_for_the_next_state_is_taken_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_place(tmp_path)
    for term in range(1, 4):
        before = (tmp_path / "hard_state.new").stat()
        assert before.st_blocks > 0
        save_hard_state(tmp_path, HardState(term))
        after = (tmp_path / "hard_state").stat()
        assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    save_hard_state(tmp_path, HardState(4, "n1"))
    assert HardState(4, "n1") == load_hard_state(tmp_path)
