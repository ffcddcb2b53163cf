"""The options that several commands take, each defined once, and commands that take them together.

A command that is `grouped` has, for a parameter that is a dataclass, an option for each of its
fields: `headwater keys list acme --data-dir D` calls `list_("acme", at=OnEngine(D, None, False))`.
"""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feeds.cli_common import opened, read, show, told

if TYPE_CHECKING:
    from feeds.engine import FeedEngine
    from feeds.reader import StoreReader

__all__ = ["DATA_DIR", "AsJson", "DataDir", "Engine", "OnEngine", "grouped"]

DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="HEADWATER_DATA_DIR",
        help="The engine's data directory.",
    ),
]
Engine = Annotated[
    Path | None,
    typer.Option(
        "--engine",
        envvar="HEADWATER_ENGINE",
        help="The socket of a running engine node, instead of a data directory.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

DATA_DIR = Path(".headwater/data")


@dataclasses.dataclass(frozen=True, slots=True)
class OnEngine:
    """Where a command finds the engine, and for whom it answers."""

    data_dir: DataDir = DATA_DIR
    engine_socket: Engine = None
    json: AsJson = False

    @contextlib.contextmanager
    def opened(self) -> Iterator["FeedEngine"]:
        """The engine, to write; errors of ours are told as the command answers."""
        with told(self.json), opened(self.data_dir, self.engine_socket) as engine:
            yield engine

    @contextlib.contextmanager
    def read(self) -> Iterator["StoreReader"]:
        """The store, to read beside whoever has it; errors of ours as above."""
        with told(self.json), read(self.data_dir, self.engine_socket) as reader:
            yield reader

    def show(self, title: str, shown: dict[str, Any], answer: dict[str, Any]) -> None:
        """A table for people or an object for programs; Any: whatever JSON holds."""
        show(title, shown, answer, json=self.json)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command with each parameter that is a dataclass spelled out, an option for each field."""
    signature = inspect.signature(command)
    groups: dict[str, Any] = {  # Any: dataclasses, each with fields of its own
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if dataclasses.is_dataclass(parameter.annotation)
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        spelled_out = _fields(groups[name]) if name in groups else [parameter]
        parameters += [each.replace(kind=parameter.KEYWORD_ONLY) for each in spelled_out]

    @functools.wraps(command)
    def spelled(**given: Any) -> None:  # Any: what the options hold
        made = {
            name: group(**{each.name: given.pop(each.name) for each in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        command(**given, **made)

    vars(spelled)["__signature__"] = signature.replace(parameters=parameters)
    return spelled


def _fields(group: Any) -> list[inspect.Parameter]:  # Any: as above
    """A parameter for each field of a dataclass, with its default."""
    return list(inspect.signature(group).parameters.values())
