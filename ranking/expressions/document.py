"""From a document to an expression: every mistake is found at once, each told in a sentence."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Final

from ranking.errors import InvalidExpression
from ranking.expressions.complaints import Complaints, cut, shown
from ranking.expressions.config import ExpressionConfig
from ranking.expressions.decays import plain_decays, read_decays
from ranking.expressions.evaluation import EXTERNAL, Expression
from ranking.expressions.names import Names
from ranking.expressions.numbers import number_of
from ranking.expressions.syntax import Node, SyntaxProblem, parse
from ranking.expressions.variables import VARIABLES, Variable

__all__ = ["compiled", "problems"]

_PARTS: Final = ("score", "defaults", "functions")
_NAME: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_EXAMPLE: Final = '{"score": "decay_gauss(time) * (1 + popularity) ^ 0.5"}'


def problems(
    document: object,
    *,
    variables: Mapping[str, Variable] = VARIABLES,
    config: ExpressionConfig | None = None,
) -> list[str]:
    """A sentence for every mistake in a ranking expression: its defaults, functions and score.

    Each says where it is, what is wrong and what could be meant. None: `compiled` takes it.
    """
    return _read(document, variables, config or ExpressionConfig())[1]


def compiled(
    document: object,
    *,
    variables: Mapping[str, Variable] = VARIABLES,
    config: ExpressionConfig | None = None,
) -> Expression:
    """The expression of a document `{"score": ..., "defaults": {...}, "functions": {...}}`.

    Raises `InvalidExpression` with all of `problems`.
    """
    expression, sentences = _read(document, variables, config or ExpressionConfig())
    if expression is None:
        raise InvalidExpression(sentences)
    return expression


def _read(
    document: object, variables: Mapping[str, Variable], limits: ExpressionConfig
) -> tuple[Expression | None, list[str]]:
    """The expression, or None and what is wrong."""
    complaints = Complaints(limits.problems_max)
    if not isinstance(document, Mapping):
        complaints.say("document", f"it is no object: write an object such as {_EXAMPLE}")
        return None, complaints.sentences
    complaints.unknown_parts("document", document, _PARTS)
    defaults = _Defaults(variables, complaints, limits)
    defaults.read(document.get("defaults"))
    decays = read_decays(document.get("functions"), complaints, limits)
    names = Names(variables, defaults.external, decays, complaints)
    tree = _tree(document.get("score"), names, complaints, limits)
    if tree is None or complaints.sentences:
        return None, complaints.sentences
    return Expression(
        tree=tree,
        variables=MappingProxyType(names.read),
        defaults=MappingProxyType(
            {name: number for name, number in defaults.numbers.items() if name in names.read}
        ),
        external=MappingProxyType(names.external_read),
        decays=MappingProxyType(plain_decays(limits) | decays),
        draws=names.random,
    ), []


def _tree(
    text: object, names: Names, complaints: Complaints, limits: ExpressionConfig
) -> Node | None:
    if not isinstance(text, str):
        said = "there is none" if text is None else f"{shown(text)} is no text"
        complaints.say("score", f"{said}: write an expression, as in {_EXAMPLE}")
        return None
    try:
        tree = parse(text, limits)
    except SyntaxProblem as problem:
        names.say(problem.at, problem.message)
        names.look_through(text[: limits.characters_max])
        return None
    return names.resolved(tree)


@dataclass(frozen=True, slots=True)
class _Defaults:
    """Reads the defaults: `numbers` by variable, and those below `external` by name."""

    variables: Mapping[str, Variable]
    complaints: Complaints
    limits: ExpressionConfig
    numbers: dict[str, float] = field(default_factory=dict)
    external: dict[str, float] = field(default_factory=dict)

    def read(self, given: object) -> None:
        """Take what can be used and complain of the rest."""
        if given is None:
            return
        if not isinstance(given, Mapping):
            self.complaints.say("defaults", "it is no object: write numbers by name, or none")
            return
        for place, (name, value) in enumerate(self._flat(given)):
            if place >= self.limits.defaults_max:
                message = f"it has more than {self.limits.defaults_max}: use fewer"
                self.complaints.say("defaults", message)
                return
            self._default(name, value)

    def _flat(self, given: Mapping[object, object]) -> Iterator[tuple[str, object]]:
        """Dotted names and what stands under them, in order; no deeper than is allowed."""
        waiting: list[tuple[str, object, int]] = [("", given, 0)]
        while waiting:
            prefix, value, depth = waiting.pop()
            if not isinstance(value, Mapping):
                yield prefix, value
            elif depth >= self.limits.default_depth_max:
                message = f"it lies deeper than {self.limits.default_depth_max} names: flatten it"
                self.complaints.say(f"defaults.{cut(prefix)}", message)
            else:
                below = [
                    (f"{prefix}.{key}" if depth else str(key), each, depth + 1)
                    for key, each in islice(value.items(), self.limits.defaults_max + 1)
                ]
                waiting += reversed(below)

    def _default(self, name: str, value: object) -> None:
        where = f"defaults.{cut(name)}"
        number = number_of(value)
        if number is None:
            self.complaints.say(where, f"{shown(value)} is no number: give a finite number")
            number = 0.0
        top, _, below = name.partition(".")
        if top == EXTERNAL:
            if not all(_NAME.fullmatch(part) for part in below.split(".")):
                message = "no expression can name it: use letters, digits and _ in names"
                self.complaints.say(where, message)
            self.external[below] = number
        elif name in self.variables:
            self.numbers[name] = number
        else:
            hint = self.complaints.near(
                name, self.variables, "what a request brings belongs under external"
            )
            self.complaints.say(where, f"there is no variable {shown(name)}: {hint}")
