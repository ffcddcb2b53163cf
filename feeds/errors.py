"""Every error of the feed engine.

FeedsError
├── InvalidInput            the caller sent something that cannot be right; nothing was changed
│   ├── UnknownFeedGroup
│   ├── InvalidCursor
│   ├── InvalidTime
│   └── LimitExceeded       a limit that is named in the config
├── NotFound                the tenant, activity or version does not exist
├── Conflict                the write expected another state; or its idempotency key is used up
├── QuotaExceeded           the tenant has used up one of its quotas; nothing was changed
├── Overloaded              too many writes wait; retry after a moment
├── NoLeader                no node leads at the moment; nothing was written; retry after a moment
├── OutcomeUnknown          a write that may have taken effect: repeat it with its key
├── StaleRead               this node is too far behind to answer; ask another, or retry
└── StorageError            this node cannot go on
├── DataDirectoryLocked another process owns the data directory
├── LogDamaged          a record of the log that was durable fails its checksum
├── FormatUnsupported   the data directory is of another format version
├── ClusterMismatch     a directory, certificate or peer that belongs to another cluster or node
├── SnapshotDamaged     a snapshot or backup that is incomplete or fails its checksums
├── StorageFull         less free space than the reserve; nothing was written
└── ReplicaStopped      the replica stopped after an I/O error, or was closed
"""

__all__ = [
    "ClusterMismatch",
    "Conflict",
    "DataDirectoryLocked",
    "FeedsError",
    "FormatUnsupported",
    "InvalidCursor",
    "InvalidInput",
    "InvalidTime",
    "LimitExceeded",
    "LogDamaged",
    "NoLeader",
    "NotFound",
    "OutcomeUnknown",
    "Overloaded",
    "QuotaExceeded",
    "ReplicaStopped",
    "SnapshotDamaged",
    "StaleRead",
    "StorageError",
    "StorageFull",
    "UnknownFeedGroup",
]


class FeedsError(Exception):
    """Base of every error of this package; `str(error)` is a sentence for the user."""


class InvalidInput(FeedsError):
    """The caller sent something that cannot be right; nothing was changed."""


class UnknownFeedGroup(InvalidInput):
    """The feed's group is not configured."""


class InvalidCursor(InvalidInput):
    """The cursor was not made by this server, or belongs to another feed."""


class InvalidTime(InvalidInput):
    """A time that cannot be parsed, or lies outside the accepted range."""


class LimitExceeded(InvalidInput):
    """More than a configured limit allows; the message names the limit and its value."""


class NotFound(FeedsError):
    """The tenant, activity or version does not exist."""


class Conflict(FeedsError):
    """The state is not the one that the write expected, so that it changed nothing.

    Or its idempotency key was used before, with other content.
    """


class QuotaExceeded(FeedsError):
    """The tenant has used up one of its quotas, which the message names; nothing was changed."""


class Overloaded(FeedsError):
    """Too much waits; nothing was written, and a retry after `retry_after_s` may succeed."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Seconds after which to try again."""


class NoLeader(FeedsError):
    """No node leads, or none is known here; nothing was written, and a retry may succeed."""


class OutcomeUnknown(FeedsError):
    """The answer to a write was lost: it may have taken effect. Repeat it with the same key."""


class StaleRead(FeedsError):
    """This node's state is older than the reader accepts."""


class StorageError(FeedsError):
    """This node cannot go on; the message says what to do."""


class DataDirectoryLocked(StorageError):
    """Another process owns the data directory."""


class LogDamaged(StorageError):
    """A log record that was durable fails its checksum: file and offset are named."""


class FormatUnsupported(StorageError):
    """The data directory was written by another format version."""


class ClusterMismatch(StorageError):
    """A directory, certificate or peer belongs to another cluster, or is not the node it says."""


class SnapshotDamaged(StorageError):
    """A snapshot or backup is incomplete or fails its checksums; nothing of it was used."""


class StorageFull(StorageError):
    """Less free space is left than the reserve; nothing was written."""


class ReplicaStopped(StorageError):
    """The replica stopped after an I/O error, or was closed."""
