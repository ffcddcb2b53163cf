import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

from training.testing import community, events_of, log_of, write_export

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


MEMORY = Path("/dev/shm")
"""A file system in memory: a busy disk would make each write of a service wait, and a community
writes hundreds of times. What is durable is tested elsewhere."""


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    usable = MEMORY.is_dir() and os.access(MEMORY, os.W_OK)
    with tempfile.TemporaryDirectory(dir=MEMORY if usable else tmp_path) as directory:
        yield Path(directory)


@pytest.fixture
def small_export(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    events = tmp_path / "events"
    write_export(log_of(events_of(community(seed=7)), "demo"), events)
    monkeypatch.setenv("HEADWATER_EVENTS", str(events))
    monkeypatch.setenv("HEADWATER_TENANT", "demo")
    monkeypatch.setenv("HEADWATER_OUT", str(out))
    monkeypatch.setenv("HEADWATER_SEARCH_S", "3")
    monkeypatch.setenv("HEADWATER_SCHEDULER", "inline")
    return tmp_path


SIZES = {"03_evaluate_and_estimate": (40, 6), "04_explain_a_feed": (30, 5)}
"""Members and days of a made-up community, where a model must have enough to learn from."""

SLOW = {"03_evaluate_and_estimate"}
"""What it calls has short tests of its own: gates/test_parity and slates/test_served."""


@pytest.mark.parametrize(
    "notebook",
    [
        pytest.param(path, marks=[pytest.mark.slow] if path.stem in SLOW else [], id=path.stem)
        for path in NOTEBOOKS
    ],
)
def test_notebook_runs_from_top_to_bottom_and_shows_its_plots(
    notebook: Path, small_export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, days = SIZES.get(notebook.stem, (30, 4))
    monkeypatch.setenv("HEADWATER_USERS", str(users))
    monkeypatch.setenv("HEADWATER_DAYS", str(days))
    cells = jupytext.read(notebook)
    NotebookClient(
        cells,
        timeout=240,
        kernel_name="python3",
        resources={"metadata": {"path": str(small_export)}},
    ).execute()
    plots = [
        output
        for cell in cells.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert len(plots) >= 2
    errors = [
        output
        for cell in cells.cells
        for output in cell.get("outputs", ())
        if output.output_type == "error" or output.get("name") == "stderr"
    ]
    assert errors == []


def test_there_is_a_notebook_to_run() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01_quickstart",
        "02_train_and_tune",
        "03_evaluate_and_estimate",
        "04_explain_a_feed",
        "05_design_a_ranking_config",
        "06_simulate_before_you_ship",
    ]
