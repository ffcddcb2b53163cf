"""The protocols by which the evaluation itself is held to figures; docs/evaluation.md has them.

Each is a module of this package with a function `run`, found by its name. None is imported before
it runs.
"""

import importlib

import msgspec

from training.errors import TrainingError
from training.protocols.base import (
    Check,
    Figure,
    ProtocolOptions,
    ProtocolReport,
    RunProtocol,
)
from training.sources.base import Progress, no_progress
from training.trainers.base import Stopwatch

__all__ = [
    "PROTOCOLS",
    "Check",
    "Figure",
    "ProtocolOptions",
    "ProtocolReport",
    "RunProtocol",
    "find_protocol",
    "run_protocol",
]

PROTOCOLS = ("p1", "p2", "p3", "p4", "p5")
"""The protocols by name."""


def find_protocol(name: str) -> RunProtocol:
    """What runs a protocol; raises `TrainingError` for a name that is none."""
    module = f"{__name__}.{name}"
    try:
        found: RunProtocol = importlib.import_module(module).run
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise TrainingError(
            f"there is no protocol {name!r} in this release: use one of {', '.join(PROTOCOLS)}"
        ) from error
    return found


def run_protocol(
    name: str, options: ProtocolOptions | None = None, progress: Progress = no_progress
) -> ProtocolReport:
    """Run a protocol; raises `TrainingError` where its data is not to be had."""
    options = options or ProtocolOptions()
    watch = Stopwatch()
    report = find_protocol(name)(options, progress)
    return msgspec.structs.replace(report, short=options.short, seconds=watch.seconds)
