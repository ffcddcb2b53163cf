import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from feeds import durable
from feeds.directory import SIBLINGS, DataDirectory
from feeds.errors import DataDirectoryLocked, FormatUnsupported, StorageError


def test_directory_is_made_with_its_format(tmp_path: Path) -> None:
    with DataDirectory.lock(tmp_path / "a" / "b") as directory:
        assert (directory.path / "FORMAT").read_text() == "1\n"
        assert (directory.path / "LOCK").read_text() == f"{os.getpid()}\n"
        assert [directory.store.name, directory.log.name] == ["store", "log"]


def test_it_can_be_locked_again_after_closing(tmp_path: Path) -> None:
    directory = DataDirectory.lock(tmp_path)
    directory.close()
    directory.close()
    DataDirectory.lock(tmp_path).close()


def test_second_owner_is_refused_by_the_first_ones_process_id(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from feeds.directory import DataDirectory
from feeds.errors import DataDirectoryLocked
try:
    DataDirectory.lock(Path({str(tmp_path)!r}))
except DataDirectoryLocked as error:
    print(error)
"""
    with DataDirectory.lock(tmp_path):
        other = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert f"in use by process {os.getpid()}: stop that process" in other.stdout
        with pytest.raises(DataDirectoryLocked, match=f"process {os.getpid()}"):
            DataDirectory.lock(tmp_path)
        assert (tmp_path / "LOCK").read_text() == f"{os.getpid()}\n"


def test_killed_owner_leaves_no_lock(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from feeds.directory import DataDirectory
DataDirectory.lock(Path({str(tmp_path)!r}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (tmp_path / "LOCK").exists()
    DataDirectory.lock(tmp_path).close()


@pytest.mark.parametrize("found", ["2\n", "", "one", "1.5", "\x00"])
def test_other_format_is_refused_and_left_alone(tmp_path: Path, found: str) -> None:
    (tmp_path / "FORMAT").write_text(found)
    with pytest.raises(FormatUnsupported, match="this release reads format 1"):
        DataDirectory.lock(tmp_path)
    assert (tmp_path / "FORMAT").read_text() == found
    (tmp_path / "FORMAT").write_text("1\n")
    DataDirectory.lock(tmp_path).close()


def test_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(FormatUnsupported, match=r"no data directory: .* 'holiday.jpg'"):
        DataDirectory.lock(tmp_path)


@pytest.mark.parametrize("sibling", sorted(SIBLINGS))
def test_registry_that_was_there_first_is_no_stranger(tmp_path: Path, sibling: str) -> None:
    (tmp_path / sibling).mkdir()
    with DataDirectory.lock(tmp_path):
        assert (tmp_path / "FORMAT").read_text() == "1\n"


def test_stranger_beside_a_registry_is_still_refused(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    (tmp_path / "store").mkdir()
    with pytest.raises(FormatUnsupported, match="but 'store'"):
        DataDirectory.lock(tmp_path)


def test_directory_that_cannot_be_synced_is_refused_and_made_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int) -> None:
        del file
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "data"
    with monkeypatch.context() as fault:
        fault.setattr(durable.os, "fsync", fail)
        with pytest.raises(StorageError, match=r"cannot be used: .*Input/output error"):
            DataDirectory.lock(path)
    assert not (path / "FORMAT").exists()
    DataDirectory.lock(path).close()


def test_interrupted_creation_is_finished(tmp_path: Path) -> None:
    (tmp_path / "LOCK").touch()
    (tmp_path / "FORMAT.new").touch()
    with DataDirectory.lock(tmp_path):
        assert (tmp_path / "FORMAT").read_text() == "1\n"


def test_file_in_the_place_of_the_directory_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="--data-dir"):
        DataDirectory.lock(tmp_path / "file")
