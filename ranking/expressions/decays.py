"""Functions that fall with a distance, and the part of a document that names them. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import numpy as np

from ranking.expressions.complaints import Complaints, cut, shown
from ranking.expressions.config import ExpressionConfig
from ranking.expressions.functions import DECAYS, FUNCTIONS, Column
from ranking.expressions.numbers import number_of

__all__ = ["Decay", "Direction", "moment_s", "plain_decays", "read_decays"]

Direction = Literal["both", "left", "right"]

_PARTS: Final = ("base", "scale", "offset", "decay", "origin", "direction")
_DIRECTIONS: Final = ("both", "left", "right")
_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_AMOUNT: Final = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)([smhdw]?)", re.ASCII)
_NAME: Final = re.compile(r"[a-z_]\w*", re.ASCII)
_AMOUNT_CHARACTERS_MAX: Final = 60


@dataclass(frozen=True, slots=True)
class Decay:
    """How a value falls with its distance from `origin` (None: the moment of the request).

    Elasticsearch's decay functions: `d = max(0, |x - origin| - offset)`, and the value is `value`
    at `d = scale` and 1 at `d = 0`. With direction `left` only what lies below the origin decays,
    with `right` only what lies above. Times are in seconds.
    """

    base: str
    origin: float | None
    scale: float
    offset: float
    value: float
    direction: Direction = "both"

    def of(self, column: Column, now_s: float) -> Column:
        """The decay of a column."""
        distance = np.subtract(column, now_s if self.origin is None else self.origin)
        if self.direction == "both":
            distance = np.abs(distance)
        elif self.direction == "left":
            distance = np.negative(distance)
        distance = np.maximum(np.subtract(distance, self.offset), 0.0)
        if self.base == "decay_linear":
            return np.maximum(1.0 - distance * (1.0 - self.value) / self.scale, 0.0)
        share = distance / self.scale
        if self.base == "decay_gauss":
            share = share * share
        return np.exp(share * np.log(self.value))


def plain_decays(limits: ExpressionConfig) -> dict[str, Decay]:
    """The decays that every document has: of time, from the moment of the request."""
    return {
        base: Decay(base, None, limits.decay_scale_s, limits.decay_offset_s, limits.decay_value)
        for base in DECAYS
    }


def read_decays(
    given: object, complaints: Complaints, limits: ExpressionConfig
) -> dict[str, Decay]:
    """The decays that a document names under `functions`, by name in lower case.

    What cannot be used is complained of.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        complaints.say("functions", "it is no object: write decays by name, or leave it out")
        return {}
    if len(given) > limits.functions_max:
        complaints.say(
            "functions",
            f"it has {len(given)} decays, at most {limits.functions_max} are read: use fewer",
        )
        return {}
    decays: dict[str, Decay] = {}
    for key, value in given.items():
        name, where = str(key).lower(), f"functions.{cut(str(key))}"
        reading = _Reading(where, complaints, limits)
        if not _NAME.fullmatch(name):
            reading.say("", "it is no name: use letters, digits and _, a letter first")
        elif name in FUNCTIONS:
            reading.say("", f"{name} is there already: choose another name")
        elif name in decays:
            reading.say("", "it is there twice, since capitals make no difference: rename one")
        elif isinstance(value, Mapping):
            decays[name] = reading.decay(value)
        else:
            reading.say("", 'it is no object: write one such as {"base": "decay_gauss"}')
            decays[name] = plain_decays(limits)[
                DECAYS[0]
            ]  # so that its calls are not complained of
    return decays


def moment_s(text: str) -> float | None:
    """Seconds since 1970 of an ISO 8601 moment, in UTC where it names no zone; None of others."""
    try:
        moment = datetime.fromisoformat(text.strip()[:_AMOUNT_CHARACTERS_MAX])
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class _Reading:
    """Reads one decay, and complains of its parts."""

    where: str
    complaints: Complaints
    limits: ExpressionConfig

    def say(self, part: str, message: str) -> None:
        self.complaints.say(f"{self.where}.{part}" if part else self.where, message)

    def decay(self, given: Mapping[object, object]) -> Decay:
        self.complaints.unknown_parts(self.where, given, _PARTS)
        base = self._base(given)
        scale, in_time = self._amount("scale", given, (self.limits.decay_scale_s, True))
        if scale <= 0:
            self.say("scale", f"it is {scale:g}: give more than 0")
        offset = self._offset(given, in_time)
        value, timed = self._amount("decay", given, (self.limits.decay_value, False))
        if timed or not 0 < value < 1:
            self.say("decay", "give a number above 0 and below 1")
        return Decay(
            base, self._origin(given, in_time), scale, offset, value, self._direction(given)
        )

    def _base(self, given: Mapping[object, object]) -> str:
        base = given.get("base")
        if isinstance(base, str) and base.lower() in DECAYS:
            return base.lower()
        said = "there is none" if base is None else f"{shown(base)} is no decay"
        self.say("base", f"{said}: choose one of {', '.join(DECAYS)}")
        return DECAYS[0]

    def _offset(self, given: Mapping[object, object], in_time: bool) -> float:
        default = self.limits.decay_offset_s if in_time else 0.0
        offset, offset_in_time = self._amount("offset", given, (default, in_time))
        if offset < 0:
            self.say("offset", f"it is {offset:g}: give 0 or more")
        if in_time != offset_in_time and offset:
            self.say(
                "offset",
                "of scale and offset one is a time and one is not: write both as 5d, or both as 5",
            )
        return offset

    def _direction(self, given: Mapping[object, object]) -> Direction:
        direction = given.get("direction") or "both"
        if direction in _DIRECTIONS:
            return direction
        self.say("direction", f"{shown(direction)} is none: choose one of {', '.join(_DIRECTIONS)}")
        return "both"

    def _origin(self, given: Mapping[object, object], in_time: bool) -> float | None:
        value = given.get("origin")
        if value is None:
            return None if in_time else 0.0
        if isinstance(value, str):
            if value.lower() == "now":
                return None
            if (moment := moment_s(value)) is not None and not _AMOUNT.fullmatch(value.strip()):
                return moment
        number, timed = self._amount("origin", given, (0.0, False))
        if timed:
            self.say("origin", "it is a span of time: write now, a moment or a number")
        return number

    def _amount(
        self, part: str, given: Mapping[object, object], default: tuple[float, bool]
    ) -> tuple[float, bool]:
        """A number, and whether it was written as a time: then it is in seconds."""
        value = given.get(part)
        if value is None:
            return default
        number, timed = number_of(value), False
        if isinstance(value, str) and len(value) <= _AMOUNT_CHARACTERS_MAX:
            found = _AMOUNT.fullmatch(value.strip())
            if found is not None:
                number = number_of(float(found[1]) * _UNITS_S.get(found[2], 1.0))
                timed = found[2] in _UNITS_S
        if number is None:
            self.say(
                part,
                f"{shown(value)} is no number and no time: write one such as 100, or 5d with one "
                f"of {', '.join(_UNITS_S)}",
            )
            return default
        return number, timed
