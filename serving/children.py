"""Processes beside the service: started again where they end, ended with the service."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog

from serving.settings import Settings

__all__ = ["LoaderProcess", "end_process", "loader_arguments"]

_log = structlog.get_logger(__name__)

LOADER_STOP_S: Final = 5.0
"""Seconds that the loader is given to end."""
RESTART_FIRST_S: Final = 1.0
RESTART_MAX_S: Final = 60.0
"""Seconds before a loader that ended is started again: doubled each time, up to this."""


def loader_arguments(settings: Settings) -> list[str]:
    """The command line of the loader process; it follows every tenant of the registry."""
    return [
        *(sys.executable, "-m", "serving.loader"),
        *("--registry", settings.registry_uri),
        *("--out", str(settings.models_path)),
        *("--poll-s", str(settings.loader_poll_s)),
        *("--model-bytes-max", str(settings.model_bytes_max)),
        *("--model-load-s-max", str(settings.model_load_s_max)),
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
                await end_process(process, LOADER_STOP_S)
                raise
            _log.error("loader_ended", status=status, restart_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RESTART_MAX_S)


async def end_process(process: asyncio.subprocess.Process, stop_s: float) -> None:
    """Ask a process to end, and after `stop_s` make it."""
    for stop in (process.terminate, process.kill):
        with suppress(ProcessLookupError):
            stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), stop_s)
            return
