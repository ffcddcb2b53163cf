"""The stock library in the simulated cluster: to see that the laws can be broken.

It keeps its own journal, in a file that a loss of power takes back to what was synced: nothing.
Its machine lives in memory and is applied to from the journal after each start, as it is meant to.
"""

import pickle
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pysyncobj.journal
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from feeds.errors import FeedsError, NoLeader, OutcomeUnknown, StorageError
from feeds.replication.base import Applied, ApplyCommand, LogPosition, ReplicaStatus
from feeds.replication.config import MemberConfig
from feeds.simulation.disk import SimulatedDisk
from feeds.simulation.world import Machine, NodeState, SimulatedNode, World

__all__ = ["StockMember", "StockWorld"]

_ROLES = ("follower", "candidate", "leader")


class StockMember:
    """Stands where `Member` stands; messages are the library's dicts, pickled."""

    def __init__(
        self,
        *,
        node: str,
        peers: Sequence[str],
        directory: Path,
        apply: ApplyCommand,
        send: Callable[[str, bytes], None],
        random: Random,
    ) -> None:
        self._nodes = {peer: _Peer(peer) for peer in peers}
        self._random = random
        self._core = _Stock(
            node, list(self._nodes.values()), directory / "journal", apply, send, random
        )

    @property
    def leads(self) -> bool:
        """Whether this node leads, as far as it knows."""
        return bool(self._core._isLeader())  # noqa: SLF001 - the library has no public name for it

    def connected(self, peer: str, *, anew: bool = False) -> None:
        """A peer can be sent to."""
        del anew
        self._core.node_connected(self._nodes[peer])

    def disconnected(self, peer: str) -> None:
        """A peer cannot be sent to."""
        self._core.node_disconnected(self._nodes[peer])

    def submit(self, command: bytes, done: Callable[[Applied | FeedsError], None]) -> None:
        """Propose a command."""

        def told(result: int | None, reason: int) -> None:
            if reason == FAIL_REASON.SUCCESS and result is not None:
                done(Applied(result, b""))
            elif reason in (FAIL_REASON.MISSING_LEADER, FAIL_REASON.NOT_LEADER):
                done(NoLeader("no leader"))
            else:
                done(OutcomeUnknown(f"the library says {reason}"))

        self._core.put(command, callback=told)

    def receive(self, peer: str, message: bytes) -> None:
        """Take a message of a peer."""
        told = pickle.loads(message)  # noqa: S301 - made by this very process
        with _stopping():
            self._core.hear(self._nodes[peer], told)

    def tick(self) -> None:
        """Twice, as applying comes before what was proposed."""
        with _stopping():
            self._core.doTick(0.0)
            self._core.doTick(0.0)

    def compact(self, flushed_index: int) -> int:
        """Its own compaction is left alone."""
        del flushed_index
        return 0

    def snapshot_wanted(self) -> list[str]:
        """It has snapshots of its own."""
        return []

    def status(self) -> ReplicaStatus:
        """Where it stands."""
        core = self._core
        return ReplicaStatus(
            core.role(),
            core.raftCurrentTerm,
            core.last_index(),
            core.raftLastApplied,
            0,
            commit_index=core.raftCommitIndex,
        )

    def stop(self, why: FeedsError) -> None:
        """There is nothing to tell."""

    def close(self) -> None:
        """End it as a killed process ends: what is in the file's pages stays."""
        self._core.destroy()


@contextmanager
def _stopping() -> Iterator[None]:
    """What the library trips over ends its node."""
    try:
        yield
    except (IndexError, TypeError) as error:
        raise StorageError(f"the library raised {error!r}") from error


class StockWorld(World):
    """A world of stock nodes."""

    def __init__(self, root: Path, seed: int, nodes: int, config: MemberConfig) -> None:
        super().__init__(root, seed, nodes, config)
        self.encode = self.decode = bytes
        self.disk = SimulatedDisk(
            root, ()
        )  # as it syncs nothing, any page of its file would be lost
        self._files: list[Any] = []  # Any: the library's

    @contextmanager
    def running(self) -> Iterator[World]:
        """As `World.running`; what the library opened and could not read is closed in the end."""
        kept = pysyncobj.journal.ResizableFile

        def opened(*place: Any, **options: Any) -> Any:  # Any: as the library's
            self._files.append(kept(*place, **options))
            return self._files[-1]

        pysyncobj.journal.ResizableFile = opened
        try:
            with super().running():
                yield self
        finally:
            pysyncobj.journal.ResizableFile = kept
            for file in self._files:
                with suppress(ValueError):  # it is closed already
                    file._destroy()  # noqa: SLF001 - the library has no other way

    def replace(self, name: str) -> None:
        """It has no nodes that join; nothing happens."""

    def _open(self, node: SimulatedNode) -> tuple[Any, Callable[[], None]]:  # Any: no `Member`
        node.machine = _Memory()
        try:
            member = self._member(node)
        except (struct.error, IndexError, OSError) as error:
            raise StorageError(f"the library cannot read its journal: {error!r}") from error
        return member, member.close

    def _member(self, node: SimulatedNode) -> "StockMember":
        return StockMember(
            node=node.name,
            peers=[other for other in self.names if other != node.name],
            directory=node.directory,
            apply=lambda index, term, command: self._apply(node, index, term, command),
            send=lambda peer, message: self._send(node.name, peer, message),
            random=Random(self.random.getrandbits(32)),  # noqa: S311 - part of the schedule
        )


class _Memory(Machine):
    """A machine in memory: entries that are no commands are passed over."""

    def apply(self, index: int, term: int, command: bytes) -> bytes:
        self.state = NodeState(LogPosition(index, term), 0)
        return command


class _Peer(Node):  # type: ignore[misc]  # the library has no types
    """The library keeps nodes in sets: with this hash their order is the same in every process."""

    def __hash__(self) -> int:
        return zlib.crc32(self.id.encode())


class _Stock(SyncObj):  # type: ignore[misc]  # the library has no types
    def __init__(
        self,
        node: str,
        peers: Sequence[Any],  # Any: the library's nodes
        journal: Path,
        apply: ApplyCommand,
        send: Callable[[str, bytes], None],
        random: Random,
    ) -> None:
        self._machine = apply
        self._chance = random
        settings = SyncObjConf(
            autoTick=False,
            journalFile=str(journal),
            raftMinTimeout=0.4,
            raftMaxTimeout=0.8,
            appendEntriesPeriod=0.05,
            leaderFallbackTimeout=1.0,
            pollerType="select",
        )
        super().__init__(_Peer(node), peers, settings, transport=_Wire(send))

    @replicated  # type: ignore[untyped-decorator]  # the library has no types
    def put(self, command: bytes) -> int:
        index = self.raftLastApplied + 1
        term = self._SyncObj__getEntries(index, 1)[0][2]
        self._machine(index, term, command)
        return int(index)

    def node_connected(self, node: Any) -> None:  # Any: the library's
        self._SyncObj__onNodeConnected(node)

    def node_disconnected(self, node: Any) -> None:  # Any: the library's
        self._SyncObj__onNodeDisconnected(node)

    def hear(self, node: Any, message: dict[str, Any]) -> None:  # Any: the library's
        self._SyncObj__onMessageReceived(node, message)

    def role(self) -> str:
        return _ROLES[self._SyncObj__raftState]

    def last_index(self) -> int:
        return int(self._SyncObj__getCurrentLogIndex())

    def _SyncObj__generateRaftTimeout(self) -> float:  # noqa: N802 - so that a seed is a schedule
        return self._chance.uniform(0.4, 0.8)


class _Wire(Transport):  # type: ignore[misc]  # the library has no types
    ready = True

    def __init__(self, send: Callable[[str, bytes], None]) -> None:
        super().__init__(None, None, [])
        self._send = send

    def send(self, node: Any, message: dict[str, Any]) -> bool:  # Any: the library's
        self._send(node.id, pickle.dumps(message))
        return True
