"""Every error of training.

TrainingError
├── SourceError         a public data set cannot be read: file, line and what to do
├── ExportDamaged       an exported event log does not match its manifest
├── TrainingSetDamaged  a training set on disk does not match its manifest
├── TooFewEvents        not enough engagements to split, train or judge by
├── GatesFailed         a version may not replace the live one; the reasons are told
├── BudgetSpent         a tenant's training took its time or its memory
├── MinutesSpent        a tenant's quota of training minutes is used up
├── TenantsFailed       some of several tenants were not trained; the others were
├── ClusterError        the Dask cluster cannot be started or reached
├── DiskFull            a disk was full while a run wrote to it; nothing was published
└── SimulationError     a community cannot be simulated as asked, or its service failed
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from feeds.errors import FeedsError
from ranking.errors import RankingError

__all__ = [
    "TOLD",
    "BudgetSpent",
    "ClusterError",
    "DiskFull",
    "ExportDamaged",
    "GatesFailed",
    "MinutesSpent",
    "SimulationError",
    "SourceError",
    "TenantsFailed",
    "TooFewEvents",
    "TrainingError",
    "TrainingSetDamaged",
]


class TrainingError(Exception):
    """Base of every error of this package; `str(error)` is a sentence for the user."""


class SourceError(TrainingError):
    """A public data set cannot be read; the message names file and line, and what to do."""


class ExportDamaged(TrainingError):
    """An exported event log is missing, or does not match its manifest."""


class TrainingSetDamaged(TrainingError):
    """A training set on disk is missing, or does not match its manifest."""


class TooFewEvents(TrainingError):
    """Not enough engagements to split, train or judge by; the message says how many there are."""


class GatesFailed(TrainingError):
    """A version may not replace the live one; the message has every reason, and what to do."""


class BudgetSpent(TrainingError):
    """A tenant's training took its time or its memory; nothing of it was published."""


class MinutesSpent(TrainingError):
    """A tenant's quota of training minutes is used up; the message says when it may again."""


class TenantsFailed(TrainingError):
    """Some of several tenants were not trained; `results` are those of the others."""

    def __init__(self, failed: Mapping[str, Exception], results: Sequence[Any]) -> None:
        # Any: `TrainingResult`, which is made above this module
        told = "; ".join(f"{tenant}: {error}" for tenant, error in failed.items())
        super().__init__(f"{len(failed)} of {len(failed) + len(results)} tenants failed: {told}")
        self.failed = dict(failed)
        self.results = tuple(results)


class ClusterError(TrainingError):
    """The Dask cluster cannot be started or reached."""


class DiskFull(TrainingError):
    """A disk, or a quota of it, was full while a run wrote to it; nothing of it was published."""


class SimulationError(TrainingError):
    """A community cannot be simulated as asked, or the service that it lives on failed."""


TOLD: Final = (TrainingError, RankingError, FeedsError)
"""Errors whose message is all that the user needs; any other is a fault of the program."""
