"""What an expression can call: functions of columns, and draws that a seed decides. Pure.

Every function takes and gives float64, columns or single numbers, and follows IEEE 754: NaN and
infinities go through, and nothing is raised.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "DECAYS",
    "DISTANCE_UNITS",
    "FUNCTIONS",
    "Column",
    "Draws",
    "Function",
    "row_keys",
]

# Any: a column, or the single number that a part of an expression comes to.
Column = Any
"""float64[n], or one float64 for all rows."""

Keys = npt.NDArray[np.uint64]

EARTH_RADIUS_KM: Final = 6371.0088
"""The mean radius of the Earth (IUGG)."""

DISTANCE_UNITS: Final[Mapping[str, float]] = MappingProxyType(
    {"K": 1.0, "M": 1 / 1.609344, "N": 1 / 1.852}
)
"""What a kilometer is in each unit of `dist`: kilometers, miles, nautical miles."""

DECAYS: Final = ("decay_linear", "decay_exp", "decay_gauss")
"""The functions that a document's own decays are made from."""

_REDRAWS: Final = 8
"""How often a normal draw outside its bounds is drawn anew before it is moved to the nearest."""


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of one call: they follow from the request, the call and the row alone.

    `keys` is uint64[n], of the rows (`row_keys`); `stream` tells calls of one request apart. So a
    row draws the same beside any others, and when its score is explained later.
    """

    keys: Keys
    stream: int

    def uniform(self, which: int = 0) -> npt.NDArray[np.float64]:
        """float64[n] in [0, 1); another `which`, other numbers."""
        mixed = _mixed(self.keys ^ np.uint64(self.stream * 64 + which + 1))
        return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, which: int = 0) -> npt.NDArray[np.float64]:
        """float64[n], standard normal (Box and Muller 1958)."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(2 * which)))
        turned: npt.NDArray[np.float64] = radius * np.cos(2 * np.pi * self.uniform(2 * which + 1))
        return turned


def row_keys(seed: int, columns: Sequence[npt.NDArray[np.float32]]) -> Keys:
    """A number for each row, uint64[n], from the seed and the row's features alone."""
    keys = np.full(len(columns[0]), seed & (2**64 - 1), dtype=np.uint64)
    for column in columns:
        bits = (np.where(np.isnan(column), np.float32(-1), column) + np.float32(0)).view(np.uint32)
        keys = _mixed(keys ^ bits)
    return keys


def _mixed(keys: Keys) -> Keys:
    """Every bit of the result depends on every bit of the key (SplitMix64, Steele et al. 2014)."""
    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class Function:
    """A function by the names of its arguments in each of its forms.

    `compute` takes the arguments; where `random`, the call's `Draws` before them; of a decay it is
    None, since the document may name others.
    """

    name: str
    forms: tuple[str, ...]
    meaning: str
    compute: Callable[..., Column] | None = field(repr=False, compare=False)
    random: bool = False

    @property
    def counts(self) -> tuple[int, ...]:
        """How many arguments each form has."""
        return tuple(len(form.replace(",", " ").split()) for form in self.forms)

    @property
    def signatures(self) -> tuple[str, ...]:
        """How it is called, such as `min(a, b)`."""
        return tuple(f"{self.name}({form})" for form in self.forms)


def _min(a: Column, b: Column) -> Column:
    """NaN goes through; of 0 and -0 the first, which numpy's own leaves to the processor."""
    return np.where((a <= b) | np.isnan(a), a, b)


def _max(a: Column, b: Column) -> Column:
    return np.where((a >= b) | np.isnan(a), a, b)


def _round(x: Column) -> Column:
    whole = np.trunc(x)
    return whole + np.copysign(np.abs(x - whole) >= 0.5, x)  # noqa: PLR2004 - a half


def _dist(lat1: Column, lng1: Column, lat2: Column, lng2: Column, unit: Column = 1.0) -> Column:
    """The haversine formula; `unit` is what a kilometer is in it."""
    north1, north2 = np.radians(lat1), np.radians(lat2)
    up = np.sin((north2 - north1) / 2.0)
    across = np.sin(np.radians(np.subtract(lng2, lng1)) / 2.0)
    half = up * up + np.cos(north1) * np.cos(north2) * (across * across)
    return 2.0 * EARTH_RADIUS_KM * np.arcsin(np.minimum(1.0, np.sqrt(half))) * unit


def _rand(draws: Draws, low: Column = 0.0, high: Column = 1.0) -> Column:
    drawn = low + draws.uniform() * np.subtract(high, low)
    return np.where(drawn < high, drawn, low)  # rounding may reach `high`, which is left out


def _rand_normal(
    draws: Draws,
    low: Column = -np.inf,
    high: Column = np.inf,
    sigma: Column = 1.0,
    mean: Column = 0.0,
) -> Column:
    drawn = mean + sigma * draws.normal()
    for which in range(1, _REDRAWS + 1):
        outside = (drawn < low) | (drawn > high)
        if not outside.any():
            return drawn
        drawn = np.where(outside, mean + sigma * draws.normal(which), drawn)
    return np.minimum(np.maximum(drawn, low), high)


def _decay(name: str, curve: str) -> Function:
    meaning = f"{curve} with the time from the request: 1 then, a half 5 days before or after."
    return Function(name, ("t",), meaning, None)


FUNCTIONS: Final[Mapping[str, Function]] = MappingProxyType(
    {
        function.name: function
        for function in (
            Function("ln", ("x",), "The natural logarithm.", np.log),
            Function("log", ("x",), "The logarithm of base 10.", np.log10),
            Function("sin", ("x",), "The sine of an angle in radians.", np.sin),
            Function("cos", ("x",), "The cosine of an angle in radians.", np.cos),
            Function("tan", ("x",), "The tangent of an angle in radians.", np.tan),
            Function("abs", ("x",), "The number without its sign.", np.abs),
            Function("min", ("a, b",), "The smaller of two.", _min),
            Function("max", ("a, b",), "The larger of two.", _max),
            Function("trunc", ("x",), "The number without its fraction.", np.trunc),
            Function("round", ("x",), "The nearest integer; halves go away from 0.", _round),
            _decay("decay_linear", "Falls along a line to 0"),
            _decay("decay_exp", "Falls as an exponential"),
            _decay("decay_gauss", "Falls as a bell curve"),
            Function("rand", ("", "a, b"), "A number from [0, 1), or from [a, b).", _rand, True),
            Function(
                "rand_normal",
                ("", "a, b, sigma, mu"),
                "A normal number of mean 0 and deviation 1; or of mean mu and deviation sigma, "
                "within [a, b].",
                _rand_normal,
                True,
            ),
            Function(
                "to_unix_timestamp",
                ("t",),
                'Seconds since 1970: of a moment in quotes ("2024-05-01T12:00:00Z"), or of what is '
                "in seconds already.",
                np.positive,
            ),
            Function(
                "dist",
                ("lat1, lng1, lat2, lng2", "lat1, lng1, lat2, lng2, unit"),
                "The distance of two places given in degrees: in kilometers, or in miles (M) or "
                "nautical miles (N).",
                _dist,
            ),
        )
    }
)
"""Every function by name, in lower case: a document adds its named decays."""
