"""One of the processes that answer requests beside an engine node: `python -m serving.worker`.

It is told what to do in the first line of its standard input, and says `ready` on its standard
output once it listens. Where the input ends, whoever started it is gone, and it ends too.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from feeds.errors import FeedsError
from serving.imports import refuse_training_imports
from serving.logs import configure_logs
from serving.settings import Settings

__all__ = ["READY", "WorkerPlan", "main"]

READY: Final = b"ready\n"
"""What a worker says once it answers."""

METRICS_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that names the directory where all workers' metrics are, to Prometheus."""

NOTED_S: Final = 1.0
"""Seconds between two notes of the store's lag and of what tenants asked."""


class WorkerPlan(msgspec.Struct, frozen=True):
    """What a worker is told: one line of JSON."""

    number: int
    settings: str
    """`Settings` as JSON."""
    listener: int
    """The descriptor of the socket that all workers accept on."""
    slates: str
    """The file of the slates that they share."""
    places: str
    """The file in which they tell each other how many connections they have."""
    clock_started_ns: int
    """When the service's clock was started, by the system's monotonic one."""

    def line(self) -> bytes:
        """The plan as it is sent."""
        return msgspec.json.encode(self) + b"\n"


def main() -> int:
    """Answer requests until told to stop; the exit status."""
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerPlan)
    refuse_training_imports()
    _name_metrics(plan.number)
    try:
        _serve(plan, Settings(**msgspec.json.decode(plan.settings)))
    except FeedsError as error:
        print(f"worker {plan.number}: {error}", file=sys.stderr)  # noqa: T201 - to who started it
        return 1
    return 0


def _name_metrics(number: int) -> None:
    """Let this worker's metrics have its number, so that one in its place goes on counting."""
    from prometheus_client import values  # noqa: PLC0415 - before any metric is made

    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


def _say_ready() -> None:
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads on


def _serve(plan: WorkerPlan, settings: Settings) -> None:
    from serving.acceptor import Places  # noqa: PLC0415 - once training's libraries are refused
    from serving.app import create_app  # noqa: PLC0415
    from serving.asgi_server import ToldServer  # noqa: PLC0415
    from serving.compose import clock_from, compose  # noqa: PLC0415
    from serving.http_protocol import uvicorn_config  # noqa: PLC0415
    from serving.shared_served import SharedServed  # noqa: PLC0415
    from serving.shared_slates import SharedSlates  # noqa: PLC0415

    configure_logs(settings.log_level, settings.log_format)
    listener = socket.socket(fileno=plan.listener)
    slates = SharedSlates(
        Path(plan.slates), time.monotonic, settings.slates_max, settings.slate_ttl_s
    )
    clock_us = clock_from(settings.clock_start_us, started_ns=plan.clock_started_ns)
    served = SharedServed(
        Path(plan.slates).with_name("served.sqlite"),
        time.monotonic,
        settings.served_max,
        settings.served_users_max,
        settings.served_ttl_s,
    )
    services = compose(
        settings, slates=slates, clock_us=clock_us, served=served, worker=plan.number
    )
    config = uvicorn_config(create_app(services), settings)
    places = Places.opened(Path(plan.places), plan.number - 1)
    server = ToldServer(config, _say_ready, places)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it is down; then there is nothing left to do.
        signal.signal(number, lambda *_: None)

    async def serve() -> None:
        beside = [asyncio.create_task(_note()), asyncio.create_task(_end_with_input())]
        try:
            await server.serve(sockets=[listener])
        finally:
            for task in beside:
                task.cancel()
            for task in beside:
                with suppress(asyncio.CancelledError):
                    await task

    async def _note() -> None:
        while True:
            services.reads.problem()
            services.tenant_metrics.save()
            await asyncio.sleep(NOTED_S)

    async def _end_with_input() -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        await reader.read()
        server.should_exit = True

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(serve())


if __name__ == "__main__":
    sys.exit(main())
