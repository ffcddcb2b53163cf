"""`headwater serve`: one process that answers, and the loader beside it."""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
import typer

from serving.imports import refuse_training_imports
from serving.settings import Settings, load_settings

__all__ = ["LoaderProcess", "command", "loader_arguments"]

_log = structlog.get_logger(__name__)

LOADER_STOP_S: Final = 5.0
"""Seconds that the loader is given to end."""
RESTART_FIRST_S: Final = 1.0
RESTART_MAX_S: Final = 60.0
"""Seconds before a loader that ended is started again: doubled each time, up to this."""


def command(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one.", show_default="8000")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Directory of log and store.", show_default=".headwater/data"),
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(
            help="Model registry: mlflow+sqlite:///FILE or dir:DIRECTORY.",
            show_default="MLflow on SQLite in the data directory",
        ),
    ] = None,
    clock_start: Annotated[
        str | None,
        typer.Option(help="Time at which the clock starts, for replays.", show_default="now"),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error.", show_default="info")
    ] = None,
    loader: Annotated[
        bool | None,
        typer.Option("--loader/--no-loader", help="Follow models.", show_default="loader"),
    ] = None,
    address_file: Annotated[
        Path | None, typer.Option(help="File that gets the address once it listens.")
    ] = None,
) -> None:
    """Serve feeds: the API, the engine and the live models of every tenant."""
    given = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "registry": registry,
        "clock_start": clock_start,
        "log_level": log_level,
        "loader": loader,
    }
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    refuse_training_imports()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core: more threads are slower
    _serve(settings, address_file)


def _serve(settings: Settings, address_file: Path | None) -> None:
    import uvicorn  # noqa: PLC0415 - the command line starts without it

    from serving.app import create_app  # noqa: PLC0415 - and without FastAPI
    from serving.compose import compose  # noqa: PLC0415
    from serving.http_protocol import uvicorn_config  # noqa: PLC0415
    from serving.telemetry import configure_logs  # noqa: PLC0415

    configure_logs(settings.log_level)
    listener = _bind(settings)
    services = compose(settings)

    class AnnouncingServer(uvicorn.Server):
        """Tells where it listens once it does, and runs the loader meanwhile."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                # What was loaded so far stays: a collection in a request need not look at it.
                gc.collect()
                gc.freeze()
                _announce(listener, address_file)

    config = uvicorn_config(create_app(services), settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it is down; then there is nothing left to do.
        signal.signal(number, lambda *_: None)
    loader = None
    if settings.loader:
        loader = LoaderProcess(loader_arguments(settings))
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_run(AnnouncingServer(config), listener, loader))


async def _run(server: Any, listener: socket.socket, loader: "LoaderProcess | None") -> None:
    """Serve until told to stop; the loader ends with it."""  # Any: uvicorn is imported late
    watching = asyncio.create_task(loader.watch()) if loader else None
    try:
        await server.serve(sockets=[listener])
    finally:
        if watching is not None:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching


def _bind(settings: Settings) -> socket.socket:
    """The socket to listen on, bound before anything is opened: a port in use costs nothing."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        typer.echo(
            f"{settings.host}:{settings.port} cannot be listened on ({error.strerror}): "
            "choose another with --port, or 0 for a free one",
            err=True,
        )
        raise typer.Exit(1) from None
    return listener


def _announce(listener: socket.socket, address_file: Path | None) -> None:
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    typer.echo(address)
    sys.stdout.flush()
    if address_file is not None:
        address_file.write_text(address + "\n")
    _log.info("serving", address=address)


def loader_arguments(settings: Settings) -> list[str]:
    """The command line of the loader process; it follows every tenant of the registry."""
    return [
        *(sys.executable, "-m", "serving.loader"),
        *("--registry", settings.registry_uri),
        *("--out", str(settings.models_path)),
        *("--poll-s", str(settings.loader_poll_s)),
    ]


class LoaderProcess:
    """The loader beside the service: started again where it ends, ended with the service.

    Its standard input is a pipe whose other end only this process holds: where this process is
    killed, the pipe ends, and so does the loader.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = list(arguments)

    async def watch(self) -> None:
        """Run the loader until cancelled, then end it."""
        pause_s = RESTART_FIRST_S
        while True:
            process = await asyncio.create_subprocess_exec(
                *self._arguments, stdin=asyncio.subprocess.PIPE
            )
            try:
                status = await process.wait()
            except asyncio.CancelledError:
                await _end(process)
                raise
            _log.error("loader_ended", status=status, restart_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RESTART_MAX_S)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask a process to end, then make it."""
    for stop in (process.terminate, process.kill):
        with suppress(ProcessLookupError):
            stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), LOADER_STOP_S)
            return
