"""`headwater serve --engine SOCKET`: starts the workers, and others where they end.

This process binds the socket that all of them accept on, and answers no request itself. What they
share (slates, metrics, scratch space) lies in a directory that goes with it.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import structlog

from feeds.client import EngineClient
from serving.acceptor import make_places
from serving.children import LoaderProcess, end_process, loader_arguments
from serving.settings import Settings
from serving.worker import METRICS_DIRECTORY, READY, WorkerPlan

__all__ = ["WorkerProcess", "WorkersFailed", "serve_workers"]

_log = structlog.get_logger(__name__)

RESTART_FIRST_S: Final = 0.2
RESTART_MAX_S: Final = 5.0
"""Seconds before a worker that ended is started again: doubled each time, up to this."""

CALM_S: Final = 30.0
"""Seconds after which a worker that ended is no longer counted as having ended again."""

CONNECT_S: Final = 5.0
"""Seconds that the engine node is given to answer before any worker is started."""

STOP_EXTRA_S: Final = 8.0
"""Seconds beyond `shutdown_s` that a worker is given to end: for its writes under way."""


class WorkersFailed(Exception):
    """A worker ended before it was ready; its own error says why."""


def serve_workers(
    settings: Settings, listener: socket.socket, announce: Callable[[], None]
) -> None:
    """Run `settings.workers` workers until told to stop; `announce` once all of them answer.

    Raises `StorageError` where the engine node does not answer, and `WorkersFailed`.
    """
    assert settings.engine is not None
    EngineClient.connect(settings.engine, CONNECT_S).close()
    with TemporaryDirectory(prefix="headwater-serve-") as shared:
        asyncio.run(_supervise(settings, listener, Path(shared), announce))


async def _supervise(
    settings: Settings, listener: socket.socket, shared: Path, announce: Callable[[], None]
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    started_ns, places = time.monotonic_ns(), shared / "places"
    make_places(places, settings.workers)
    workers = [
        WorkerProcess(
            WorkerPlan(
                number,
                settings.model_dump_json(),
                listener.fileno(),
                str(shared / "slates"),
                str(places),
                started_ns,
            ),
            shared,
            settings.shutdown_s + STOP_EXTRA_S,
        )
        for number in range(1, settings.workers + 1)
    ]
    watching = [asyncio.create_task(worker.watch()) for worker in workers]
    if settings.loader:
        loader = LoaderProcess(loader_arguments(settings))
        watching.append(asyncio.create_task(loader.watch()))

    async def announce_once_ready() -> None:
        for worker in workers:
            await worker.ready.wait()
        announce()
        await stop.wait()

    serving = asyncio.create_task(announce_once_ready())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([serving, stopping, *watching], return_when=asyncio.FIRST_COMPLETED)
    finally:
        tasks = [serving, stopping, *watching]
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error


class WorkerProcess:
    """A worker: started again where it ends, later each time, and ended with the service.

    Its standard input is a pipe whose other end only this process holds: where this process is
    killed, the pipe ends, and so does the worker.
    """

    def __init__(self, plan: WorkerPlan, shared: Path, stop_s: float) -> None:
        """`shared` is the directory that all workers share."""
        self.ready = asyncio.Event()
        self._plan = plan
        self._metrics = shared / "metrics"
        self._metrics.mkdir(exist_ok=True)
        self._environment = {
            **os.environ,
            METRICS_DIRECTORY: str(self._metrics),
            "TMPDIR": str(shared),
        }
        self._stop_s = stop_s

    async def watch(self) -> None:
        """Run the worker until cancelled, then end it.

        Raises `WorkersFailed` where it ends before it was ever ready.
        """
        pause_s, number = RESTART_FIRST_S, self._plan.number
        while True:
            began_s = time.monotonic()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "serving.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=self._environment,
                pass_fds=(self._plan.listener,),
            )
            try:
                status = await self._run(process)
            except asyncio.CancelledError:
                await end_process(process, self._stop_s)
                raise
            if not self.ready.is_set():
                raise WorkersFailed(
                    f"worker {number} ended with status {status} before it was ready: what it "
                    "said above has the cause"
                )
            self._forget_gauges()
            if time.monotonic() - began_s > CALM_S:
                pause_s = RESTART_FIRST_S
            _log.error("worker_ended", worker=number, status=status, restart_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RESTART_MAX_S)

    async def _run(self, process: asyncio.subprocess.Process) -> int:
        """Tell the process what to do; its status once it has ended."""
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(ConnectionError):  # it has ended already: the status says so
            process.stdin.write(self._plan.line())
            await process.stdin.drain()
        async for line in process.stdout:
            if line == READY:
                self.ready.set()
                _log.info("worker_ready", worker=self._plan.number, pid=process.pid)
        return await process.wait()

    def _forget_gauges(self) -> None:
        """What the dead worker last measured is true no longer; what it counted still is."""
        for path in self._metrics.glob(f"gauge_live*_{self._plan.number}.db"):
            path.unlink()
