import operator
import os
import socket
from pathlib import Path

import pytest

from training.cluster import open_workers
from training.config import ClusterConfig
from training.errors import ClusterError
from training.testing_workers import DiesOnce, dies


def test_tasks_wait_for_tasks_inline() -> None:
    with open_workers("inline") as workers:
        one = workers.submit(operator.add, 1, 2)
        assert workers.submit(operator.add, one, one).result() == 6


def test_tasks_run_in_other_processes_on_a_local_cluster() -> None:
    with open_workers(config=ClusterConfig(workers=1)) as workers:
        first = workers.submit(os.getpid)
        assert workers.submit(operator.add, first, 0).result() != os.getpid()


def test_a_scheduler_that_does_not_answer_is_refused_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(ClusterError, match="dask scheduler"),
            open_workers(address, ClusterConfig(connect_s_max=1)),
        ):
            pass


def test_a_step_whose_worker_is_killed_runs_again_and_one_that_always_dies_is_told(
    tmp_path: Path,
) -> None:
    config = ClusterConfig(workers=1, deaths_max=2, without_workers_s_max=240)
    with open_workers(config=config) as workers:
        assert workers.places == 1
        task = workers.submit(DiesOnce(tmp_path / "marker", str), "done")
        assert task.result() == "done"
        assert task.wait(0.0)
        with pytest.raises(ClusterError, match=r"lost a step of the training .* nothing was"):
            workers.submit(dies, task).result()


def test_worker_that_dask_gives_up_is_made_anew(tmp_path: Path) -> None:
    config = ClusterConfig(workers=1, deaths_max=2, restart_s_max=0, without_workers_s_max=240)
    with open_workers(config=config) as workers:
        assert workers.submit(DiesOnce(tmp_path / "marker", str), "done").result() == "done"
