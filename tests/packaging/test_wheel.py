"""What is installed: exactly the four packages, each from where it should be."""

import importlib
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("feeds", "ranking", "training", "serving")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline from the tracked files and those about to be, in a copy."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory, source],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PIP_NO_INDEX": "1"},
    )
    assert built.returncode == 0, built.stderr
    return next(directory.glob("*.whl"))


def expected() -> set[str]:
    """Every module of the four packages, their markers, designs and templates; what is compiled."""
    paths = (
        path
        for package in PACKAGES
        for pattern in ("**/*.py", "**/*.py[ix]", "py.typed", "DESIGN.md", "**/templates/*")
        for path in (ROOT / package).glob(pattern)
    )
    compiled = f"ranking/scorers/_forest{sysconfig.get_config_var('EXT_SUFFIX')}"
    return {str(path.relative_to(ROOT)) for path in paths} | {compiled}


def test_wheel_holds_exactly_the_four_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected()


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_marks_each_package_as_typed(package: str, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert f"{package}/py.typed" in archive.namelist()


def test_wheel_brings_the_command_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = next(name for name in names if name.endswith("entry_points.txt"))
        assert "headwater = serving.cli:main" in archive.read(info).decode()
        licence = next(name for name in names if name.endswith("LICENSE"))
        assert "Version 2.0, January 2004" in archive.read(licence).decode()


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_imported_from_this_checkout(package: str) -> None:
    module = importlib.import_module(package)
    assert str(ROOT / package / "__init__.py") == module.__file__


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_imported_from_the_wheel_where_that_is_installed(
    package: str, wheel: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = f"import {package}; print({package}.__file__)"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path.parent,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert str(tmp_path / package / "__init__.py") == ran.stdout.strip()


def test_what_is_compiled_is_imported_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", "from ranking.scorers import _forest; print(_forest.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path.parent,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert tmp_path in Path(ran.stdout.strip()).parents
