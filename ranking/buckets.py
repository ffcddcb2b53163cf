"""The counts of `feeds.counters` as numpy columns over many activities, authors or tags. Pure.

Every row shares one ring clock: bucket b of any row lies in slot b % n, and slots are zeroed for
all rows when the clock reaches a new bucket. So one weight vector, made for the current time, turns
the counts of all rows into decayed counts: `counts[rows] @ weights`.

Exactness: weights are multiples of 2**-24 and sums are made in float64, where every product and
partial sum is exact while a row has fewer than 2**29 counts in its ring. Hence a decayed count does
not depend on the order of addition, the number of rows in a batch, or the BLAS in use: it is the
same bit for bit in training and in serving.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from feeds.counters import COUNTER_KINDS, RESOLUTIONS, CounterRecord
from feeds.events import APART_KINDS

__all__ = ["CHANNELS", "ENGAGEMENT", "IMPRESSION", "BucketCounts", "Ring", "decayed", "grown"]

CHANNELS: Final[tuple[str, ...]] = (*COUNTER_KINDS, "engagement")
"""What a row counts: each kind, and the sum of those that are engagements."""

_APART: Final = {"impression", *APART_KINDS}

IMPRESSION: Final = CHANNELS.index("impression")
ENGAGEMENT: Final = CHANNELS.index("engagement")

_RING_CHANNELS: Final[tuple[tuple[str, ...], ...]] = (
    ("impression", "engagement"),
    ("impression", "engagement", "like", "comment", "bookmark"),
)
"""What the hour ring and the day ring count: only what a feature reads, since rings are the table's
memory (792 of the 912 bytes of a row)."""

_WEIGHT_UNIT: Final = 2.0**24

T = TypeVar("T", bound=np.generic)


def _channels_of(kind: int) -> tuple[int, ...]:
    """The channels that an event of a kind adds to."""
    return (kind,) if CHANNELS[kind] in _APART else (kind, ENGAGEMENT)


_CHANNELS_OF: Final = tuple(_channels_of(kind) for kind in range(len(COUNTER_KINDS)))


def grown(array: npt.NDArray[T], rows: int, fill: int) -> npt.NDArray[T]:
    """A copy of `array` with `rows` rows, in the same memory order; the new ones hold `fill`."""
    order: Literal["C", "F"] = "C" if array.flags.c_contiguous else "F"
    larger = np.full((rows, *array.shape[1:]), fill, dtype=array.dtype, order=order)
    larger[: len(array)] = array
    return larger


def decayed(
    ages_us: npt.NDArray[np.int64], half_lives_us: Sequence[int]
) -> npt.NDArray[np.float64]:
    """What an event of each age still weighs, float64[*ages, half-lives]: multiples of 2**-24."""
    shares = np.exp2(ages_us[..., None] * _falls(*half_lives_us))
    weights: npt.NDArray[np.float64] = np.rint(shares * _WEIGHT_UNIT) / _WEIGHT_UNIT
    return weights


@lru_cache(maxsize=64)
def _falls(*half_lives_us: int) -> npt.NDArray[np.float64]:
    """How much the power of 2 falls in a microsecond, float64[half-lives], each below 0."""
    falls: npt.NDArray[np.float64] = -np.reciprocal(half_lives_us, dtype=np.float64)
    falls.flags.writeable = False
    return falls


class Ring:
    """The latest buckets of every row: `counts` is int32[rows, channels, buckets kept].

    The ring's clock is the newest bucket that any row was counted in; an event older than the ring
    is not counted.
    """

    def __init__(self, width_us: int, kept: int, channels: Sequence[str]) -> None:
        self._width_us = width_us
        self._kept = kept
        self._newest = 0
        self._slots = np.arange(kept, dtype=np.int64)
        self._buckets, self._middles_us = self._held()
        self._places = {CHANNELS.index(name): place for place, name in enumerate(channels)}
        self._adds = tuple(
            tuple(self._places[channel] for channel in channels_of if channel in self._places)
            for channels_of in _CHANNELS_OF
        )
        self.counts = np.zeros((0, len(channels), kept), dtype=np.int32)

    @property
    def newest(self) -> int:
        """The ring's clock: the newest bucket that any row was counted in."""
        return self._newest

    def grow(self, rows: int) -> None:
        """Make room for `rows` rows."""
        self.counts = grown(self.counts, rows, 0)

    def add(self, row: int, kind: int, time_us: int) -> None:
        """Count one event; moves the clock where the event is the newest so far."""
        bucket = time_us // self._width_us
        if bucket > self._newest:
            self._advance(bucket)
        elif bucket <= self._newest - self._kept:
            return
        counts, slot = self.counts, bucket % self._kept
        for place in self._adds[kind]:
            counts[row, place, slot] += 1

    def load(self, row: int, buckets: Mapping[int, Mapping[int, int]]) -> None:
        """Set a cleared row to what a record holds: kind -> bucket -> count."""
        newest = max((bucket for of_kind in buckets.values() for bucket in of_kind), default=0)
        if newest > self._newest:
            self._advance(newest)
        counts, oldest = self.counts, self._newest - self._kept + 1
        for kind, of_kind in buckets.items():
            for place in self._adds[kind]:
                for bucket, count in of_kind.items():
                    if bucket >= oldest:
                        counts[row, place, bucket % self._kept] += count

    def _advance(self, bucket: int) -> None:
        """Move the clock to `bucket`, emptying the slots that it uses again."""
        passed = min(bucket - self._newest, self._kept)
        stale = np.arange(bucket - passed + 1, bucket + 1) % self._kept
        self.counts[:, :, stale] = 0
        self._newest = bucket
        self._buckets, self._middles_us = self._held()

    def decays(self, now_us: int, half_lives_us: Sequence[int]) -> npt.NDArray[np.float64]:
        """Weights of the slots at a time, float64[kept, half-lives].

        The age of a bucket is that of its middle, and 0 for one that lies ahead; a bucket that
        would have left the ring by now weighs nothing.
        """
        weights = decayed(np.maximum(now_us - self._middles_us, 0), half_lives_us)
        bucket = now_us // self._width_us
        if bucket > self._newest:
            weights[self._buckets <= bucket - self._kept] = 0.0
        return weights

    def window(self, now_us: int, buckets: int) -> npt.NDArray[np.float64]:
        """Weights of the slots that count the latest `buckets` buckets alone, float64[kept, 1]."""
        inside = self._buckets > now_us // self._width_us - buckets
        return inside.astype(np.float64)[:, None]

    def _held(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The bucket that each slot holds now, and the time of its middle."""
        buckets = self._newest - (self._newest - self._slots) % self._kept
        return buckets, buckets * self._width_us + self._width_us // 2

    def weights_at(
        self, times_us: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """What an event of each time weighs by the weights of the slots; 0 behind the ring."""
        buckets = times_us // self._width_us
        return np.where(buckets > self._newest - self._kept, weights[buckets % self._kept], 0.0)

    def weigh(
        self, rows: npt.NDArray[np.integer], channel: int, weights: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """The weighted counts of a channel: float64[rows, columns of `weights`], exact."""
        chosen = self.counts[:, self._places[channel]][rows].astype(np.float64)
        weighed: npt.NDArray[np.float64] = chosen @ weights
        return weighed

    def weigh_all(
        self, rows: npt.NDArray[np.integer], weights: npt.NDArray[np.float64]
    ) -> Mapping[int, npt.NDArray[np.float64]]:
        """What `weigh` gives for every channel, by channel: one gather and one product."""
        chosen = self.counts.take(rows, axis=0).astype(np.float64)
        weighed = chosen.reshape(-1, self._kept) @ weights
        by_place = weighed.reshape(len(rows), len(self._places), weights.shape[1])
        return {channel: by_place[:, place] for channel, place in self._places.items()}


class BucketCounts:
    """What `feeds.counters.CounterRecord` holds, for many rows at once.

    `totals` is int32[rows, channels] and `last_us` int64[rows, channels] (0 where nothing was
    counted), stored a column at a time; `hour` and `day` are the rings. Adding is commutative, and
    `load` gives what adding the record's events one by one would.
    """

    def __init__(self) -> None:
        self.totals = np.zeros((0, len(CHANNELS)), dtype=np.int32, order="F")
        self.last_us = np.zeros((0, len(CHANNELS)), dtype=np.int64, order="F")
        self.hour, self.day = (
            Ring(width_us, kept, channels)
            for (width_us, kept), channels in zip(RESOLUTIONS, _RING_CHANNELS, strict=True)
        )

    def __len__(self) -> int:
        """How many rows there is room for."""
        return len(self.totals)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the columns."""
        columns = (self.totals, self.last_us, self.hour.counts, self.day.counts)
        return sum(column.nbytes for column in columns)

    def grow(self, rows: int) -> None:
        """Make room for `rows` rows."""
        self.totals = grown(self.totals, rows, 0)
        self.last_us = grown(self.last_us, rows, 0)
        self.hour.grow(rows)
        self.day.grow(rows)

    def add(self, row: int, kind: int, time_us: int) -> None:
        """Count one event of a kind at a time."""
        totals, last_us = self.totals, self.last_us
        for channel in _CHANNELS_OF[kind]:
            totals[row, channel] += 1
            last_us[row, channel] = max(last_us[row, channel], time_us)
        self.hour.add(row, kind, time_us)
        self.day.add(row, kind, time_us)

    def load(self, row: int, record: CounterRecord) -> None:
        """Replace a row by what a stored record holds."""
        self.clear(row)
        for kind, count in record.totals.items():
            for channel in _CHANNELS_OF[kind]:
                self.totals[row, channel] += count
        for kind, time_us in record.last_us.items():
            for channel in _CHANNELS_OF[kind]:
                self.last_us[row, channel] = max(self.last_us[row, channel], time_us)
        for ring, buckets in zip((self.hour, self.day), record.buckets, strict=True):
            ring.load(row, buckets)

    def clear(self, row: int) -> None:
        """Forget what a row counted."""
        self.totals[row] = 0
        self.last_us[row] = 0
        self.hour.counts[row] = 0
        self.day.counts[row] = 0
