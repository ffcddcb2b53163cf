"""A simulated cluster: nodes, a network between them, clients, and the laws that must hold.

Time passes only where the world says so, and every choice comes from one seeded generator, so that
a schedule is its seed.
"""

import heapq
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Final

import pysyncobj.syncobj

from feeds.errors import ClusterMismatch, FeedsError, LogDamaged, NoLeader, StorageError
from feeds.replication.base import Applied, LogPosition
from feeds.replication.config import LogConfig, MemberConfig
from feeds.replication.disk_space import DiskSpace
from feeds.replication.journal import Journal
from feeds.replication.member import Member
from feeds.replication.messages import decode_message, encode_message
from feeds.replication.segment import PendingSync
from feeds.simulation.disk import SimulatedDisk

__all__ = ["LawBroken", "Machine", "NodeState", "SimulatedNode", "World"]

TICK_S: Final = 0.02
"""Seconds between two ticks of a node in which nothing arrives."""

SEGMENT_BYTES: Final = 2_000
BLOCKS: Final = (64, 512)
"""Bytes that a disk writes or loses as one: small, as the commands are."""

TAIL_BYTES: Final = 500
TRACE_MAX: Final = 400
_NOWHERE: Final = LogPosition(0, 0)


class LawBroken(AssertionError):
    """What must never be, has been."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node's store holds: up to where it has applied, and a hash over all of it."""

    position: LogPosition = _NOWHERE
    chain: int = 0


@dataclass(slots=True)
class Machine:
    """A state machine whose state tells whether two nodes applied the same.

    What was applied survives the process; a loss of power takes it back to the last flush.
    """

    state: NodeState = field(default_factory=NodeState)
    flushed: NodeState = field(default_factory=NodeState)

    def apply(self, index: int, term: int, command: bytes) -> bytes:
        """Apply a command; it must be the next one."""
        if index != self.state.position.index + 1:
            raise LawBroken(f"{index} is applied behind {self.state.position.index}")
        chain = zlib.crc32(b"%d %d %b" % (index, term, command), self.state.chain)
        self.state = NodeState(LogPosition(index, term), chain)
        return b"%d" % chain


@dataclass(slots=True)
class SimulatedNode:
    """A node: its directory and store outlive its member."""

    name: str
    directory: Path
    machine: Machine = field(default_factory=Machine)
    member: Member | None = None
    journal: Journal | None = None
    """What its member writes to; None while it is down."""
    close: Callable[[], None] = lambda: None
    incarnation: int = 0
    refused: str | None = None
    joining: bool = False
    commit: int = 0


@dataclass(frozen=True, slots=True)
class _Acknowledged:
    """A write that a client was told of."""

    command: bytes
    time_s: float


class World:
    """Nodes `n1`, `n2`, ... on a network that does what it is told."""

    def __init__(
        self, root: Path, seed: int, nodes: int = 3, config: MemberConfig | None = None
    ) -> None:
        self.random = Random(seed)  # noqa: S311 - a schedule that can be run again
        self.now_s = 1_000.0
        self.names = tuple(f"n{number}" for number in range(1, nodes + 1))
        self.delay_s = (0.0005, 0.004)
        """How long a message takes, at least and at most."""
        self.lost = 0.0
        """Share of messages that never arrive."""
        self.doubled = 0.0
        """Share of messages that arrive twice."""
        self.sync_s = (0.0, 0.003)
        """How long a sync of the log takes, at least and at most."""
        self.slow: set[str] = set()
        """Nodes whose disks take a hundred times as long."""
        self.whole = True
        """Nothing that was synced is ever damaged: no log may be refused."""
        self.blocked: set[tuple[str, str]] = set()
        """(from, to) pairs between which nothing passes."""
        self.trace: list[str] = []
        self.acknowledged: dict[int, _Acknowledged] = {}
        self.disk = SimulatedDisk(root, BLOCKS)
        self.encode: Callable[[Any], bytes] = encode_message
        self.decode: Callable[[bytes], Any] = decode_message  # Any: the stock library's are dicts
        self._config = config or MemberConfig()
        self._log_config = LogConfig(segment_bytes_max=SEGMENT_BYTES)
        self._nodes = {name: SimulatedNode(name, root / name) for name in self.names}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._committed: dict[int, tuple[int, bytes]] = {}
        self._chains: dict[int, int] = {}
        self._leaders: dict[int, str] = {}

    @contextmanager
    def running(self) -> Iterator["World"]:
        """With the simulated clock and disk in place, and every node started."""
        kept = pysyncobj.syncobj.monotonicTime
        pysyncobj.syncobj.monotonicTime = lambda: self.now_s
        try:
            with self.disk.installed():
                try:
                    for name in self.names:
                        self._nodes[name].directory.mkdir(parents=True)
                        self.start(name)
                    yield self
                finally:  # also where a law was broken: files must not stay open
                    for name in self.names:
                        self.kill(name)
        finally:
            pysyncobj.syncobj.monotonicTime = kept

    # What a schedule can do.

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end_s = self.now_s + seconds
        while self._events and self._events[0][0] <= end_s:
            due_s, _, event = heapq.heappop(self._events)
            self.now_s = max(self.now_s, due_s)  # what is late happens now
            event()
        self.now_s = max(self.now_s, end_s)

    def run_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Let time pass until a condition holds; whether it came to that."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            if condition():
                return True
            self.run(TICK_S / 2)
        return condition()

    def start(self, name: str) -> None:
        """Start a node on what its directory holds; it may refuse."""
        node = self._nodes[name]
        if node.member is not None:
            return
        try:
            node.member, node.close = self._open(node)
        except StorageError as error:
            self.note(f"{name} refuses to start: {error}")
            node.refused = str(error)
            if isinstance(error, LogDamaged) and self.whole:
                self._broken(f"{name} takes what a loss of power left for damage: {error}")
            return
        node.incarnation += 1
        status = node.member.status()
        node.commit = status.commit_index
        self.note(f"{name} starts at {status.applied_index}, log to {status.last_index}")
        for other in self.names:
            if other != name and self._nodes[other].member is not None:
                self._connect(name, other)
                self._connect(other, name)
        self._tick_later(node, node.incarnation)

    def kill(self, name: str) -> None:
        """End a node's process; its files and its store stay as they are."""
        node = self._nodes[name]
        if node.member is None:
            return
        node.member = node.journal = None
        node.incarnation += 1
        node.close()
        self.note(f"{name} is killed")
        for other in self.names:
            member = self._nodes[other].member
            if other != name and member is not None:
                member.disconnected(name)

    def lose_power(self, name: str) -> None:
        """Kill a node, and leave of its disk what a loss of power leaves."""
        self.kill(name)
        node = self._nodes[name]
        self.disk.lose_power(node.directory, self.random)
        node.machine.state = node.machine.flushed
        self.note(f"{name} loses power: its store is at {node.machine.state.position.index}")

    def replace(self, name: str) -> None:
        """Give a node an empty directory; it joins."""
        self.kill(name)
        node = self._nodes[name]
        shutil.rmtree(node.directory)
        node.directory.mkdir()
        self.disk.forget(node.directory)
        node.machine, node.joining, node.refused = Machine(), True, None
        self.note(f"{name} is replaced")
        self.start(name)

    def flush(self, name: str) -> None:
        """Make a node's store durable, and drop the log that is not needed for it."""
        node = self._nodes[name]
        node.machine.flushed = node.machine.state
        if node.member is not None:
            dropped = node.member.compact(node.machine.flushed.position.index)
            if dropped:
                self.note(f"{name} drops {dropped} segments")

    def propose(self, name: str, command: bytes, tell: Callable[[object], None]) -> None:
        """Propose a command at a node; `tell` hears what the client hears."""
        node = self._nodes[name]
        if node.member is None:
            tell(NoLeader(f"{name} is down"))
            return

        def done(outcome: Applied | FeedsError) -> None:
            if isinstance(outcome, Applied):
                self._acknowledge(outcome.index, command)
            tell(outcome)

        node.member.submit(command, done)

    def leader(self) -> str | None:
        """The running node that leads in the newest term."""
        leading = [
            (node.member.status().term, node.name)
            for node in self._nodes.values()
            if node.member is not None and node.member.leads
        ]
        return max(leading)[1] if leading else None

    def member(self, name: str) -> Member | None:
        """A node's member; None while it is down."""
        return self._nodes[name].member

    def role(self, name: str) -> str | None:
        """What a node is; None while it is down."""
        member = self._nodes[name].member
        return None if member is None else member.status().role

    def directory(self, name: str) -> Path:
        """Where a node's files are."""
        return self._nodes[name].directory

    def machine(self, name: str) -> Machine:
        """A node's store."""
        return self._nodes[name].machine

    def refused(self, name: str) -> str | None:
        """Why a node does not start or has stopped; None if it does."""
        return self._nodes[name].refused

    def note(self, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now_s - 1_000:8.3f} {what}")
        if len(self.trace) > 2 * TRACE_MAX:
            del self.trace[:TRACE_MAX]

    def later(self, seconds: float, event: Callable[[], None]) -> None:
        """Do something after so many seconds."""
        self._sequence += 1
        heapq.heappush(self._events, (self.now_s + seconds, self._sequence, event))

    def check_end(self) -> None:
        """Every acknowledged write is in every node's store, and the stores are equal."""
        newest = max(self.acknowledged, default=0)
        for node in self._nodes.values():
            if node.member is not None and node.machine.state.position.index < newest:
                self._broken(f"{node.name} never applied {newest}, which was acknowledged")

    # How it happens.

    def _open(self, node: SimulatedNode) -> tuple[Member, Callable[[], None]]:
        """A node's member on what its directory holds, and how to end it."""
        name, position = node.name, node.machine.state.position
        space = DiskSpace(lambda: self.disk.free_bytes(node.directory), 1, lambda: self.now_s)
        journal = Journal.open(node.directory, position, self._log_config, TAIL_BYTES, space)
        member = Member(
            node=name,
            peers=[other for other in self.names if other != name],
            journal=journal,
            apply=lambda index, term, command: self._apply(node, index, term, command),
            applied=position,
            send=lambda peer, message: self._send(name, peer, message),
            clock=lambda: self.now_s,
            random=self._timer(name),
            config=self._config,
            joining=node.joining,
            on_joined=lambda: self._joined(node),
            run_sync=lambda pending: self._sync_later(node, pending),
        )
        node.journal = journal
        return member, journal.close

    def _timer(self, _: str) -> Random:
        """What a node draws its election timers from."""
        return Random(self.random.getrandbits(32))  # noqa: S311

    def _sync_later(self, node: SimulatedNode, pending: PendingSync) -> None:
        """Let a sync take its time; what was written meanwhile may be durable with it, or not."""
        incarnation = node.incarnation + (node.member is None)  # it may begin while it is opened
        delay_s = self.random.uniform(*self.sync_s) * (100 if node.name in self.slow else 1)
        early = self.random.random() < 0.5  # noqa: PLR2004
        if early:
            pending.run()

        def end() -> None:
            if node.incarnation != incarnation:
                if not early:
                    os.close(pending.file)
                return
            if not early:
                pending.run()
            self._step(node, lambda member: member.synced(pending))

        self.later(delay_s, end)

    def _connect(self, one: str, other: str) -> None:
        member = self._nodes[one].member
        if member is not None:
            member.connected(other, anew=self._nodes[other].joining)

    def _joined(self, node: SimulatedNode) -> None:
        node.joining = False
        self.note(f"{node.name} has joined")

    def _send(self, source: str, target: str, message: Any) -> None:  # Any: as `encode`
        if (source, target) in self.blocked or self.random.random() < self.lost:
            return
        data = self.encode(message)
        for _ in range(2 if self.random.random() < self.doubled else 1):
            self.later(
                self.random.uniform(*self.delay_s), lambda: self._arrive(source, target, data)
            )

    def _arrive(self, source: str, target: str, data: bytes) -> None:
        node = self._nodes[target]
        if node.member is None or (source, target) in self.blocked:
            return
        self._step(node, lambda member: member.receive(source, self.decode(data)))

    def _tick_later(self, node: SimulatedNode, incarnation: int) -> None:
        def tick() -> None:
            if node.incarnation == incarnation:
                self._step(node, lambda _: None)
                self._tick_later(node, incarnation)

        self.later(TICK_S * self.random.uniform(0.8, 1.2), tick)

    def _step(self, node: SimulatedNode, action: Callable[[Member], None]) -> None:
        """Let a node act and tick, then look at the laws; what it raises stops it."""
        member = node.member
        if member is None:
            return
        try:
            action(member)
            member.tick()
        except (OSError, StorageError) as error:
            self.note(f"{node.name} stops: {error}")
            node.refused = str(error)
            stop = error if isinstance(error, FeedsError) else StorageError(str(error))
            member.stop(stop)
            self.kill(node.name)
            if not isinstance(error, ClusterMismatch) and "simulated disk" not in str(error):
                self._broken(f"{node.name} stopped: {error}")
            return
        self._look_at(node, member)
        self._send_snapshots(node, member)

    def _look_at(self, node: SimulatedNode, member: Member) -> None:
        status = member.status()
        if status.commit_index < node.commit:
            self._broken(f"{node.name}'s commit index went back to {status.commit_index}")
        node.commit = status.commit_index
        if status.role == "leader":
            other = self._leaders.setdefault(status.term, node.name)
            if other != node.name:
                self._broken(f"{other} and {node.name} both led in term {status.term}")

    def _apply(self, node: SimulatedNode, index: int, term: int, command: bytes) -> bytes:
        result = node.machine.apply(index, term, command)
        first = self._committed.setdefault(index, (term, command))
        if first != (term, command):
            self._broken(f"{node.name} applied another entry {index}: {first} was applied before")
        if self._chains.setdefault(index, node.machine.state.chain) != node.machine.state.chain:
            self._broken(f"{node.name}'s state differs at {index}")
        return result

    def _acknowledge(self, index: int, command: bytes) -> None:
        found = self._committed.get(index)
        if found is None or found[1] != command:
            self._broken(f"{command!r} was acknowledged at {index}, where {found} is")
        self.acknowledged[index] = _Acknowledged(command, self.now_s)

    def _send_snapshots(self, node: SimulatedNode, member: Member) -> None:
        for peer in member.snapshot_wanted():
            member.snapshot_started(peer)
            self.note(f"{node.name} sends {peer} a snapshot")
            pieces = self.random.randint(1, 5)
            state, incarnation = node.machine.state, node.incarnation
            self._send_piece(node, incarnation, peer, state, pieces)

    def _send_piece(
        self, node: SimulatedNode, incarnation: int, peer: str, state: NodeState, pieces: int
    ) -> None:
        target = self._nodes[peer]
        arriving = target.incarnation

        def arrive() -> None:
            if node.incarnation != incarnation or node.member is None:
                return
            cut = (node.name, peer) in self.blocked or target.incarnation != arriving
            if cut or target.member is None:
                self.note(f"the snapshot of {node.name} for {peer} is cut off")
                node.member.snapshot_ended(peer, None)
            elif pieces > 1:
                self._send_piece(node, incarnation, peer, state, pieces - 1)
            else:
                self._install(target, state)
                node.member.snapshot_ended(peer, state.position)

        self.later(self.random.uniform(0.001, 0.05), arrive)

    def _install(self, node: SimulatedNode, state: NodeState) -> None:
        if node.member is None or not node.member.may_install(state.position):
            return
        node.machine = replace(node.machine, state=state, flushed=state)
        node.member.installed(state.position)
        self.note(f"{node.name} installs a snapshot at {state.position.index}")

    def _broken(self, what: str) -> None:
        raise LawBroken(f"{what}\n" + "\n".join(self.trace[-60:]))
