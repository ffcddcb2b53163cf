"""Training on a Dask cluster that others started, each part of it a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.testing import wait_until
from training.config import BoostedConfig, BoostedVariant, FactorizationConfig, TrainingConfig
from training.flow import train_tenant
from training.testing import community, events_of, log_of, write_export

SMALL = TrainingConfig(
    factorization=FactorizationConfig(dimensions=4, epochs=3),
    boosted=BoostedConfig(variants=(BoostedVariant("boosted-3", 3),), trees_max=10),
)


@dataclass(frozen=True)
class Cluster:
    """A scheduler and one worker; `log` holds what both wrote."""

    address: str
    log: Path
    processes: list["subprocess.Popen[bytes]"]


@contextmanager
def started(log: Path, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A Dask process until the block ends; nothing else is stopped."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], stdout=stream, stderr=stream, cwd=log.parent
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("cluster")
    log, file = home / "dask.log", home / "scheduler.json"
    here = ("--host", "127.0.0.1", "--no-dashboard")
    with ExitStack() as stack:
        scheduler = stack.enter_context(
            started(
                log, "distributed.cli.dask_scheduler", *here, "--port", "0", "--scheduler-file",
                str(file),
            )
        )  # fmt: skip
        wait_until(lambda: _whole(file) or scheduler.poll() is not None, "the scheduler")
        assert scheduler.poll() is None, log.read_text()
        address = json.loads(file.read_text())["address"]
        worker = stack.enter_context(
            started(
                log, "distributed.cli.dask_worker", address, *here, "--nthreads", "1",
                "--no-nanny", "--local-directory", str(home),
            )
        )  # fmt: skip
        yield Cluster(address, log, [scheduler, worker])


def _whole(file: Path) -> bool:
    """The scheduler makes the file first, and then writes it."""
    return file.exists() and file.read_text().rstrip().endswith("}")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    events = log_of(events_of(community(1, users=20, days=20)))
    return write_export(events, tmp_path_factory.mktemp("export"))


def headwater(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "serving", *map(str, arguments)],
        env={name: value for name, value in os.environ.items() if "HEADWATER" not in name},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_model_is_trained_by_the_workers_of_a_scheduler_that_goes_on(
    cluster: Cluster, export: Path, tmp_path: Path
) -> None:
    done = headwater(
        *("train", "--tenant", "acme", "--events", export, "--out", tmp_path / "out", "--json"),
        *("--registry", f"dir:{tmp_path / 'registry'}", "--scheduler", cluster.address),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["version"] == 1
    assert [process.poll() for process in cluster.processes] == [None, None]


def test_an_error_in_a_worker_is_one_sentence_here_and_no_traceback_there(
    cluster: Cluster, tmp_path: Path
) -> None:
    done = headwater(
        *("train", "--tenant", "acme", "--events", tmp_path, "--out", tmp_path / "out", "--json"),
        *("--registry", f"dir:{tmp_path / 'registry'}", "--scheduler", cluster.address),
    )
    assert done.returncode == 1
    assert "there is no such file" in json.loads(done.stdout)["error"]
    assert done.stderr == ""
    assert "Compute Failed" not in cluster.log.read_text()


def test_the_same_run_on_a_cluster_and_in_this_process_gives_the_same_bundle(
    cluster: Cluster, export: Path, tmp_path: Path
) -> None:
    bundles = [
        train_tenant(
            export,
            "acme",
            out=tmp_path / scheduler.partition(":")[0],
            config=SMALL,
            scheduler=scheduler,
            clock=lambda: 1_000_000,
        ).bundle
        for scheduler in (cluster.address, "inline")
    ]
    assert bundles[0] != bundles[1]
    assert bundles[0].name == bundles[1].name
    assert contents(bundles[0]) == contents(bundles[1])


def contents(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(bundle.iterdir())}
