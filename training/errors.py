"""Every error of training.

TrainingError
├── SourceError         a public data set cannot be read: file, line and what to do
├── ExportDamaged       an exported event log does not match its manifest
├── TrainingSetDamaged  a training set on disk does not match its manifest
├── TooFewEvents        not enough engagements to split, train or judge by
├── GatesFailed         a version may not replace the live one; the reasons are told
├── ClusterError        the Dask cluster cannot be started or reached
└── SimulationError     a community cannot be simulated as asked, or its service failed
"""

__all__ = [
    "ClusterError",
    "ExportDamaged",
    "GatesFailed",
    "SimulationError",
    "SourceError",
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


class ClusterError(TrainingError):
    """The Dask cluster cannot be started or reached."""


class SimulationError(TrainingError):
    """A community cannot be simulated as asked, or the service that it lives on failed."""
