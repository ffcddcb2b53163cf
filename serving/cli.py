"""The `headwater` command: lists every package's sub-commands, imports only the one that runs.

Sub-commands are entry points of the group `headwater.commands`; each names a function or a
`typer.Typer`. The one-line help comes from the docstring as it stands in the source file, so that
listing all commands imports none of the libraries behind them.
"""

import ast
import importlib.metadata
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from serving.extras import DISTRIBUTION, cure

__all__ = ["COMMAND_GROUP", "build", "entry_points", "main"]

COMMAND_GROUP = "headwater.commands"
"""The entry-point group that sub-commands are found in."""

TRACEBACK_VARIABLE = "HEADWATER_TRACEBACK"
"""Environment variable: with `1`, an error shows where it was raised."""

_PACKAGES = frozenset({"feeds", "ranking", "training", "serving"})


def main() -> None:
    """Run `headwater` with the arguments of this process, and end it.

    Our own errors are one sentence on stderr and exit status 1; wrong usage is 2; Ctrl-C is 130.
    """
    chosen = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    try:
        build({chosen})(prog_name=DISTRIBUTION)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except SystemExit as end:
        if end.code == 130:  # noqa: PLR2004 - what typer makes of Ctrl-C, without a word
            _fail("stopped", 130)
        raise
    except Exception as error:
        sentence = _sentence(error, chosen)
        if sentence is None or os.environ.get(TRACEBACK_VARIABLE) == "1":
            raise
        _fail(sentence, 1)


def build(load: Collection[str]) -> typer.Typer:
    """The command tree: the sub-commands named in `load` are imported, the others are listed only.

    Raises what importing a command raises.
    """
    app = typer.Typer(
        name=DISTRIBUTION,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name, entry_point in sorted(entry_points().items()):
        target = entry_point.load() if name in load else _listed(entry_point)
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name)
        else:
            app.command(name)(target)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{DISTRIBUTION} {importlib.metadata.version(DISTRIBUTION)}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Personalization and ranking for activity feeds.

    An error is one sentence; set HEADWATER_TRACEBACK=1 to see where it was raised.
    """
    del version
    _log_to_stderr()


def _log_to_stderr() -> None:
    """Standard output is a command's answer alone; of the news on the way, warnings are told.

    Here because every command passes; a service says more, and sets that up when it starts.
    """
    import structlog  # noqa: PLC0415 - the list of commands is told without it

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


def entry_points() -> Mapping[str, EntryPoint]:
    """The sub-commands that are installed, by name."""
    return {found.name: found for found in importlib.metadata.entry_points(group=COMMAND_GROUP)}


def _listed(entry_point: EntryPoint) -> Callable[[], None]:
    """A command that only shows its summary in the list."""

    def listed() -> None:
        raise AssertionError(entry_point.name)  # `main` loads the command that runs

    listed.__doc__ = _summary(entry_point)
    return listed


def _summary(entry_point: EntryPoint) -> str:
    """The first sentence about a command, read from its module's source without importing it."""
    source = _source(entry_point.module)
    if source is None:
        return "Not installed."
    for node in ast.parse(source.read_bytes()).body:
        if isinstance(node, ast.FunctionDef) and node.name == entry_point.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if entry_point.attr in names:
                return _help_argument(node.value)
    return ""


def _help_argument(call: ast.Call) -> str:
    for keyword in call.keywords:
        if keyword.arg == "help" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value).strip().partition("\n")[0]
    return ""


def _source(module: str) -> Path | None:
    """The file of a module, found without importing its package."""
    top, *below = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    places = [Path(location, *below) for location in spec.submodule_search_locations or []]
    paths = [place.with_suffix(".py") for place in places] if below else [Path(spec.origin or "")]
    return next((path for path in paths if path.is_file()), None)


def _sentence(error: Exception, command: str) -> str | None:
    """What to tell the user of an error that is no fault in the program; None of any other.

    Ours are told by the module that defines them: none of the four packages is imported for it.
    """
    if isinstance(error, ModuleNotFoundError) and error.name and (remedy := cure(error.name)):
        return f"`{DISTRIBUTION} {command}` needs {error.name}, which is not installed: {remedy}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if type(error).__module__.partition(".")[0] in _PACKAGES:
        return str(error)
    return None


def _fail(sentence: str, status: int) -> NoReturn:
    print(sentence, file=sys.stderr)  # noqa: T201 - the command's own output
    sys.exit(status)
