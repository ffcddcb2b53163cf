"""A checked expression, evaluated over the columns of a request. Pure; nothing is raised or warned.

Truth is what is above or below 0: a missing value (NaN) is false, and so is every comparison with
one but `!=`. Comparisons, `&&`, `||` and `!` give 1 or 0. Both sides of a choice are computed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ranking.errors import InvalidRankingVars
from ranking.expressions.decays import Decay
from ranking.expressions.functions import FUNCTIONS, Column, Draws
from ranking.expressions.numbers import number_of
from ranking.expressions.syntax import Binary, Call, Choice, Name, Node, Number, Unary
from ranking.expressions.variables import Columns, Variable

__all__ = ["EXTERNAL", "Expression", "Request"]

EXTERNAL: Final = "external"
"""What the names of a request's own numbers begin with."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a request gives an expression besides features.

    `external` holds the request's numbers, or columns of them, by name. `keys` is uint64[n], a
    random number for each row (`functions.row_keys`), where the expression draws.
    """

    now_s: float
    external: Mapping[str, float | Column]
    keys: npt.NDArray[np.uint64] | None = None


@dataclass(frozen=True, slots=True)
class Expression:
    """A document that was checked: `ranking.expressions.compiled` makes it. Immutable.

    `variables` are those that the tree reads, `defaults` replace missing values of some of them,
    `external` are the defaults of the request's numbers, and `decays` the decays by name. Where it
    `draws` random numbers, a request must have `keys`.
    """

    tree: Node
    variables: Mapping[str, Variable]
    defaults: Mapping[str, float]
    external: Mapping[str, float]
    decays: Mapping[str, Decay]
    draws: bool

    @property
    def features(self) -> frozenset[str]:
        """The features that are read."""
        return frozenset(name for one in self.variables.values() for name in one.features)

    def externals(self, ranking_vars: Mapping[str, object]) -> dict[str, float]:
        """The numbers below `external`: the request's, and defaults for what it does not bring.

        A name that the request brings replaces the whole default, with all that is nested in it.
        Raises `InvalidRankingVars` where the expression reads what is no number.
        """
        return {
            name: _brought(ranking_vars, name) if name.partition(".")[0] in ranking_vars else given
            for name, given in self.external.items()
        }

    def read(self, columns: Columns, request: Request) -> dict[str, Column]:
        """What each variable stands for: a column, or one number for all rows."""
        with np.errstate(all="ignore"):
            read = {
                name: variable.compute(columns, request)
                for name, variable in self.variables.items()
            }
            for name, default in self.defaults.items():
                read[name] = np.where(np.isnan(read[name]), default, read[name])
        external = {
            f"{EXTERNAL}.{name}": np.float64(request.external[name]) for name in self.external
        }
        return read | external

    def evaluate(self, columns: Columns, request: Request) -> Column:
        """The value of each row, or one number for all. Cost: a pass over a column for each node.

        `columns` must have every one of `features`.
        """
        run = _Run(self, request, self.read(columns, request))
        with np.errstate(all="ignore"):
            return run.value(self.tree)


def _brought(ranking_vars: Mapping[str, object], name: str) -> float:
    found: object = ranking_vars
    for part in name.split("."):
        if not isinstance(found, Mapping):
            break
        if part not in found:
            return float("nan")
        found = found[part]
    if (number := number_of(found)) is None:
        raise InvalidRankingVars(
            f"ranking_vars has no number for {name}: the ranking expression reads "
            f"{EXTERNAL}.{name}, so give a number or leave it out"
        )
    return number


def _true(value: Column) -> Column:
    return np.abs(value) > 0


def _flag(truth: Callable[..., Column]) -> Callable[..., Column]:
    """The same truth as 1 and 0."""
    return lambda *operands: np.multiply(truth(*operands), 1.0)


_UNARY: Final[Mapping[str, Callable[[Column], Column]]] = {
    "-": np.negative,
    "!": _flag(lambda operand: ~_true(operand)),
}
_BINARY: Final[Mapping[str, Callable[[Column, Column], Column]]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "^": np.power,
    "<": _flag(np.less),
    "<=": _flag(np.less_equal),
    ">": _flag(np.greater),
    ">=": _flag(np.greater_equal),
    "==": _flag(np.equal),
    "!=": _flag(np.not_equal),
    "&&": _flag(lambda left, right: _true(left) & _true(right)),
    "||": _flag(lambda left, right: _true(left) | _true(right)),
}


@dataclass(frozen=True, slots=True)
class _Run:
    """One evaluation."""

    expression: Expression
    request: Request
    read: Mapping[str, Column]

    def value(self, node: Node) -> Column:
        """The value of a node."""
        match node:
            case Number(number):
                return np.float64(number)
            case Name(name):
                return self.read[name]
            case Binary(operator, left, right):
                return _BINARY[operator](self.value(left), self.value(right))
            case Unary(operator, operand):
                return _UNARY[operator](self.value(operand))
            case Choice(condition, yes, no):
                return np.where(_true(self.value(condition)), self.value(yes), self.value(no))
            case Call():
                return self._call(node, [self.value(argument) for argument in node.arguments])
        raise TypeError(f"a checked expression holds no {type(node).__name__}")

    def _call(self, call: Call, arguments: list[Column]) -> Column:
        if (decay := self.expression.decays.get(call.name)) is not None:
            return decay.of(arguments[0], self.request.now_s)
        function = FUNCTIONS[call.name]
        if function.compute is None:
            raise TypeError(f"{call.name} is not among the expression's decays")
        if not function.random:
            return function.compute(*arguments)
        if self.request.keys is None:
            raise TypeError(f"{call.name} draws, and the request has no keys to draw by")
        return function.compute(Draws(self.request.keys, call.at), *arguments)
