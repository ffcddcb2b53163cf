"""Decayed counts as of many moments: the ring that serves, and what its next events add. Pure.

The log is walked in chunks. At the start of a chunk the ring of every life is what serving would
hold; a moment within the chunk adds the events of the chunk before it. Products and sums are exact
(`ranking.buckets`), so that they come out bit for bit as from a ring that took every event singly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ranking.buckets import decayed, grown

__all__ = ["Counted", "Moments", "RingSpec", "RingWalk", "Sums", "Weighing"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_SLOTS_MIN: Final = 1_024


@dataclass(frozen=True, slots=True)
class Weighing:
    """What is asked of a counted column: sums decayed by half-lives, and with 0 the plain count."""

    column: int
    half_lives_us: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RingSpec:
    """A ring: the width of its buckets, how many it keeps, and what is asked of it."""

    width_us: int
    kept: int
    weighings: tuple[Weighing, ...]

    @property
    def sums(self) -> int:
        """How many sums are asked for."""
        return sum(len(each.half_lives_us) for each in self.weighings)

    def weights(
        self, buckets: Ints, now_us: Ints, floor: Ints, half_lives_us: Sequence[int]
    ) -> Floats:
        """What an event in each bucket weighs, [*buckets, half-lives]: as `Ring.decays` says."""
        ages_us = np.maximum(now_us - self.width_us // 2 - buckets * self.width_us, 0)
        decays = [place for place, each in enumerate(half_lives_us) if each]
        weights = np.ones((*ages_us.shape, len(half_lives_us)))
        weights[..., decays] = decayed(ages_us, [half_lives_us[place] for place in decays])
        weights[buckets <= floor] = 0.0
        return weights


@dataclass(frozen=True, slots=True)
class Counted:
    """m events in log order: of which life, when, and to which columns they add."""

    life: npt.NDArray[np.int32]
    place: Ints
    time_us: Ints
    adds: npt.NDArray[np.bool_]
    """bool[m, columns]"""


@dataclass(frozen=True, slots=True)
class Moments:
    """n moments: of which life (-1 none), before which place, at what time."""

    life: Ints
    place: Ints
    now_us: Ints

    def __len__(self) -> int:
        return len(self.life)


@dataclass(frozen=True, slots=True)
class Sums:
    """What was counted before each of n moments: int64[n, columns] and float64[n, sums]."""

    totals: Ints
    weighed: Floats


class RingWalk:
    """The counts of every life at the start of a chunk of the log.

    `ends` are the places at which lives ended, by life: those free their memory. For each chunk
    call `begin`, then `sums` for moments not beyond the next chunk's first place, then `end`.
    Memory: 8 bytes for each column and bucket of a life in use. Cost: about 1 us a moment and half
    of that an event.
    """

    def __init__(self, spec: RingSpec, columns: int, ends: Ints) -> None:
        self._spec = spec
        self._newest = 0
        self._slot_of = np.zeros(len(ends) + 1, np.int64)  # slot 0 counts nothing; so does life -1
        self._by_end = np.argsort(ends, kind="stable")
        self._ends = ends[self._by_end]
        self._ended = 0
        self._free = np.zeros(0, np.int64)
        self._counts = np.zeros((1, len(spec.weighings), spec.kept))
        self._totals = np.zeros((1, columns), np.int64)

    def begin(self, chunk: Counted) -> None:
        """Take the next events of the log."""
        self._chunk = chunk
        self._groups = _Groups.of(chunk, self._spec.width_us)
        bucket = chunk.time_us // self._spec.width_us
        self._clock = np.maximum.accumulate(np.concatenate(([self._newest], bucket)))

    def sums(self, moments: Moments) -> Sums:
        """The sums of moments in the chunk: those at its start, and the events since."""
        spec = self._spec
        newest = self._clock[np.searchsorted(self._chunk.place, moments.place)]
        floor = np.maximum(newest, moments.now_us // spec.width_us) - spec.kept
        since = self._since(moments, floor)
        slots = self._slot_of[moments.life]
        return Sums(
            self._totals[slots] + since.totals,
            self._weighed(slots, moments, floor) + since.weighed,
        )

    def end(self) -> None:
        """Count the chunk."""
        chunk, spec = self._chunk, self._spec
        if not len(chunk.life):
            return
        self._free_ended(int(chunk.place[0]))
        self._make_slots(chunk.life)
        bucket, newest = chunk.time_us // spec.width_us, int(self._clock[-1])
        passed = min(newest - self._newest, spec.kept)
        self._counts[:, :, np.arange(newest - passed + 1, newest + 1) % spec.kept] = 0
        self._newest = newest
        slot = self._slot_of[chunk.life]
        for column in range(chunk.adds.shape[1]):
            np.add.at(self._totals[:, column], slot[chunk.adds[:, column]], 1)
        inside = bucket > newest - spec.kept
        for place, weighing in enumerate(spec.weighings):
            added = inside & chunk.adds[:, weighing.column]
            np.add.at(self._counts[:, place], (slot[added], bucket[added] % spec.kept), 1)

    def _weighed(self, slots: Ints, moments: Moments, floor: Ints) -> Floats:
        spec = self._spec
        buckets = self._newest - (self._newest - np.arange(spec.kept)) % spec.kept
        # Candidates of a request ask at the same moment: its weights are made once.
        begins = np.ones(len(moments), np.bool_)
        begins[1:] = (np.diff(moments.now_us) != 0) | (np.diff(floor) != 0)
        request, firsts = np.cumsum(begins) - 1, np.flatnonzero(begins)
        lives = sorted({life for each in spec.weighings for life in each.half_lives_us})
        weights = spec.weights(
            np.broadcast_to(buckets, (len(firsts), spec.kept)),
            moments.now_us[firsts, None],
            floor[firsts, None],
            lives,
        )
        everything = np.matmul(self._counts[slots], weights[request])
        parts = [
            everything[:, place, lives.index(life)]
            for place, each in enumerate(spec.weighings)
            for life in each.half_lives_us
        ]
        return np.stack(parts, axis=1)

    def _since(self, moments: Moments, floor: Ints) -> Sums:
        """What the events of the chunk before each moment add.

        Events are grouped by life and bucket; of each group that a moment's life has, the events
        before the moment are counted by one search.
        """
        spec, groups, n = self._spec, self._groups, len(moments)
        columns = self._totals.shape[1]
        totals, weighed = np.zeros((n, columns), np.int64), np.zeros((n, spec.sums))
        moment, group = groups.pairs(moments.life)
        if not len(moment):
            return Sums(totals, weighed)
        counts = groups.counts_before(group, moments.place[moment])
        for column in range(columns):
            totals[:, column] = np.bincount(moment, counts[:, column], minlength=n)
        bucket, now_us = groups.bucket[group], moments.now_us[moment]
        column = 0
        for weighing in spec.weighings:
            weights = spec.weights(bucket, now_us, floor[moment], weighing.half_lives_us)
            for of_half_life in weights.T:
                added = counts[:, weighing.column] * of_half_life
                weighed[:, column] = np.bincount(moment, added, minlength=n)
                column += 1
        return Sums(totals, weighed)

    def _free_ended(self, before: int) -> None:
        """Give the slots back of lives that ended before a place."""
        ended = int(np.searchsorted(self._ends, before))
        lives = self._by_end[self._ended : ended]
        slots = self._slot_of[lives]
        slots = slots[slots > 0]
        self._slot_of[lives] = 0
        self._counts[slots] = 0
        self._totals[slots] = 0
        self._free = np.concatenate([self._free, slots])
        self._ended = max(self._ended, ended)

    def _make_slots(self, lives: npt.NDArray[np.int32]) -> None:
        fresh = np.unique(lives)
        fresh = fresh[self._slot_of[fresh] == 0]
        if len(fresh) > len(self._free):
            rows = len(self._counts)
            more = max(len(fresh) - len(self._free), rows, _SLOTS_MIN)
            self._counts = grown(self._counts, rows + more, 0)
            self._totals = grown(self._totals, rows + more, 0)
            self._free = np.concatenate([self._free, np.arange(rows, rows + more)])
        self._slot_of[fresh] = self._free[: len(fresh)]
        self._free = self._free[len(fresh) :]


@dataclass(frozen=True, slots=True)
class _Groups:
    """The events of a chunk by life, bucket and place."""

    life: Ints
    """int64[g], ascending"""
    bucket: Ints
    """int64[g]"""
    _start: Ints
    _composite: Ints
    _counts: npt.NDArray[np.int32]
    """int32[m + 1, columns]: events before each, all groups together"""
    _base: int
    _span: int

    @classmethod
    def of(cls, chunk: Counted, width_us: int) -> "_Groups":
        bucket = chunk.time_us // width_us
        order = np.lexsort((bucket, chunk.life))  # stable: places stay in order
        life, bucket = chunk.life[order].astype(np.int64), bucket[order]
        begins = np.ones(len(order), np.bool_)
        begins[1:] = (np.diff(life) != 0) | (np.diff(bucket) != 0)
        starts = np.flatnonzero(begins)
        base = int(chunk.place[0]) if len(order) else 0
        span = int(chunk.place[-1]) - base + 2 if len(order) else 1
        counts = np.zeros((len(order) + 1, chunk.adds.shape[1]), np.int32)
        np.cumsum(chunk.adds[order], axis=0, out=counts[1:])
        composite = (np.cumsum(begins) - 1) * span + (chunk.place[order] - base)
        return cls(life[starts], bucket[starts], starts, composite, counts, base, span)

    def pairs(self, life: Ints) -> tuple[Ints, Ints]:
        """(moment, group) for every group of each moment's life."""
        first = np.searchsorted(self.life, life)
        many = np.searchsorted(self.life, life, side="right") - first
        moment = np.repeat(np.arange(len(life)), many)
        within = np.arange(len(moment)) - np.repeat(np.cumsum(many) - many, many)
        return moment, first[moment] + within

    def counts_before(self, group: Ints, place: Ints) -> npt.NDArray[np.int32]:
        """int32[pairs, columns]: events of each group before a place."""
        offset = np.clip(place - self._base, 0, self._span - 1)
        found = np.searchsorted(self._composite, group * self._span + offset)
        counts: npt.NDArray[np.int32] = self._counts[found] - self._counts[self._start[group]]
        return counts
