"""What may not be in the repository, and what must hold between its files."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOREIGN = re.compile(rb"/(?:work|root|home|Users)/\w|(?:pypi|files)\.\w+\.\w+/(?:simple|packages)")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    paths = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return [path for path in paths if path.is_file()]


def test_no_package_hides_ours_below_tests() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_no_tracked_file_names_a_place_of_one_machine() -> None:
    own = Path(__file__).resolve()
    assert [path for path in tracked() if path != own and FOREIGN.search(path.read_bytes())] == []


def test_no_tracked_file_ties_users_to_one_index() -> None:
    names = {path.name for path in tracked()}
    assert names.isdisjoint({"uv.lock", "poetry.lock", "Pipfile.lock", "package-lock.json"})


def test_no_data_is_tracked() -> None:
    kinds = {".parquet", ".csv", ".item", ".inter", ".db", ".sst", ".pkl", ".whl", ".ubj", ".npz"}
    kept = ROOT / "tests" / "upgrade"  # what a release made, small, for every later one to read
    found = [path for path in tracked() if path.suffix in kinds]
    assert [path for path in found if not path.is_relative_to(kept)] == []
    assert [path for path in tracked() if path.stat().st_size > 1_000_000] == []


def test_locks_fit_pyproject_and_every_requirement_has_a_hash() -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "scripts" / "check_lock.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_extras_are_the_five_that_the_documentation_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) == {"serve", "train", "trace", "notebook", "dev"}


def test_what_serves_requires_nothing_that_trains() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    names = {re.split(r"[\[<>=!~ ]", line)[0] for line in needed}
    assert names.isdisjoint({"pandas", "scikit-learn", "mlflow", "dask", "lightfm-next"})


def test_import_contracts_hold() -> None:
    ran = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout


def test_all_of_feeds_but_its_vocabulary_is_forbidden_to_ranking_and_training() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    rule = next(one for one in contracts["contracts"] if "vocabulary of feeds" in one["name"])
    modules = {path.stem for path in (ROOT / "feeds").iterdir() if path.suffix in ("", ".py")}
    vocabulary = {"model", "events", "counters", "actions", "errors", "training_time"}
    inside = modules - vocabulary - {"__init__", "__pycache__", "py"}
    assert {f"feeds.{name}" for name in inside} == set(rule["forbidden_modules"])


@pytest.mark.parametrize(
    "target", ["setup", "demo", "serve", "test", "check", "bench", "notebooks"]
)
def test_make_lists_the_target(target: str) -> None:
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(rf"^  make {target} +\w", shown.stdout, re.MULTILINE)


def test_continuous_integration_ends_with_the_tests() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-1].endswith("make --no-print-directory test")
