"""Files and directories appear whole or not at all."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ranking.files import copy_files, locked, replace_file, sweep_drafts, whole_directory

DEADLINE_S = 60


class Stopped(Exception):
    """What a test raises in the middle."""


def test_directory_appears_at_the_end_of_the_block(tmp_path: Path) -> None:
    target = tmp_path / "new" / "target"
    with whole_directory(target) as draft:
        (draft / "nested").mkdir()
        (draft / "nested" / "file").write_text("content")
        assert not target.exists()
    assert (target / "nested" / "file").read_text() == "content"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_directory_does_not_appear_where_the_block_raises(tmp_path: Path) -> None:
    def fill() -> None:
        with whole_directory(tmp_path / "target") as draft:
            (draft / "file").touch()
            raise Stopped

    with pytest.raises(Stopped):
        fill()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("empty", [True, False])
def test_existing_directory_is_not_replaced(tmp_path: Path, empty: bool) -> None:
    (tmp_path / "target").mkdir()
    if not empty:
        (tmp_path / "target" / "file").touch()
    with (
        pytest.raises(FileExistsError, match="choose another"),
        whole_directory(tmp_path / "target"),
    ):
        pass


def test_killed_writer_leaves_a_draft_that_is_swept(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from ranking.files import *\n"
        "with whole_directory(Path(sys.argv[1])) as draft:\n"
        "    (draft / 'file').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    target = tmp_path / "target"
    killed = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists()
    assert len(list(tmp_path.iterdir())) == 1
    sweep_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_file_that_cannot_be_written_keeps_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("file", b"old")]


def test_links_are_not_copied(tmp_path: Path) -> None:
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "link").symlink_to("/etc/passwd")
    with pytest.raises(FileNotFoundError, match="not a regular file"):
        copy_files(tmp_path / "source", tmp_path / "target")


def test_one_at_a_time_holds_the_lock(tmp_path: Path) -> None:
    entered, order = threading.Event(), []

    def second() -> None:
        entered.set()
        with locked(tmp_path / "LOCK"):
            order.append("second")

    with locked(tmp_path / "LOCK"):
        thread = threading.Thread(target=second)
        thread.start()
        assert entered.wait(DEADLINE_S)
        order.append("first")
    thread.join(DEADLINE_S)
    assert order == ["first", "second"]
