"""Ranking: candidates, features, scorers, slates, the model bundle; one code for both sides.

    from ranking import ModelBundle, RankingConfig, open_registry

Names are imported when they are first used: importing this package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ranking.bundle import ModelBundle as ModelBundle
    from ranking.config import RankingConfig as RankingConfig
    from ranking.registry import open_registry as open_registry
    from ranking.scorers.expression import ExpressionScorer as ExpressionScorer

_HOMES = {
    "ExpressionScorer": "ranking.scorers.expression",
    "ModelBundle": "ranking.bundle",
    "RankingConfig": "ranking.config",
    "open_registry": "ranking.registry",
}

__all__ = ["ExpressionScorer", "ModelBundle", "RankingConfig", "open_registry"]


def __getattr__(name: str) -> object:
    """Import a public name from its home (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ranking' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
