"""Where work runs: in Dask's worker processes, or inline. The only place that makes a Client.

Steps are functions of file paths and small frozen configs; big arrays never travel, so workers of a
remote scheduler need the same files (a shared directory) and the same version of this package.
"""

import contextlib
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from training.config import ClusterConfig
from training.errors import TOLD, ClusterError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["InlineWorkers", "Task", "Workers", "client_of_worker", "open_workers"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Task(Protocol[T_co]):
    """Work that was handed in; give it as an argument to make another task wait for it."""

    def result(self) -> T_co:
        """What the work returned, waiting for it; raises what it raised."""
        ...

    def wait(self, seconds: float) -> bool:
        """Whether the work ends within so many seconds."""
        ...


class Workers(Protocol):
    """Runs functions, each once its arguments that are tasks are done."""

    @property
    def places(self) -> int:
        """How many tasks can run at once."""
        ...

    def submit(self, function: Callable[..., T], *arguments: object) -> Task[T]:
        """Hand in `function(*arguments)`; tasks among the arguments become their results."""
        ...

    def first_done(self, tasks: Sequence[Task[object]], seconds: float) -> list[Task[object]]:
        """Those that have ended, waiting for the first so many seconds at most.

        Raises `ClusterError` where there was no worker for too long.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Failed:
    """An error that is told to the user, as the result of a task.

    Raised in a worker, it would come to the terminal from Dask as well, with a traceback.
    """

    error: Exception


@dataclass(frozen=True, slots=True, eq=False)
class _Done(Generic[T]):
    value: T | _Failed

    def result(self) -> T:
        return _told(self.value)

    def wait(self, seconds: float) -> bool:
        del seconds
        return True


class InlineWorkers:
    """Runs everything at once in this process: for tests, notebooks and debuggers."""

    @property
    def places(self) -> int:
        """One: this thread."""
        return 1

    def submit(self, function: Callable[..., T], *arguments: object) -> Task[T]:
        """Run it now; an error that is told to the user is raised by `result`, others here."""
        ready = [a.value if isinstance(a, _Done) else a for a in arguments]
        return _Done(_run(function, *ready))

    def first_done(self, tasks: Sequence[Task[object]], seconds: float) -> list[Task[object]]:
        """All of them: they ended when they were handed in."""
        del seconds
        return list(tasks)


def _told(value: T | _Failed) -> T:
    if isinstance(value, _Failed):
        raise value.error
    return value


def _run(function: Callable[..., T], *arguments: object) -> T | _Failed:
    """Run it in a worker; where an argument failed, that failure is the result."""
    for argument in arguments:
        if isinstance(argument, _Failed):
            return argument
    try:
        return function(*arguments)
    except TOLD as error:
        error.add_note(f"In a worker:\n{traceback.format_exc()}")
        return _Failed(error)


@dataclass(frozen=True, slots=True, eq=False)
class _Submitted(Generic[T]):
    """A task of the cluster; `future` gives what `_run` returned."""

    future: Any  # Any: distributed has no types
    workers: "_DaskWorkers"

    def result(self) -> T:
        from distributed import KilledWorker  # noqa: PLC0415
        from distributed.client import FutureCancelledError  # noqa: PLC0415
        from distributed.comm import CommClosedError  # noqa: PLC0415

        try:
            while not self.wait(_LOOK_S):
                self.workers.check()
            value = self.future.result()
        except (KilledWorker, FutureCancelledError, CommClosedError) as error:
            raise _lost(type(error).__name__) from error
        return cast("T", _told(value))

    def wait(self, seconds: float) -> bool:
        from distributed import wait  # noqa: PLC0415

        with contextlib.suppress(TimeoutError):
            wait(self.future, timeout=seconds)
        return bool(self.future.done())


_LOOK_S = 1.0
"""Seconds between two looks at whether there are workers at all."""


def _lost(why: str) -> ClusterError:
    return ClusterError(
        f"the cluster lost a step of the training ({why}): a worker ended, most likely for want of "
        "memory or because it runs another version of Headwater, or the scheduler did; nothing was "
        "published; train again with fewer --workers, or give the workers more memory"
    )


class _DaskWorkers:
    """Workers of a Dask cluster; `renew` makes those anew that a local one has lost for good."""

    def __init__(
        self, client: "Client", config: ClusterConfig, renew: Callable[[], None] | None
    ) -> None:
        self._client = client
        self._workers = config.workers
        self._renew = renew
        self._without_s_max = config.without_workers_s_max
        self._seen_s = time.monotonic()

    @property
    def places(self) -> int:
        threads: dict[str, int] = self._client.nthreads()
        return max(1, sum(threads.values()))

    def check(self) -> None:
        """Raise `ClusterError` where there was no worker for too long.

        Dask's own keeper of a worker gives up where it dies while it starts, or is long in coming
        back, and makes no other: a task would wait for ever.
        """
        now, there = time.monotonic(), len(self._client.nthreads())
        if self._renew is not None and there < self._workers:
            self._renew()
        if there:
            self._seen_s = now
        elif now - self._seen_s > self._without_s_max:
            raise _lost(f"no worker for {now - self._seen_s:.0f} s")

    def submit(self, function: Callable[..., T], *arguments: object) -> Task[T]:
        ready = [a.future if isinstance(a, _Submitted) else a for a in arguments]
        # pure=False: every call runs, even one that equals an earlier one in all but the clock.
        future = self._client.submit(_run, function, *ready, pure=False)
        return _Submitted(future, self)

    def first_done(self, tasks: Sequence[Task[object]], seconds: float) -> list[Task[object]]:
        from distributed import wait  # noqa: PLC0415

        futures = [task.future for task in tasks if isinstance(task, _Submitted)]
        with contextlib.suppress(TimeoutError):
            wait(futures, timeout=seconds, return_when="FIRST_COMPLETED")
        self.check()
        return [task for task in tasks if isinstance(task, _Submitted) and task.future.done()]


@contextlib.contextmanager
def client_of_worker() -> Iterator["Client"]:
    """The cluster of the worker that this runs in, whose place is free for the time of a `with`.

    Raises `ClusterError` where this is no worker.
    """
    from distributed import get_worker, worker_client  # noqa: PLC0415

    try:
        get_worker()
    except ValueError as error:
        raise ClusterError(
            "what takes all workers must be a step on one of them: use --scheduler, or a local "
            "cluster with more than one worker"
        ) from error
    with worker_client() as client:
        yield client


@contextlib.contextmanager
def open_workers(
    scheduler: str | None = None, config: ClusterConfig | None = None
) -> Iterator[Workers]:
    """Workers for the time of a `with` block.

    `scheduler` None starts a local cluster of processes, bound to loopback; `tcp://…` (or `tls://…`)
    uses that cluster and leaves it running; `inline` runs in this process. Raises `ClusterError`.
    """
    config = config or ClusterConfig()
    if scheduler == "inline":
        yield InlineWorkers()
        return
    with contextlib.ExitStack() as stack:
        yield _connect(scheduler, config, stack)


def _connect(
    scheduler: str | None, config: ClusterConfig, stack: contextlib.ExitStack
) -> _DaskWorkers:
    import dask  # noqa: PLC0415 - one second that only training pays
    from distributed import Client  # noqa: PLC0415

    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-dask-"))
    stack.enter_context(
        dask.config.set(
            {
                "temporary-directory": directory,
                "distributed.admin.system-monitor.gil.enabled": False,
                "distributed.worker.profile.enabled": False,
                "distributed.scheduler.allowed-failures": config.deaths_max - 1,
                "distributed.deploy.lost-worker-timeout": f"{config.restart_s_max} s",
            }
        )
    )
    cluster = None if scheduler else stack.enter_context(_local_cluster(config))
    try:
        client = stack.enter_context(Client(scheduler or cluster, timeout=config.connect_s_max))
        client.wait_for_workers(1, timeout=config.start_s_max)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            f"no Dask workers at {scheduler or 'the local cluster'} ({error}); start them with "
            "`dask scheduler` and `dask worker`, or leave --scheduler out to run on this machine"
        ) from error
    renew = None if cluster is None else partial(cluster.scale, config.workers)
    return _DaskWorkers(client, config, renew)


def _local_cluster(config: ClusterConfig) -> Any:  # Any: distributed has no types
    from distributed import LocalCluster  # noqa: PLC0415

    # Left to itself, Dask's dashboard listens on every interface, and warns if its port is taken.
    return LocalCluster(
        n_workers=config.workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=config.dashboard_address,
        worker_dashboard_address=None,
        memory_limit=config.worker_memory_bytes,
        silence_logs=40,
    )
