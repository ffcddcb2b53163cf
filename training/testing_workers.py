"""Steps that take their worker with them: what a cluster of workers has to live through."""

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["DiesOnce", "dies"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DiesOnce(Generic[T]):
    """A step that kills the process that runs it, but for all of its runs after the first."""

    marker: Path
    """A file that the first run makes before it dies, and the others find."""
    function: Callable[..., T]

    def __call__(self, *arguments: object) -> T:
        """Whatever the function returns for these arguments, where a process was killed before."""
        with contextlib.suppress(FileExistsError):
            self.marker.touch(exist_ok=False)
            dies()
        return self.function(*arguments)


def dies(*arguments: object) -> None:
    """Kill the process that runs it, whatever it was given."""
    del arguments
    os.kill(os.getpid(), signal.SIGKILL)
