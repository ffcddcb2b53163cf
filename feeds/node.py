"""`headwater node`: one engine process, and nothing else in it.

It owns a data directory, takes part in the cluster, applies the log to the store, does what applied
commands left to be done while it leads, and serves a unix socket to this machine's processes.
"""

import asyncio
import contextlib
import gc
import secrets
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Annotated

import structlog
import typer

from feeds.config import FeedsConfig
from feeds.directory import DataDirectory
from feeds.errors import ClusterMismatch, FeedsError, StorageError
from feeds.flushing import BackgroundFlusher
from feeds.identity import Identity
from feeds.node_config import NodeConfig
from feeds.replication.base import LogPosition
from feeds.replication.cluster import ClusterReplica
from feeds.replication.config import ClusterConfig, ConsensusConfig, LogConfig, MemberConfig
from feeds.replication.snapshots import recover_install
from feeds.replication.transport import TransportConfig
from feeds.signals import stop_at_signals
from feeds.socket_protocol import PROTOCOL_VERSION, Welcome
from feeds.socket_server import SocketServer
from feeds.state import StateMachine
from feeds.store.rocks import RocksConfig, RocksStore

__all__ = ["EngineNode", "command"]

_log = structlog.get_logger(__name__)

_MB = 1_000_000

_COLLECT_EVERY_OBJECTS = 50_000
"""New objects after which the garbage collector looks for cycles."""


def command(
    config: Annotated[Path, typer.Option("--config", help="The node's configuration, in TOML.")],
    join: Annotated[
        bool,
        typer.Option(
            "--join", help="Begin with an empty directory, in place of a node that was lost."
        ),
    ] = False,
) -> None:
    """Run one engine node of a cluster until it is told to stop.

    A node that replaces a lost one is given its name, an empty directory, and --join. It counts for
    nothing until every other node has answered it and it has caught up.
    """
    try:
        settings = NodeConfig.load(config)
        configure_logs(settings.log_level)
        stop = Event()
        stop_at_signals(stop)
        with EngineNode.running(settings, join=join) as node:
            _collect_less()
            _log.info("node_serving", node=settings.node, socket=str(settings.socket))
            while not stop.wait(0.2):
                if node.stopped:
                    raise StorageError("the node stopped: see its log for the cause")
    except FeedsError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _collect_less() -> None:
    """Let the garbage collector alone with what is there for good, and look less often for more.

    A command makes a hundred objects and no cycle; by default it is searched for some every ten.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY_OBJECTS)


def configure_logs(level: str) -> None:
    """Structured lines on standard error."""
    import logging  # noqa: PLC0415 - only a node says what it does
    import sys  # noqa: PLC0415 - as above

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


class EngineNode:
    """A node that runs: directory, store, state machine, replica and socket."""

    def __init__(
        self, config: NodeConfig, directory: DataDirectory, identity: Identity, limits: FeedsConfig
    ) -> None:
        # Use `EngineNode.running`.
        self._config = config
        self._directory = directory
        self._identity = identity
        self._limits = limits
        self._store = self._open_rocks()
        self._machine = StateMachine(self._store, limits, BackgroundFlusher)
        # Another at each start too: a secondary that was opened on the process before can show the
        # applied index of now beside rows of then, so it must be opened anew.
        self._generation = secrets.randbelow(2**31)
        self._replica: ClusterReplica | None = None

    @classmethod
    @contextlib.contextmanager
    def running(
        cls, config: NodeConfig, limits: FeedsConfig | None = None, *, join: bool = False
    ) -> Iterator["EngineNode"]:
        """A node while the block lasts; then it lets another one lead, and stops.

        `limits` in place of the configuration's.

        Raises `DataDirectoryLocked`, `ClusterMismatch` or another `StorageError`.
        """
        with DataDirectory.lock(config.data_dir) as directory:
            identity = _identify(config, join=join)
            recover_install(config.data_dir)
            node = cls(config, directory, identity, limits or config.limits.engine())
            try:
                with node._serving():
                    yield node
            finally:
                node._machine.close()

    @property
    def stopped(self) -> bool:
        """Whether an error has ended its part in the cluster."""
        return self._replica is not None and self._replica.status().role == "stopped"

    @property
    def replica(self) -> ClusterReplica:
        """Its part in the cluster."""
        assert self._replica is not None
        return self._replica

    # What the replica asks for while it takes and gives snapshots.

    def checkpoint(self, path: Path) -> LogPosition:
        """Keep the store as it is at `path`; up to where it has applied."""
        position = self._machine.applied()
        self._store.checkpoint(path)
        return position

    def close_store(self) -> None:
        """Let go of the store."""
        self._machine.close_store()

    def open_store(self) -> LogPosition:
        """Open the store that lies there now; up to where it has applied."""
        self._store = self._open_rocks()
        self._machine.replace(self._store)
        self._generation += 1
        return self._machine.applied()

    @contextlib.contextmanager
    def _serving(self) -> Iterator[None]:
        try:
            replica = ClusterReplica.open(
                self._config.data_dir,
                self._machine.hold,
                self._machine.applied(),
                self._cluster_config(),
                self,
                self._joined,
                self._machine.commit,
            )
        except OSError as error:
            address = self._config.nodes[self._config.node]
            raise StorageError(
                f"{address} cannot be listened on: {error}. Another process has it, or it is no "
                "address of this machine: correct it under [nodes]"
            ) from error
        self._replica = replica
        self._machine.bind(replica)
        replica.ask_before_writes(self._machine.before_write)
        replica.watch(self._work)
        server = SocketServer(
            replica,
            Welcome(
                PROTOCOL_VERSION,
                self._config.node,
                self._config.cluster_id,
                str(self._directory.store.absolute()),
            ),
            self.checkpoint,
            lambda: self._generation,
        )
        try:
            asyncio.run_coroutine_threadsafe(
                server.start(self._config.socket), replica.loop
            ).result()
            yield
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), replica.loop).result()
            replica.close()

    def _work(self) -> None:
        """After commands were applied, or the role has changed."""
        self._machine.lead(leads=self.replica.leads)
        self._machine.work()

    def _joined(self) -> None:
        self._identity = Identity(
            self._identity.cluster_id, self._identity.node, self._identity.incarnation
        )
        self._identity.save(self._config.data_dir)

    def _open_rocks(self) -> RocksStore:
        return RocksStore.open(
            self._directory.store,
            RocksConfig(
                block_cache_bytes=self._limits.block_cache_bytes,
                write_buffer_bytes=self._limits.write_buffer_bytes,
            ),
        )

    def _cluster_config(self) -> ClusterConfig:
        config, limits = self._config, self._limits
        return ClusterConfig(
            transport=TransportConfig(
                cluster_id=config.cluster_id,
                node=config.node,
                nodes=config.addresses(),
                tls=config.files(),
                incarnation=self._identity.incarnation,
                joining=self._identity.joining,
            ),
            member=MemberConfig(
                consensus=ConsensusConfig(
                    election_timeout_s_min=config.election_timeout_s,
                    election_timeout_s_max=2 * config.election_timeout_s,
                    heartbeat_s=min(0.05, config.election_timeout_s / 8),
                ),
                proposals_max=limits.proposals_max,
                record_bytes_max=limits.command_bytes_max,
                group_commit_bytes_max=limits.group_commit_bytes_max,
                log_keep_bytes_max=config.log_keep_mb * _MB,
            ),
            log=LogConfig(
                segment_bytes_max=limits.segment_bytes_max,
                record_bytes_max=limits.command_bytes_max,
            ),
            disk_reserve_bytes=limits.disk_reserve_bytes,
        )


def _identify(config: NodeConfig, *, join: bool) -> Identity:
    """Whose the directory is; raises `ClusterMismatch` where it is not this node's."""
    identity = Identity.load(config.data_dir)
    if identity is None:
        if not join:
            raise ClusterMismatch(
                f"{config.data_dir} belongs to no node yet. For a new cluster: `headwater cluster "
                "init`. In place of a node that was lost: start it with --join"
            )
        identity = Identity.create(config.cluster_id, config.node, joining=True)
        identity.save(config.data_dir)
    identity.check(config.cluster_id, config.node, config.data_dir)
    return identity
