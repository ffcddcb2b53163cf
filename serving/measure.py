"""What a benchmark says: times of one thing beside those of a reference, from the same run.

Where it can be done the two are measured in turn, so that whatever else the machine does falls on
both.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

__all__ = ["Doing", "Figure", "Sizes", "Stopwatch", "SyncedFile", "Times", "rounds"]

REPEATS_MIN: Final = 20
"""Times that anything is measured at least, however short the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much data the benchmarks work on; `Sizes.short()` shows no more than that they run."""

    page_rows: int = 1_000_000
    """Rows in the store that pages are read from."""

    log_entries: int = 1_000_000
    """Entries in the log of a node that is started again."""

    followers: int = 1_000
    """Followers of the feed that is posted to."""

    kills: int = 5
    """Times that a leader is killed, or a node started again."""

    candidates: tuple[int, ...] = (100, 500, 2_000)
    """Candidates of a ranked read over HTTP, one figure each."""

    peers: bool = True
    """Whether `mlflow models serve` and BentoML are started beside it."""

    bentoml_python: Path | None = None
    """The interpreter that has BentoML and xgboost; this process's own if unset."""

    workers: tuple[int, ...] = tuple(2**power for power in range(1, 7))
    """Numbers of workers that are compared with one; those beyond the cores are left out."""

    tenants: int = 100
    """Tenants of a worker whose memory is looked at."""

    @classmethod
    def short(cls) -> Self:
        """The smallest."""
        return cls(
            page_rows=20_000,
            log_entries=2_000,
            followers=20,
            kills=1,
            candidates=(100,),
            peers=False,
            tenants=3,
        )


@dataclass(frozen=True, slots=True)
class Doing:
    """What a benchmark does next, and the share of it that is done: for whoever waits."""

    what: str
    share: float


@dataclass(frozen=True, slots=True)
class Times:
    """Durations of one operation in microseconds."""

    repeats: int
    p50_us: float
    p99_us: float

    @classmethod
    def of(cls, durations_ns: Sequence[int]) -> Self:
        """The quantiles of durations in nanoseconds; raises `ValueError` if there are none."""
        if not durations_ns:
            raise ValueError("nothing was measured")
        ordered = sorted(durations_ns)
        count = len(ordered)
        return cls(count, ordered[count // 2] / 1e3, ordered[count * 99 // 100] / 1e3)


class Stopwatch:
    """Times what runs in its `with` blocks, each on its own."""

    def __init__(self) -> None:
        self._durations_ns: list[int] = []
        self._started_ns = 0

    def __enter__(self) -> None:
        self._started_ns = time.perf_counter_ns()

    def __exit__(self, *_: object) -> None:
        self._durations_ns.append(time.perf_counter_ns() - self._started_ns)

    def times(self) -> Times:
        """The quantiles so far."""
        return Times.of(self._durations_ns)


def rounds(seconds: float) -> Iterator[int]:
    """Numbers from 0 until so many seconds are over, at least 20 of them."""
    end = time.perf_counter() + seconds
    number = 0
    while number < REPEATS_MIN or time.perf_counter() < end:
        yield number
        number += 1


class SyncedFile:
    """A file that each append is synced to with fdatasync: what durability costs by itself."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)

    def append(self, content: bytes) -> None:
        """Write, and wait for the disk."""
        self._file.write(content)
        os.fdatasync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: what was `measured`, beside the `reference`; either as times or as a rate.

    `ratio` is measured / reference: of the p50s (lower is better), or of the rates (higher is).
    `details` are counts and means that say what was done.
    """

    bench: str
    what: str
    goal: str
    measured: Times | None
    per_s: float
    reference: str
    reference_times: Times | None
    reference_per_s: float
    ratio: float
    details: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_times(
        cls,
        bench: str,
        what: str,
        measured: Times,
        reference: str,
        reference_times: Times,
        goal: str = "",
        **details: float,
    ) -> Self:
        """A figure whose ratio compares medians."""
        return cls(
            bench=bench,
            what=what,
            goal=goal,
            measured=measured,
            per_s=1e6 / measured.p50_us,
            reference=reference,
            reference_times=reference_times,
            reference_per_s=1e6 / reference_times.p50_us,
            ratio=measured.p50_us / reference_times.p50_us,
            details=details,
        )

    @classmethod
    def of_rates(
        cls,
        bench: str,
        what: str,
        per_s: float,
        reference: str,
        reference_per_s: float,
        goal: str = "",
        **details: float,
    ) -> Self:
        """A figure whose ratio compares rates."""
        return cls(
            bench=bench,
            what=what,
            goal=goal,
            measured=None,
            per_s=per_s,
            reference=reference,
            reference_times=None,
            reference_per_s=reference_per_s,
            ratio=per_s / reference_per_s,
            details=details,
        )
