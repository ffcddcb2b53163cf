"""How a process of the service writes its log."""

import logging
import sys
from typing import Final, Literal

import structlog
from structlog.typing import Processor

__all__ = ["LogFormat", "configure_logs"]

LogFormat = Literal["json", "text"]

_RENDERERS: Final[dict[LogFormat, Processor]] = {
    "json": structlog.processors.JSONRenderer(),
    "text": structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
}


def configure_logs(level: str, form: LogFormat = "json") -> None:
    """One line for each event on stderr, from `level` on; other libraries from warnings on.

    `json`: an object a line. `text`: the same as `key='value'`, for people. Either way nothing that
    is logged can begin a line of its own.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _RENDERERS[form],
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr, format="%(message)s")
