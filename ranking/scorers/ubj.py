"""Universal Binary JSON, as XGBoost writes its models: what is in the bytes, nothing else.

Arrays of one type are columns of numpy that look into the bytes; the format is at ubjson.org.
"""

import struct
from typing import Final

import numpy as np

__all__ = ["DamagedUbj", "read"]

_NESTING_MAX: Final = 32
"""Objects and arrays in one another; XGBoost's models have 8."""

_INTEGERS: Final = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q"}
_NUMBERS: Final = _INTEGERS | {b"d": ">f", b"D": ">d"}
"""Formats that `struct` and numpy read alike."""

_CONSTANTS: Final = {b"T": True, b"F": False, b"Z": None}


class DamagedUbj(ValueError):
    """The bytes are not UBJ, or nested deeper than any model."""


def read(content: bytes) -> object:
    """The value in these bytes: dict, list, array, str, int, float, bool or None.

    Time and memory are in proportion to the bytes. Raises `DamagedUbj`.
    """
    return _Reader(content).value(0)


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def value(self, nesting: int, marker: bytes = b"") -> object:
        marker = marker or self._take(1)
        if nesting > _NESTING_MAX:
            raise DamagedUbj(f"nested deeper than {_NESTING_MAX} at byte {self._at}")
        match marker:
            case b"{":
                return self._object(nesting + 1)
            case b"[":
                return self._array(nesting + 1)
            case b"S":
                return self._text(self._length(self._take(1)))
        if marker in _NUMBERS:
            return self._number(marker)
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        raise DamagedUbj(f"no value begins with {marker!r}, at byte {self._at}")

    def _object(self, nesting: int) -> dict[str, object]:
        found = {}
        while (marker := self._take(1)) != b"}":
            name = self._text(self._length(marker))
            found[name] = self.value(nesting)
        return found

    def _array(self, nesting: int) -> object:
        marker = self._take(1)
        if marker == b"$":
            return self._column(self._take(2))
        if marker == b"#":
            return [self.value(nesting) for _ in range(self._length(self._take(1)))]
        found = []
        while marker != b"]":
            found.append(self.value(nesting, marker))
            marker = self._take(1)
        return found

    def _column(self, header: bytes) -> object:
        marker = header[:1]
        if marker not in _NUMBERS or header[1:] != b"#":
            raise DamagedUbj(f"no array of one type begins with {header!r}, at byte {self._at}")
        count = self._length(self._take(1))
        kind = np.dtype(_NUMBERS[marker])
        return np.frombuffer(self._take(count * kind.itemsize), kind)

    def _number(self, marker: bytes) -> int | float:
        number: int | float
        (number,) = struct.unpack(_NUMBERS[marker], self._take(struct.calcsize(_NUMBERS[marker])))
        return number

    def _length(self, marker: bytes) -> int:
        """A number of things that follow, each of a byte at least."""
        if marker not in _INTEGERS:
            raise DamagedUbj(f"no length begins with {marker!r}, at byte {self._at}")
        length = int(self._number(marker))
        if not 0 <= length <= len(self._content) - self._at:
            raise DamagedUbj(f"{length} things cannot follow byte {self._at}")
        return length

    def _text(self, length: int) -> str:
        try:
            return self._take(length).decode()
        except UnicodeDecodeError as error:
            raise DamagedUbj(f"no text before byte {self._at}") from error

    def _take(self, count: int) -> bytes:
        start, end = self._at, self._at + count
        if end > len(self._content):
            raise DamagedUbj(f"the bytes end before {end}")
        self._at = end
        return self._content[start:end]
