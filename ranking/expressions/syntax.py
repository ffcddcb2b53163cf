"""The grammar: from the text of an expression to a tree, and back. Pure.

    expression = condition ["?" expression ":" expression]
    condition  = operands joined by  ||  then  &&  then  < <= > >= == !=  then  + -  then  * /
    operand    = ("-" | "!") operand | atom ["^" operand]
    atom       = number | name | name "(" [expression {"," expression}] ")" | "(" expression ")"

The later an operator stands in that list, the closer it binds. `^` binds closer than a minus before
it and goes to the right: `-2 ^ 3 ^ 2` is `-(2 ^ (3 ^ 2))`. Comparisons do not chain. It is read by
precedence climbing (Pratt 1973, "Top down operator precedence").
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ranking.expressions.config import ExpressionConfig

__all__ = [
    "Binary",
    "Call",
    "Choice",
    "Name",
    "Node",
    "Number",
    "SyntaxProblem",
    "Text",
    "Token",
    "Unary",
    "children",
    "parse",
    "tokens",
    "unparse",
]


@dataclass(frozen=True, slots=True)
class Number:
    """A number; `at` is the place of its first character in the text, as in every node."""

    value: float
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Text:
    """Text in quotes: a unit or a moment. A checked tree holds none."""

    value: str
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Name:
    """A variable."""

    name: str
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    """A function of arguments; `name` is in lower case."""

    name: str
    arguments: tuple["Node", ...]
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Unary:
    """`-` or `!` of an operand."""

    operator: str
    operand: "Node"
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Binary:
    """An operator between two operands; `at` is the operator's place."""

    operator: str
    left: "Node"
    right: "Node"
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Choice:
    """`condition ? yes : no`."""

    condition: "Node"
    yes: "Node"
    no: "Node"
    at: int = field(default=0, compare=False)


Node = Number | Text | Name | Call | Unary | Binary | Choice
"""One step of an expression. Trees are equal wherever they stood in the text."""


class SyntaxProblem(Exception):
    """The text is no expression: `message` says why, `at` where. It does not leave this package."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.message = message
        self.at = at


class Token(NamedTuple):
    """A piece of the text: its kind is `number`, `text`, `name`, `operator` or `end`."""

    kind: str
    text: str
    at: int

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else f"`{self.text}`"


_TOKEN: Final = re.compile(
    r"""(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)
    |(?P<text>"[^"]*"|'[^']*')
    |(?P<operator>&&|\|\||[<>=!]=|[-+*/^()?:,<>!])
    |(?P<space>\s+)""",
    re.ASCII | re.VERBOSE,
)
_COMPARISONS: Final = ("<", "<=", ">", ">=", "==", "!=")
_COMPARED: Final = 3
_UNARY: Final = 6
_POWER: Final = 7
_LEVELS: Final = {
    "||": 1,
    "&&": 2,
    **dict.fromkeys(_COMPARISONS, _COMPARED),
    "+": 4,
    "-": 4,
    "*": 5,
    "/": 5,
    "^": _POWER,
}
"""How close each operator binds; a choice is at 0, a minus or a not before an operand at 6."""

_INSTEAD: Final = {"=": "==", "&": "&&", "|": "||"}


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a text, an end after them; raises `SyntaxProblem` at what is none."""
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise SyntaxProblem(_unreadable(text[at]), at)
        if (kind := str(found.lastgroup)) != "space":
            yield Token(kind, found.group(), at)
        at = found.end()
    yield Token("end", "", at)


def _unreadable(character: str) -> str:
    if character in _INSTEAD:
        return f"`{character}` is no operator: write `{_INSTEAD[character]}`"
    if character in "\"'":
        return "a text begins here and does not end: close its quotes"
    return f"{character!r} does not belong in an expression: docs/expressions.md says what does"


def parse(text: str, config: ExpressionConfig | None = None) -> Node:
    """The tree of an expression; raises `SyntaxProblem` where it is none, or beyond a limit."""
    limits = config or ExpressionConfig()
    if len(text) > limits.characters_max:
        raise SyntaxProblem(
            f"the expression has {len(text)} characters, at most {limits.characters_max} are read: "
            "make it shorter",
            limits.characters_max,
        )
    tree = _Parser(list(tokens(text)), limits).whole()
    if (deepest := _depth(tree)) > limits.nesting_max:
        raise SyntaxProblem(_too_deep(limits, f"{deepest} deep"), 0)
    return tree


def children(node: Node) -> tuple[Node, ...]:
    """What a node is made of, in the order of the text."""
    match node:
        case Call():
            return node.arguments
        case Unary():
            return (node.operand,)
        case Binary():
            return (node.left, node.right)
        case Choice():
            return (node.condition, node.yes, node.no)
        case _:
            return ()


def unparse(node: Node) -> str:
    """The text of a tree, with no parentheses but those it needs: `parse` gives the same tree."""
    return _text(node, 0)


class _Parser:
    """Reads tokens from left to right."""

    def __init__(self, read: list[Token], limits: ExpressionConfig) -> None:
        self._tokens = read
        self._limits = limits
        self._place = 0
        self._depth = 0
        self._nodes = 0

    @property
    def _next(self) -> Token:
        return self._tokens[self._place]

    def whole(self) -> Node:
        """The expression that all tokens make."""
        tree = self._expression(0)
        if self._next.kind != "end":
            raise SyntaxProblem(_left_over(self._next), self._next.at)
        return tree

    def _expression(self, level: int) -> Node:
        """What binds at least as close as `level`."""
        self._depth += 1
        if self._depth > self._limits.nesting_max:
            raise SyntaxProblem(_too_deep(self._limits, "deeper here"), self._next.at)
        left = self._operand()
        while self._next.kind == "operator" and _LEVELS.get(self._next.text, -1) >= level:
            left = self._binary(left)
        if level == 0 and self._next.text == "?":
            left = self._choice(left)
        self._depth -= 1
        return left

    def _binary(self, left: Node) -> Node:
        operator = self._take()
        level = _LEVELS[operator.text]
        right = self._expression(level if level == _POWER else level + 1)
        if level == _COMPARED and self._next.text in _COMPARISONS:
            raise SyntaxProblem(
                "comparisons do not chain: write `a < b && b < c` for `a < b < c`", self._next.at
            )
        return self._counted(Binary(operator.text, left, right, operator.at))

    def _choice(self, condition: Node) -> Node:
        at = self._take().at
        yes = self._expression(0)
        self._expect(":", "a choice is `condition ? yes : no`")
        return self._counted(Choice(condition, yes, self._expression(0), at))

    def _operand(self) -> Node:
        token = self._take()
        match token.kind, token.text:
            case "number", text:
                return self._counted(Number(_number(token), token.at))
            case "text", text:
                return self._counted(Text(text[1:-1], token.at))
            case "name", name if self._next.text == "(":
                return self._counted(Call(name.lower(), self._arguments(name), token.at))
            case "name", name:
                return self._counted(Name(name, token.at))
            case "operator", "-" | "!":
                return self._counted(Unary(token.text, self._expression(_UNARY), token.at))
            case "operator", "(":
                inner = self._expression(0)
                self._expect(")", "a parenthesis was opened before")
                return inner
        raise SyntaxProblem(
            f"a number, a name or `(` belongs here, and {token} was found", token.at
        )

    def _arguments(self, name: str) -> tuple[Node, ...]:
        self._take()
        arguments: list[Node] = []
        if self._next.text != ")":
            arguments.append(self._expression(0))
        while self._next.text == ",":
            self._take()
            arguments.append(self._expression(0))
        self._expect(")", f"the arguments of {name} stand between `(` and `)`")
        return tuple(arguments)

    def _counted(self, node: Node) -> Node:
        self._nodes += 1
        if self._nodes > self._limits.nodes_max:
            raise SyntaxProblem(
                f"the expression has more than {self._limits.nodes_max} numbers, names, operators "
                "and calls: make it shorter",
                node.at,
            )
        return node

    def _take(self) -> Token:
        token = self._next
        if token.kind != "end":
            self._place += 1
        return token

    def _expect(self, text: str, why: str) -> None:
        token = self._take()
        if token.text != text:
            raise SyntaxProblem(f"`{text}` belongs here, and {token} was found: {why}", token.at)


def _number(token: Token) -> float:
    value = float(token.text)
    if value == float("inf"):
        raise SyntaxProblem(f"{token} is too large: numbers go up to 1.7e308", token.at)
    return value


def _left_over(token: Token) -> str:
    if token.text in (")", ",", ":"):
        return f"nothing was opened that {token} could belong to: take it away"
    return f"an operator is missing before {token}"


def _too_deep(limits: ExpressionConfig, what: str) -> str:
    return f"the expression is nested {what}, at most {limits.nesting_max} deep is read: simplify"


def _depth(tree: Node) -> int:
    """Nodes from the root to the deepest leaf; without recursion, since a chain may be long."""
    deepest, waiting = 0, [(tree, 1)]
    while waiting:
        node, depth = waiting.pop()
        deepest = max(deepest, depth)
        waiting += [(child, depth + 1) for child in children(node)]
    return deepest


def _text(node: Node, level: int) -> str:
    """The node's text where something stands that binds at `level`."""
    match node:
        case Unary(operator, operand):
            return _closed(operator + _text(operand, _UNARY), level > _UNARY)
        case Choice(condition, yes, no):
            text = f"{_text(condition, 1)} ? {_text(yes, 0)} : {_text(no, 0)}"
            return _closed(text, level > 0)
        case Binary(operator, left, right):
            own = _LEVELS[operator]
            before = own + 1 if own in (_COMPARED, _POWER) else own
            after = _UNARY if own == _POWER else own + 1
            text = f"{_text(left, before)} {operator} {_text(right, after)}"
            return _closed(text, level > own)
        case _:
            return _atom(node)


def _atom(node: Number | Text | Name | Call) -> str:
    match node:
        case Number(value):
            return repr(value).removesuffix(".0")
        case Text(value):
            return f"'{value}'" if '"' in value else f'"{value}"'
        case Name(name):
            return name
        case Call(name, arguments):
            return f"{name}({', '.join(_text(argument, 0) for argument in arguments)})"


def _closed(text: str, needed: bool) -> str:
    return f"({text})" if needed else text
