"""The main job in small, by the commands that a newcomer types."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from feeds.model import TenantId
from ranking.bundle import ModelBundle
from ranking.registry import open_registry

ACME = TenantId("acme")


@pytest.fixture
def dump() -> Path:
    path = Path(
        os.environ.get("HEADWATER_DATA", "../shared/data"), "stackexchange-quantumcomputing"
    ).resolve()
    if not path.is_dir():
        assert os.environ.get("CI") != "true", f"{path} is needed in CI: set HEADWATER_DATA"
        pytest.skip(f"{path} is not here: set HEADWATER_DATA to the directory of data sets")
    return path


class Job:
    """A directory in which commands run, and what each of them answered."""

    def __init__(self, home: Path, dump: Path) -> None:
        self.home = home
        dataset, tenant = ("--dataset", "stackexchange"), ("--tenant", "acme")
        events = ("--events", "events")
        self.prepared = self.run("prepare", *dataset, "--path", str(dump), "--out", "acts.jsonl")
        self.imported = self.run("import", "acts.jsonl", *tenant)
        self.exported = self.run("export", *tenant, "--out", "events")
        self.trained = self.run("train", *tenant, *events, *dataset, "--promote", "--out", "out")
        self.judged = self.run("evaluate", *tenant, *events, *dataset)
        self.shown = self.run("models", "show", "acme")

    def run(self, *arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "serving", *arguments, "--json"],
            cwd=self.home,
            env={name: value for name, value in os.environ.items() if "HEADWATER" not in name},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    @property
    def report(self) -> dict[str, Any]:
        written: dict[str, Any] = json.loads(Path(self.trained["report_path"]).read_bytes())
        return written


def test_the_main_job_runs_from_a_dump_to_a_live_version(dump: Path, tmp_path: Path) -> None:
    """One test, so that the job runs once however tests are spread over processes."""
    (tmp_path / "job").mkdir()
    job = Job(tmp_path / "job", dump)
    every_action_becomes_one_exported_event(job)
    the_version_is_live_in_a_sqlite_registry_and_its_bundle_loads(job, tmp_path)
    the_report_has_the_figures_that_every_report_needs(job)
    the_ranker_is_not_worse_than_chronological_and_says_where_it_is_not_better(job)
    a_published_version_is_judged_as_in_training(job)


def every_action_becomes_one_exported_event(job: Job) -> None:
    assert job.exported["events"] == job.imported["actions"] == sum(job.prepared["counts"].values())
    assert job.report["counts"]["events"] == job.exported["events"]


def the_version_is_live_in_a_sqlite_registry_and_its_bundle_loads(job: Job, tmp_path: Path) -> None:
    registry = open_registry(f"mlflow+sqlite:///{job.home / '.headwater/data/registry/mlflow.db'}")
    try:
        live = registry.alias(ACME, "live")
        assert live is not None
        bundle = ModelBundle.load(registry.fetch(live, tmp_path / "bundle"), digest=live.digest)
    finally:
        registry.close()
    assert live.version == job.trained["version"] == job.report["model_version"]
    assert (bundle.tenant, bundle.kind) == (ACME, job.report["model_kind"])
    assert bundle.metrics["ndcg_at_10"] == of(job.report, job.report["model"])["ndcg"]
    assert job.shown["aliases"] == ["live"]
    assert ModelBundle.load(Path(job.trained["bundle"])).digest == live.digest


def the_report_has_the_figures_that_every_report_needs(job: Job) -> None:
    report = job.report
    names = [ranker["name"] for ranker in report["rankers"]]
    assert {"random", "chronological", "popular", report["model"]} <= set(names)
    for ranker in report["rankers"]:
        low, high = ranker["interval"]
        assert 0 <= low <= ranker["ndcg"] <= high <= 1
        assert 0 <= ranker["ndcg_by_user"] <= 1
    assert 0 < report["reach"] <= 1
    assert report["seconds"]["all"] > 0
    assert [part["name"] for part in report["parts"]] == ["ranker", "validation", "test"]
    assert any(sentence.startswith("Follows are derived") for sentence in report["derived"])
    assert any("no impressions" in sentence for sentence in report["derived"])
    assert set(report["statements"]) >= {*report["verdicts"], *report["conventions"]}
    assert report["events_fingerprint"] != report["training_fingerprint"]
    assert report["example_users"] == job.trained["example_users"] != []


def the_ranker_is_not_worse_than_chronological_and_says_where_it_is_not_better(
    job: Job,
) -> None:
    chosen = of(job.report, job.report["model"])
    verdicts = {one["baseline"]: one for one in chosen["comparisons"]}
    assert verdicts["chronological"]["verdict"] in ("better", "level")
    not_better = [
        name
        for name, one in verdicts.items()
        for verdict in (one["verdict"], one["by_user_verdict"])
        if verdict != "better"
    ]
    told = job.report["not_better"]
    assert len(told) == len(not_better)
    assert all(name in sentence for name, sentence in zip(not_better, told, strict=True))


def a_published_version_is_judged_as_in_training(job: Job) -> None:
    assert (
        of(job.judged, job.judged["model"])["ndcg"] == of(job.report, job.report["model"])["ndcg"]
    )
    assert job.judged["model_version"] == job.trained["version"]
    assert of(job.judged, "popular") == of(job.report, "popular")


def of(report: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in report["rankers"] if one["name"] == name)
    return found
