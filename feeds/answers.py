"""From what a replica answered to what a caller asked for, or the error that it is."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from feeds.errors import ReplicaStopped
from feeds.replication.base import Applied
from feeds.results import Rejected, Result, decode_result

__all__ = ["answer", "answered"]

_Answer = TypeVar("_Answer", bound=Result)
_Value = TypeVar("_Value")


def answer(applied: Applied, kind: type[_Answer]) -> _Answer:
    """The decoded answer; raises the error that it says, or `ReplicaStopped` if it is another."""
    result = decode_result(applied.result)
    if isinstance(result, Rejected):
        raise result.error()
    if not isinstance(result, kind):
        raise ReplicaStopped(f"command {applied.index} was answered {type(result).__name__}")
    return result


def answered(
    applied: "Future[Applied]", kind: type[_Answer], value: Callable[[_Answer], _Value]
) -> "Future[_Value]":
    """A future of the `value` of an answer, or of its error; done on the replica's thread."""
    future: Future[_Value] = Future()
    future.set_running_or_notify_cancel()

    def settle(done: "Future[Applied]") -> None:
        try:
            settled = value(answer(done.result(), kind))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            future.set_exception(error)
        else:
            future.set_result(settled)

    applied.add_done_callback(settle)
    return future
