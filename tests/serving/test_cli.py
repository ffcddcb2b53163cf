"""The root command, run as users run it: in a process of its own, with a plug-in beside ours."""

import json
import os
import subprocess
import sys
import time
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from serving.cli import COMMAND_GROUP

ROOT = Path(__file__).parents[2]
HEADWATER = Path(sys.executable).with_name("headwater")

HEAVY = (
    "fastapi",
    "uvicorn",
    "dask",
    "mlflow",
    "pandas",
    "numpy",
    "xgboost",
    "rocksdict",
    "orjson",
)

PLUGIN = '''
import typer

from feeds.errors import InvalidInput

group = typer.Typer(help="A group of commands.")


@group.command()
def inner() -> None:
    """Inside the group."""
    print("inner ran")


@group.callback()
def _group() -> None: ...


def works(name: str) -> None:
    """Greet someone by name.

    And more, which the list leaves out.
    """
    print(f"hello {name}")


def refuses() -> None:
    """Refuse its input."""
    raise InvalidInput("limit is 101: ask for at most 100")


def lacks() -> None:
    """Need what is not there."""
    import sys

    sys.modules["mlflow"] = None
    import mlflow


def fails() -> None:
    """Fail for a reason that nobody foresaw."""
    raise ZeroDivisionError("a fault in the program")


def absent() -> None:
    """Open a file that does not exist."""
    open("/nowhere/at/all")


def interrupted() -> None:
    """Be interrupted."""
    raise KeyboardInterrupt
'''

COMMANDS = ("group", "works", "refuses", "lacks", "fails", "absent", "interrupted")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory on the path with an installed distribution that brings commands."""
    directory = tmp_path_factory.mktemp("plugin")
    (directory / "headwater_plugin.py").write_text(PLUGIN)
    metadata = directory / "headwater_plugin-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: headwater-plugin\nVersion: 1\n"
    )
    lines = [f"{name} = headwater_plugin:{name}" for name in COMMANDS]
    lines.append("gone = headwater_gone:command")
    (metadata / "entry_points.txt").write_text(f"[{COMMAND_GROUP}]\n" + "\n".join(lines) + "\n")
    return directory


def run(*arguments: str, path: Path | None = None, **variables: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"TERM": "dumb", "COLUMNS": "200"} | variables
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [HEADWATER, *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_help_lists_every_command_of_the_project_with_a_sentence() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in project["entry-points"][COMMAND_GROUP]:
        line = next(line for line in shown.stdout.splitlines() if f" {name} " in line)
        assert line.strip("│ ").removeprefix(name).strip().endswith("."), line


def test_installed_commands_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = {found.name: found.value for found in entry_points(group=COMMAND_GROUP)}
    assert project["entry-points"][COMMAND_GROUP] == installed


def test_help_imports_no_library_behind_the_commands() -> None:
    program = (
        "import json, sys\n"
        "from serving.cli import main\n"
        "sys.argv = ['headwater', '--help']\n"
        "try:\n    main()\nfinally:\n    print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = json.loads(ran.stderr)
    assert [] == [name for name in loaded if name.partition(".")[0] in HEAVY]
    assert ["serving", "serving.cli", "serving.extras"] == [
        name
        for name in loaded
        if name.partition(".")[0] in ("feeds", "ranking", "training", "serving")
    ]


def test_help_starts_fast() -> None:
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        run("--help")
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 2, "0.2 s on an idle machine: something heavy is imported"


def test_no_arguments_show_the_help_as_wrong_usage() -> None:
    shown = run()
    assert shown.returncode == 2
    assert "doctor" in shown.stdout + shown.stderr


def test_version_is_the_distribution_s() -> None:
    shown = run("--version")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (0, f"headwater {version}\n") == (shown.returncode, shown.stdout)


def test_unknown_command_is_wrong_usage_and_names_the_near_one() -> None:
    shown = run("trai")
    assert shown.returncode == 2
    assert "Did you mean 'train'?" in shown.stderr


def test_plugin_s_function_is_a_command(plugin: Path) -> None:
    assert run("works", "ada", path=plugin).stdout == "hello ada\n"
    assert run("works", path=plugin).returncode == 2


def test_plugin_s_group_is_a_group(plugin: Path) -> None:
    assert run("group", "inner", path=plugin).stdout == "inner ran\n"


def test_list_shows_the_first_line_of_a_docstring_and_what_is_not_there(plugin: Path) -> None:
    shown = run("--help", path=plugin).stdout
    assert "Greet someone by name." in shown
    assert "which the list leaves out" not in shown
    assert "A group of commands." in shown
    assert "Not installed." in shown


def test_own_error_is_one_sentence_and_status_1(plugin: Path) -> None:
    shown = run("refuses", path=plugin)
    assert (1, "", "limit is 101: ask for at most 100\n") == (
        shown.returncode,
        shown.stdout,
        shown.stderr,
    )


def test_own_error_shows_where_it_was_raised_on_demand(plugin: Path) -> None:
    shown = run("refuses", path=plugin, HEADWATER_TRACEBACK="1")
    assert shown.returncode == 1
    assert "headwater_plugin.py" in shown.stderr


def test_missing_extra_is_named_with_how_to_install_it(plugin: Path) -> None:
    shown = run("lacks", path=plugin)
    assert shown.returncode == 1
    assert shown.stderr == (
        "`headwater lacks` needs mlflow, which is not installed: "
        "run `pip install 'headwater[train]'`, or `make setup` in a checkout\n"
    )


def test_unforeseen_error_keeps_its_traceback(plugin: Path) -> None:
    shown = run("fails", path=plugin)
    assert shown.returncode == 1
    assert shown.stderr.endswith("ZeroDivisionError: a fault in the program\n")
    assert "Traceback" in shown.stderr


def test_missing_file_is_one_sentence(plugin: Path) -> None:
    shown = run("absent", path=plugin)
    assert (1, "/nowhere/at/all: No such file or directory\n") == (shown.returncode, shown.stderr)


def test_interrupt_is_one_line_and_status_130(plugin: Path) -> None:
    shown = run("interrupted", path=plugin)
    assert (130, "", "stopped\n") == (shown.returncode, shown.stdout, shown.stderr)
