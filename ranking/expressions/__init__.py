"""Ranking expressions: a formula of a tenant's own instead of a model. docs/expressions.md."""

from ranking.expressions.config import ExpressionConfig
from ranking.expressions.document import compiled, problems
from ranking.expressions.evaluation import Expression, Request
from ranking.expressions.functions import FUNCTIONS
from ranking.expressions.variables import VARIABLES, Variable

__all__ = [
    "FUNCTIONS",
    "VARIABLES",
    "Expression",
    "ExpressionConfig",
    "Request",
    "Variable",
    "compiled",
    "problems",
]
