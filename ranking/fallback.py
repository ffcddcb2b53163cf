"""What ranks where no model does: the fallback that a ranking config names.

null and `recency` are newest first; an object is a ranking expression (docs/expressions.md).
"""

from typing import Final

from ranking.candidates import Query
from ranking.expressions import problems
from ranking.scorers.base import Scorer
from ranking.scorers.expression import ExpressionScorer
from ranking.scorers.recency import RecencyScorer

__all__ = ["bound", "fallback_problems", "fallback_scorer"]

_EXAMPLE: Final = '{"score": "decay_gauss(time) * (1 + popularity) ^ 0.5"}'


def fallback_problems(document: object) -> list[str]:
    """What is wrong with a fallback, as sentences; none where it can be used."""
    if document is None or document == "recency":
        return []
    if isinstance(document, str):
        said = f'fallback is {document[:80]!r}: give "recency" or null, which mean newest first'
        return [f"{said}, or an expression such as {_EXAMPLE}"]
    return problems(document)


def fallback_scorer(document: object) -> Scorer:
    """The scorer of a fallback without problems; an expression is compiled, so hold it."""
    if document is None or document == "recency":
        return RecencyScorer()
    return ExpressionScorer.of(document)


def bound(scorer: Scorer, query: Query) -> Scorer:
    """The scorer for one request: an expression reads its moment and its seed."""
    return scorer.for_query(query) if isinstance(scorer, ExpressionScorer) else scorer
