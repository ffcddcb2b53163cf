"""Numbers that the caller of a ranking brings with its candidates: `caller_<name>`, or missing."""

import re
from typing import Final

from ranking.extractors.base import Column, Feature, Inputs

__all__ = ["CALLER", "caller_feature", "is_caller_name"]

CALLER: Final = "caller_"
"""What the features of this family begin with."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")


def is_caller_name(name: str) -> bool:
    """Whether a caller can bring numbers of this name: a letter, then letters, digits and `_`.

    >>> [is_caller_name(name) for name in ("distance_km", "_x", "a" * 41)]
    [True, False, False]
    """
    return _NAME.fullmatch(name) is not None


def caller_feature(name: str) -> Feature | None:
    """The feature `caller_<name>`; None where that is no name of this family."""
    brought = name.removeprefix(CALLER)
    if brought == name or not is_caller_name(brought):
        return None

    def compute(inputs: Inputs) -> Column:
        return inputs.brought(brought)

    return Feature(name, "caller", "the caller's", "What the caller brought.", compute)
