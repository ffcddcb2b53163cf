"""The names of an expression: looked up, and text turned into the numbers that it means."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from ranking.expressions.complaints import Complaints, cut, shown
from ranking.expressions.decays import Decay, moment_s
from ranking.expressions.evaluation import EXTERNAL
from ranking.expressions.functions import DISTANCE_UNITS, FUNCTIONS
from ranking.expressions.syntax import (
    Binary,
    Call,
    Choice,
    Name,
    Node,
    Number,
    SyntaxProblem,
    Text,
    Unary,
    tokens,
)
from ranking.expressions.variables import Variable

__all__ = ["Names"]


class Names:
    """What a document's score can name. `read`, `external_read` and `random` say what it did.

    A name that is not there is complained of once, where it first stands.
    """

    def __init__(
        self,
        variables: Mapping[str, Variable],
        external: Mapping[str, float],
        decays: Mapping[str, Decay],
        complaints: Complaints,
    ) -> None:
        self.read: dict[str, Variable] = {}
        self.external_read: dict[str, float] = {}
        self.random = False
        self._variables = variables
        self._external = external
        self._signatures = {name: function.signatures for name, function in FUNCTIONS.items()}
        self._signatures |= {name: (f"{name}(x)",) for name in decays}
        self._complaints = complaints
        self._told: set[str] = set()

    def say(self, at: int, message: str) -> None:
        """Complain of a place of the score."""
        self._complaints.say(f"score, character {at + 1}", message)

    def resolved(self, node: Node) -> Node:
        """The tree with text turned into numbers; what it names is looked up."""
        match node:
            case Name(name, at):
                self._variable(name, at)
            case Text(_, at):
                message = "text belongs in to_unix_timestamp, or is the unit of dist: take it away"
                self.say(at, message)
            case Call():
                return self._call(node)
            case Unary():
                return replace(node, operand=self.resolved(node.operand))
            case Binary():
                left = self.resolved(node.left)
                return replace(node, left=left, right=self.resolved(node.right))
            case Choice():
                condition, yes = self.resolved(node.condition), self.resolved(node.yes)
                return replace(node, condition=condition, yes=yes, no=self.resolved(node.no))
        return node

    def look_through(self, text: str) -> None:
        """Look up the names of a text that is no expression, as far as it can be read."""
        try:
            read = list(tokens(text))
        except SyntaxProblem:
            return
        for token, after in pairwise(read):
            if token.kind == "name" and after.text == "(":
                self._function(token.text.lower(), token.at)
            elif token.kind == "name" and token.text.upper() not in DISTANCE_UNITS:
                self._variable(token.text, token.at)

    def _call(self, call: Call) -> Node:
        arguments = call.arguments
        if self._function(call.name, call.at) and self._has_its_arguments(call):
            if call.name == "dist" and len(arguments) > 4:  # noqa: PLR2004 - after two places
                arguments = (*arguments[:-1], self._unit(arguments[-1]))
            elif call.name == "to_unix_timestamp" and isinstance(arguments[0], Text):
                arguments = (self._moment(arguments[0]),)
        return replace(call, arguments=tuple(self.resolved(argument) for argument in arguments))

    def _function(self, name: str, at: int) -> bool:
        """Whether there is such a function."""
        if name in self._signatures:
            self.random |= name in FUNCTIONS and FUNCTIONS[name].random
            return True
        if f"{name}()" not in self._told:
            self._told.add(f"{name}()")
            if name in self._variables:
                self.say(at, f"{name} is a variable: write it without parentheses")
            else:
                known = "docs/expression-names.md lists them all"
                hint = self._complaints.near(name, self._signatures, known)
                self.say(at, f"there is no function {shown(name)}: {hint}")
        return False

    def _has_its_arguments(self, call: Call) -> bool:
        given = len(call.arguments)
        counts = FUNCTIONS[call.name].counts if call.name in FUNCTIONS else (1,)
        if given not in counts:
            forms = " or ".join(self._signatures[call.name])
            self.say(call.at, f"arguments given to {call.name}: {given}; write {forms}")
        return given in counts

    def _unit(self, node: Node) -> Number:
        unit = node.value if isinstance(node, Text) else node.name if isinstance(node, Name) else ""
        factor = DISTANCE_UNITS.get(unit.upper())
        if factor is None:
            message = "the unit of dist is K (kilometers), M (miles) or N (nautical miles)"
            self.say(node.at, f"{message}: write one of them")
        return Number(factor or 1.0, node.at)

    def _moment(self, text: Text) -> Number:
        moment = moment_s(text.value)
        if moment is None:
            message = f"{shown(text.value)} is no moment: write one as 2024-05-01T12:00:00Z"
            self.say(text.at, message)
        return Number(moment or 0.0, text.at)

    def _variable(self, name: str, at: int) -> None:
        top, _, below = name.partition(".")
        if name in self._variables:
            self.read[name] = self._variables[name]
        elif top == EXTERNAL and below in self._external:
            self.external_read[below] = self._external[below]
        elif name not in self._told:
            self._told.add(name)
            self.say(at, self._not_a_variable(name))

    def _not_a_variable(self, name: str) -> str:
        externals = [f"{EXTERNAL}.{known}" for known in self._external]
        if name.startswith(f"{EXTERNAL}."):
            hint = self._complaints.near(name, externals, "give one under defaults.external")
            return f"{cut(name)} has no default: {hint}"
        if name.lower() in self._signatures:
            return f"{cut(name)} is a function: write its arguments in parentheses"
        hint = self._complaints.near(
            name, (*self._variables, *externals), "docs/expression-names.md lists them all"
        )
        return f"there is no variable {shown(name)}: {hint}"
