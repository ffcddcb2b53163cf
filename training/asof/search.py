"""What stood before a place of the log, by key: sorted once, then searched. Pure."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["History", "running_count", "running_maximum"]

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_SPAN_MAX = 2**62


@dataclass(frozen=True, slots=True)
class History:
    """Entries by key and then by place: the last one of a key before a place is one search away.

    `order` is int64[m]: the entries in that order; `first` is bool[m], in that order too: which
    begin a key.
    """

    order: Ints
    first: Flags
    values: Ints | None
    """The distinct keys, where keys are too large to be searched for as they are."""
    composite: Ints
    span: int

    @classmethod
    def of(cls, keys: Ints, places: Ints, span: int) -> "History":
        """Entries of keys not below 0, at places from 0 up to `span`.

        Entries of one key at one place stay in their order.
        """
        values, span = None, span + 1
        if (int(keys.max(initial=0)) + 1) * span > _SPAN_MAX:
            values, keys = np.unique(keys, return_inverse=True)
            if len(values) * span > _SPAN_MAX:
                raise OverflowError(f"{len(values)} keys at {span} places are too many for numpy")
        composite = keys * span + places
        order = np.argsort(composite, kind="stable")
        composite = composite[order]
        first = np.ones(len(order), np.bool_)
        first[1:] = composite[1:] // span != composite[:-1] // span
        return cls(order, first, values, composite, span)

    def last(self, keys: Ints, places: Ints) -> Ints:
        """The place in `order` of the last entry of each key before each place, or -1."""
        if not len(self.order):
            return np.full(len(keys), -1, np.int64)
        known = (keys >= 0) & (keys <= _SPAN_MAX // self.span)
        if self.values is not None:
            number = np.minimum(np.searchsorted(self.values, keys), len(self.values) - 1)
            known, keys = self.values[number] == keys, number
        start = np.where(known, keys, 0) * self.span
        # In order the search stays in the cache: half the time, sorting included.
        needles = start + places
        sorting = np.argsort(needles)
        found = np.empty(len(keys), np.int64)
        found[sorting] = np.searchsorted(self.composite, needles[sorting]) - 1
        known &= (found >= 0) & (self.composite[np.maximum(found, 0)] >= start)
        return np.where(known, found, -1)


def running_count(first: Flags, counted: Flags) -> npt.NDArray[np.int32]:
    """int32[m]: entries of the same key that are counted, up to each and with it."""
    total = np.cumsum(counted)
    starts = np.flatnonzero(first)
    before: npt.NDArray[np.int64] = (total - counted)[starts]
    lengths = np.diff(np.append(starts, len(first)))
    return (total - np.repeat(before, lengths)).astype(np.int32)


def running_maximum(first: Flags, values: Ints) -> Ints:
    """int64[m]: the greatest value of the same key, up to each entry and with it."""
    if not len(values):
        return values
    if not (np.diff(values) < 0)[~first[1:]].any():
        return values
    distinct, rank = np.unique(values, return_inverse=True)
    lifted = (np.cumsum(first) - 1) * len(distinct) + rank
    highest: Ints = distinct[np.maximum.accumulate(lifted) % len(distinct)]
    return highest
