"""`headwater demo`, as a newcomer runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def dump() -> Path:
    path = Path(
        os.environ.get("HEADWATER_DATA", "../shared/data"), "stackexchange-quantumcomputing"
    ).resolve()
    if not path.is_dir():
        assert os.environ.get("CI") != "true", f"{path} is needed in CI: set HEADWATER_DATA"
        pytest.skip(f"{path} is not here: set HEADWATER_DATA to the directory of data sets")
    return path


def demo(home: Path, dump: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "serving", "demo", "--json"),
            *("--dataset", "stackexchange", "--path", str(dump)),
        ],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def test_demo_ends_with_a_report_of_real_feeds(dump: Path, tmp_path: Path) -> None:
    done = demo(tmp_path, dump)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    for home in (".headwater/demo/stackexchange", ".headwater/demo"):
        assert report == json.loads((tmp_path / home / "report.json").read_text())
    assert {"posts", "follows derived"} < set(report["counts"])
    assert {"chronological", "personalized", "explore"} == set(report["latency"])
    assert all(len(places) == 8 for places in report["feeds"].values())
    assert all(place["reason"] for places in report["feeds"].values() for place in places)
    evaluation = report["training"]["report"]
    rankers = {ranker["name"]: ranker for ranker in evaluation["rankers"]}
    assert {"random", "chronological", "popular", evaluation["model"]} < set(rankers)
    (chronological,) = (
        comparison
        for comparison in rankers[evaluation["model"]]["comparisons"]
        if comparison["baseline"] == "chronological"
    )
    assert chronological["verdict"] in {"level", "better"}
    assert report["training"]["version"] == 1
    assert report["peak_memory_mb"] > 0
    assert any("derived" in sentence for sentence in report["statements"])


def test_step_that_fails_ends_the_demo_with_its_sentence(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = demo(tmp_path, empty)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("headwater prepare failed: ")
    assert "Posts.xml" in last
    assert demo(tmp_path, empty).returncode == 1  # its own folder is no obstacle


def test_folder_that_the_demo_did_not_make_is_left_alone(tmp_path: Path) -> None:
    own = tmp_path / ".headwater" / "demo" / "stackexchange"
    own.mkdir(parents=True)
    (own / "thesis.txt").write_text("years of work")
    done = demo(tmp_path, tmp_path)
    assert done.returncode == 2
    assert "--directory" in done.stderr
    assert (own / "thesis.txt").read_text() == "years of work"
