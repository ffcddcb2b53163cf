"""What is opened on a data directory: an engine's parts, or a reader beside a running engine."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from feeds.config import FeedsConfig
from feeds.directory import STORE, DataDirectory, check_format
from feeds.reader import StoreReader
from feeds.replication.base import ApplyCommand, Replica
from feeds.replication.config import LogConfig
from feeds.replication.replica import ReplicaConfig, SingleReplica
from feeds.store.base import Store
from feeds.store.rocks import RocksConfig, RocksStore

__all__ = ["open_parts", "open_reader"]


def open_parts(
    path: Path, config: FeedsConfig
) -> tuple[Store, Callable[[ApplyCommand, int], Replica], Callable[[], None]]:
    """(store, how to make the replica, how to let go of the directory) of a data directory."""
    directory = DataDirectory.lock(path)
    try:
        store = RocksStore.open(
            directory.store,
            RocksConfig(
                block_cache_bytes=config.block_cache_bytes,
                write_buffer_bytes=config.write_buffer_bytes,
            ),
        )
    except BaseException:
        directory.close()
        raise
    replica_config = ReplicaConfig(
        log=LogConfig(
            segment_bytes_max=config.segment_bytes_max, record_bytes_max=config.command_bytes_max
        ),
        group_commit_ops_max=config.group_commit_ops_max,
        group_commit_bytes_max=config.group_commit_bytes_max,
        proposals_max=config.proposals_max,
        disk_reserve_bytes=config.disk_reserve_bytes,
    )

    def open_replica(apply: ApplyCommand, applied_index: int) -> Replica:
        return SingleReplica.open(directory.log, apply, applied_index, replica_config)

    return store, open_replica, directory.close


@contextlib.contextmanager
def open_reader(path: Path, config: FeedsConfig | None = None) -> Iterator[StoreReader]:
    """Read a data directory that another process serves, as of now.

    Raises `FormatUnsupported`, or `StorageError` where there is no store.
    """
    check_format(path)
    with (
        tempfile.TemporaryDirectory(prefix="headwater-reader-") as scratch,
        RocksStore.open_secondary(path / STORE, Path(scratch)) as store,
    ):
        yield StoreReader(store, config or FeedsConfig())
