"""Names as small integers, so that columns can hold them; bounded by what is alive. Pure."""

import sys
from collections.abc import Callable, Collection, Sequence
from itertools import repeat
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["UNKNOWN", "Interner"]

UNKNOWN = -1
"""The number of a name that is not known; columns are padded with it."""

_NUMBERS_BYTES: Final = 24
"""Bytes of a name's number and of its count of references, about: small ones take none."""


def _ignore(_number: int) -> None:
    pass


class Interner:
    """Gives every name in use a number, and uses the number again once the name is forgotten.

    Who stores a number holds a reference: `acquire` takes it, `release` gives it back. A name
    without references is idle: up to `idle_max` idle names are kept, so that what is counted under
    their numbers survives a pause; beyond that the name that has been idle longest is forgotten,
    and `forget` is called with its number. With `limit` names in use and none idle, a new name gets
    no number: `acquire` returns `UNKNOWN`. Numbers are dense: all lie below `size`.
    """

    def __init__(
        self, limit: int, idle_max: int = 0, forget: Callable[[int], None] = _ignore
    ) -> None:
        self._limit = limit
        self._idle_max = idle_max
        self._forget = forget
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self._references: list[int] = []
        self._idle: dict[int, None] = {}
        self._free: list[int] = []
        self._text_bytes = 0

    @property
    def memory_bytes(self) -> int:
        """About the bytes that the names take; in a time that does not depend on their number."""
        held = (self._numbers, self._names, self._references, self._idle, self._free)
        objects = _NUMBERS_BYTES * len(self._numbers) + self._text_bytes
        return objects + sum(map(sys.getsizeof, held))

    @property
    def size(self) -> int:
        """One more than the largest number ever given: the length of a column over the names."""
        return len(self._names)

    @property
    def names(self) -> Sequence[str]:
        """The name of each number; what stands at a forgotten number means nothing. Read only."""
        return self._names

    def __len__(self) -> int:
        """How many names are known, the idle ones included."""
        return len(self._numbers)

    def __contains__(self, name: str) -> bool:
        """Whether the name has a number."""
        return name in self._numbers

    def get(self, name: str) -> int:
        """The number of a name, or `UNKNOWN`."""
        return self._numbers.get(name, UNKNOWN)

    def numbers(self, names: Collection[str]) -> npt.NDArray[np.intp]:
        """The number of each name, intp; `UNKNOWN` where it has none."""
        found = map(self._numbers.get, names, repeat(UNKNOWN))
        return np.fromiter(found, dtype=np.intp, count=len(names))

    def acquire(self, name: str) -> int:
        """The number of a name, given to it if it has none, and one reference more."""
        number = self._numbers.get(name)
        if number is None:
            if len(self._numbers) >= self._limit and not self._forget_idle():
                return UNKNOWN
            number = self._add(name)
        elif self._references[number] == 0:
            del self._idle[number]
        self._references[number] += 1
        return number

    def release(self, number: int) -> None:
        """Give one reference back; `UNKNOWN` is ignored."""
        if number == UNKNOWN:
            return
        self._references[number] -= 1
        if self._references[number] == 0:
            self._idle[number] = None
            if len(self._idle) > self._idle_max:
                self._forget_idle()

    def _add(self, name: str) -> int:
        if self._free:
            number = self._free.pop()
            self._names[number] = name
        else:
            number = len(self._names)
            self._names.append(name)
            self._references.append(0)
        self._numbers[name] = number
        self._text_bytes += sys.getsizeof(name)
        return number

    def _forget_idle(self) -> bool:
        """Forget the name that has been idle longest; False if none is idle."""
        if not self._idle:
            return False
        number = next(iter(self._idle))
        del self._idle[number]
        del self._numbers[self._names[number]]
        self._text_bytes -= sys.getsizeof(self._names[number])
        self._names[number] = ""
        self._free.append(number)
        self._forget(number)
        return True
