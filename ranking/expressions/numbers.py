"""Which values of a document or a request are numbers."""

import math

__all__ = ["number_of"]


def number_of(value: object) -> float | None:
    """A finite number, or true or false as 1 and 0; None of anything else."""
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
