"""Scenario scripts: commands in a text file, and below each block of them what they answered.

A block is commands, a line of `---`, and the answer up to the next empty line; where nothing is to
be said, the answer is `ok`. Lines that begin with `#` are for people. So a script reads as a story,
and a change of behaviour as a diff of one:

    # The first whose timer runs out asks the others.
    cluster nodes=3
    run 1s
    ---
    n1 leads in term 1

The idea is CockroachDB's and etcd's (datadriven), and toydb's (goldenscript).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import takewhile

from feeds.errors import InvalidInput

__all__ = ["ScriptCommand", "play"]

_SEPARATOR = "---"


@dataclass(frozen=True, slots=True)
class ScriptCommand:
    """A line of a script: a name, words, and `key=value` options in any place."""

    name: str
    words: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    line: int = 0
    """Where it stands in its file, from 1 on."""

    @classmethod
    def parse(cls, text: str, line: int = 0) -> "ScriptCommand":
        """Read one line.

        >>> ScriptCommand.parse("propose n1 a size=100")
        ScriptCommand(name='propose', words=('n1', 'a'), options={'size': '100'}, line=0)
        """
        name, *rest = text.split()
        options = dict(word.split("=", 1) for word in rest if "=" in word)
        return cls(name, tuple(word for word in rest if "=" not in word), options, line)


def play(script: str, run: Callable[[ScriptCommand], Iterable[str]]) -> str:
    """The script with the answers that `run` gives: equal to `script` if nothing has changed.

    `run` gives lines, none of them empty. Raises `InvalidInput` for a block without `---`, and what
    `run` raises, with the line added.
    """
    lines = script.splitlines()
    played: list[str] = []
    place = 0
    while place < len(lines):
        if not lines[place] or lines[place].startswith("#"):
            played.append(lines[place])
            place += 1
            continue
        block = list(takewhile(lambda line: line not in ("", _SEPARATOR), lines[place:]))
        end = place + len(block)
        if end == len(lines) or lines[end] != _SEPARATOR:
            raise InvalidInput(
                f"line {end}: a block of commands ends with a line of {_SEPARATOR}, and what they "
                "answered comes below it: add the line, and run with --update"
            )
        answers = [answer for line in _commands(block, place + 1) for answer in _run(run, line)]
        played += [*block, _SEPARATOR, *(answers or ["ok"])]
        place = end + 1
        while place < len(lines) and lines[place]:
            place += 1
    return "\n".join(played) + "\n"


def _commands(block: list[str], first: int) -> list[ScriptCommand]:
    return [
        ScriptCommand.parse(text, number)
        for number, text in enumerate(block, first)
        if not text.startswith("#")
    ]


def _run(run: Callable[[ScriptCommand], Iterable[str]], command: ScriptCommand) -> list[str]:
    try:
        return list(run(command))
    except Exception as error:
        error.add_note(f"in line {command.line} of the script: {command.name}")
        raise
