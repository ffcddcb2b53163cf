"""What ranks where no model does: the fallback that a ranking config names."""

from ranking.scorers.base import Scorer
from ranking.scorers.recency import RecencyScorer

__all__ = ["fallback_problems", "fallback_scorer"]


def fallback_problems(document: object) -> list[str]:
    """What is wrong with a fallback, as sentences; none where it can be used."""
    if document is None or document == "recency":
        return []
    return [f'fallback is {str(document)[:80]!r}: give "recency" or null, which mean newest first']


def fallback_scorer(document: object) -> Scorer:
    """The scorer of a fallback without problems."""
    del document  # newest first is the only one
    return RecencyScorer()
