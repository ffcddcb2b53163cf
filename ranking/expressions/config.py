"""The limits of ranking expressions, and what a decay is where nothing is said."""

from dataclasses import dataclass

__all__ = ["ExpressionConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpressionConfig:
    """What a ranking expression may be at most, and the decay of the plain `decay_*` functions."""

    characters_max: int = 2_000
    """Characters of the expression under `score`."""

    nodes_max: int = 500
    """Numbers, names, operators and calls of one expression: each is a step over a column."""

    nesting_max: int = 100
    """How deep operators, calls and parentheses may lie in each other."""

    functions_max: int = 20
    """Named decays of one document."""

    defaults_max: int = 100
    """Defaults of one document, those below `external` included."""

    default_depth_max: int = 6
    """How deep defaults lie in each other: `{"external": {"user": {"age": 30}}}` is 3 deep."""

    problems_max: int = 50
    """Mistakes told at once; there may be more."""

    decay_scale_s: float = 432_000.0
    """Seconds after which a decay of time without a `scale` is at `decay_value`: 5 days."""

    decay_offset_s: float = 0.0
    """Seconds in which a decay without an `offset` stays at 1."""

    decay_value: float = 0.5
    """What a decay without a `decay` is at `offset + scale`, above 0 and below 1."""
