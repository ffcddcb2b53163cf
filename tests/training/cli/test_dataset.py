"""`headwater dataset`, as a person and a program use it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from training.cli.dataset import dataset


def run(*arguments: str) -> Any:
    return CliRunner().invoke(dataset, list(arguments))


def answer(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def export(tmp_path: Path) -> Path:
    out = tmp_path / "exports"
    run("synthesize", "--events", "1500", "--users", "30", "--out", str(out), "--tenant", "acme")
    return out


def test_a_set_is_built_and_shown(export: Path, tmp_path: Path) -> None:
    sets = ("--sets", str(tmp_path / "sets"), "--tenant", "acme")
    built = answer("build", *sets, "--events", str(export), "--scheduler", "inline")
    assert built["rows"] > 500
    assert built["counts"]["events"] == 1_500
    assert built == answer("show", *sets)
    assert "label_click" in built["columns"]
    shown = run("show", *sets)
    assert f"{built['rows']:,} rows" in shown.output
    assert built["fingerprint"] in shown.output


def test_windows_and_rules_are_options(export: Path, tmp_path: Path) -> None:
    options = ("--window", "like=6h", "--window", "click=30s", "--unshown", "as_shown")
    built = answer(
        "build", "--tenant", "acme", "--events", str(export), "--sets", str(tmp_path / "sets"),
        "--scheduler", "inline", *options,
    )  # fmt: skip
    windows = built["labels"]["windows_s"]
    assert (windows["like"], windows["click"]) == (6 * 3_600, 30)
    assert built["labels"]["unshown"] == "as_shown"


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--window", "like", "write KIND=TIME"),
        ("--window", "like=6w", "write KIND=TIME"),
        ("--memory-limit", "much", "such as 2GB"),
    ],
)
def test_mistakes_are_told_with_what_to_write(
    export: Path, option: str, value: str, told: str
) -> None:
    result = run("build", "--tenant", "acme", "--events", str(export), option, value)
    assert result.exit_code == 2
    assert told in " ".join(result.output.replace("│", " ").split())


def test_an_unknown_kind_and_too_little_memory_are_sentences(export: Path, tmp_path: Path) -> None:
    common = (
        "build",
        "--tenant",
        "acme",
        "--events",
        str(export),
        "--sets",
        str(tmp_path),
        "--json",
    )
    unknown = run(*common, "--window", "poke=1h")
    assert "no engagement kind 'poke'" in json.loads(unknown.stdout)["error"]
    small = run(*common, "--memory-limit", "1MB")
    assert "512 MiB at least" in json.loads(small.stdout)["error"]


def test_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    result = run("show", "--tenant", "acme", "--sets", str(tmp_path), "--json")
    assert result.exit_code == 1
    assert "headwater dataset build" in json.loads(result.stdout)["error"]
