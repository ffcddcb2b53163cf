"""What `make setup` says on a machine that lacks something."""

import importlib.util
import shutil
import sys
import sysconfig
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "preflight.py"


@pytest.fixture
def preflight() -> ModuleType:
    spec = importlib.util.spec_from_file_location("preflight", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def only(problems: list[str]) -> str:
    assert len(problems) == 1, problems
    return problems[0]


@pytest.fixture(autouse=True)
def complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has everything, whatever this one has."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


def test_complete_machine_has_no_problem(preflight: ModuleType, tmp_path: Path) -> None:
    assert preflight.problems(str(tmp_path / ".venv")) == []


def test_missing_ensurepip_names_the_package_of_this_python(
    preflight: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    problem = only(preflight.problems(str(tmp_path / ".venv")))
    assert problem.endswith(
        f"apt-get install python{sys.version_info.major}.{sys.version_info.minor}-venv"
    )


def test_missing_header_names_the_package_of_this_python(
    preflight: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "Python.h").unlink()
    problem = only(preflight.problems(str(tmp_path / ".venv")))
    assert problem.endswith(
        f"apt-get install python{sys.version_info.major}.{sys.version_info.minor}-dev"
    )


def test_missing_compiler_is_named(
    preflight: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "apt-get install gcc" in only(preflight.problems(str(tmp_path / ".venv")))


def test_full_disk_is_told_before_anything_is_installed(
    preflight: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")  # noqa: PYI024 - what shutil returns has no public class
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1024))
    assert "0.0 GiB of disk" in only(preflight.problems(str(tmp_path / ".venv")))


def test_old_python_is_refused_alone(
    preflight: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    assert "needs Python 3.11 or newer" in only(preflight.problems(str(tmp_path / ".venv")))
