"""`headwater serve`: one process that answers, the loader beside it; or workers beside a node."""

import asyncio
import os
import signal
import socket
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from serving.children import LoaderProcess, loader_arguments
from serving.imports import refuse_training_imports
from serving.logs import configure_logs
from serving.settings import Settings, load_settings
from serving.tracing import check_tracing

__all__ = ["command"]

_log = structlog.get_logger(__name__)


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
    engine: Annotated[
        Path | None,
        typer.Option(
            help="Socket of an engine node to serve beside, instead of having the data directory."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that answer, beside an engine node.", show_default="1"),
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(
            help="Model registry: mlflow+sqlite:///FILE, "
            "mlflow+postgresql://USER@HOST/NAME#ARTIFACTS or dir:DIRECTORY.",
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
    """Serve feeds: the API, the engine and the live models of every tenant.

    With --engine, the log and store are an engine node's (`headwater cluster`), and --workers
    processes answer beside it; models and registry stay in the data directory.
    """
    given = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "engine": engine,
        "workers": workers,
        "registry": registry,
        "clock_start": clock_start,
        "log_level": log_level,
        "loader": loader,
    }
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    configure_logs(settings.log_level, settings.log_format)
    check_tracing(settings)
    refuse_training_imports()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core: more threads are slower
    if settings.engine is None:
        _serve(settings, address_file)
    else:
        _serve_beside(settings, address_file)


def _serve_beside(settings: Settings, address_file: Path | None) -> None:
    from serving.workers import serve_workers  # noqa: PLC0415 - where it is needed

    with closing(_bind(settings)) as listener:
        serve_workers(settings, listener, lambda: _announce(listener, address_file))


def _serve(settings: Settings, address_file: Path | None) -> None:
    from serving.app import create_app  # noqa: PLC0415 - the command line starts without FastAPI
    from serving.asgi_server import ToldServer  # noqa: PLC0415 - and without uvicorn
    from serving.compose import compose  # noqa: PLC0415
    from serving.http_protocol import uvicorn_config  # noqa: PLC0415

    listener = _bind(settings)
    config = uvicorn_config(create_app(compose(settings)), settings)
    server = ToldServer(config, lambda: _announce(listener, address_file))
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it is down; then there is nothing left to do.
        signal.signal(number, lambda *_: None)
    loader = None
    if settings.loader:
        loader = LoaderProcess(loader_arguments(settings))
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_run(server, listener, loader))


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
