import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.cli import build
from serving.doctor import Finding, examine

HEAVY = ("fastapi", "dask", "mlflow", "pandas", "numpy", "xgboost", "rocksdict", "lightfm")


def found(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_this_environment_lacks_nothing_needed(tmp_path: Path, free_port: int) -> None:
    assert [] == [one for one in examine(tmp_path, free_port) if one.state == "missing"]


def test_every_finding_that_is_not_ok_says_what_to_do(tmp_path: Path, free_port: int) -> None:
    findings = list(examine(tmp_path / "not" / "yet", free_port))
    assert all(finding.remedy for finding in findings if finding.state != "ok")


def test_our_packages_come_from_this_installation(tmp_path: Path, free_port: int) -> None:
    findings = list(examine(tmp_path, free_port))
    for package in ("feeds", "ranking", "training", "serving"):
        assert found(findings, package).state == "ok", found(findings, package)


def test_unusable_data_directory_is_missing(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "file").write_bytes(b"")
    directory = found(list(examine(tmp_path / "file", free_port)), "directory")
    assert directory.state == "missing"
    assert "--data-dir" in directory.remedy


def test_owner_of_the_data_directory_is_named(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "LOCK").write_text(f"{os.getpid()}\n")
    directory = found(list(examine(tmp_path, free_port)), "directory")
    assert directory.detail.endswith(f"used by process {os.getpid()}")


def test_taken_port_is_a_warning(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = found(list(examine(tmp_path, taken.getsockname()[1])), "port")
    assert port.state == "warning"


def test_package_of_another_origin_is_a_warning(tmp_path: Path) -> None:
    clash = tmp_path / "ranking"
    clash.mkdir()
    (clash / "__init__.py").write_text("")
    program = (
        "import pathlib\n"
        "from serving.doctor import examine\n"
        "print(*(one.detail for one in examine(pathlib.Path(), 0) if one.name == 'ranking'))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    )
    assert ran.stdout.startswith(f"imported from {clash}, not from")


def test_command_prints_json_and_imports_nothing_heavy(tmp_path: Path, free_port: int) -> None:
    program = (
        "import sys\n"
        "from serving.cli import main\n"
        f"sys.argv = ['headwater', 'doctor', '--json', '--data-dir', {str(tmp_path)!r},"
        f" '--port', '{free_port}']\n"
        "try:\n    main()\n"
        f"finally:\n    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout)["ok"] is True
    assert ran.stderr == "[]\n"


def test_command_prints_a_table_and_fails_where_something_needed_is_missing(
    tmp_path: Path, free_port: int
) -> None:
    (tmp_path / "file").write_bytes(b"")
    options = ["doctor", "--data-dir", str(tmp_path / "file"), "--port", str(free_port)]
    shown = CliRunner().invoke(build({"doctor"}), options)
    assert shown.exit_code == 1
    assert "missing: directory" in shown.stdout
