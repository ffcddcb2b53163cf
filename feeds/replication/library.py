"""What is kept of pysyncobj, and what takes the place of its disk, its network and its storage.

Overriding works by Python's name mangling: the library's `self.__name` is `_SyncObj__name`. What is
not overridden and could still reach the library's own storage, queue or pickle raises.
"""

import _socket
import socket
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, NoReturn

import msgspec
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from feeds.errors import ReplicaStopped
from feeds.replication.base import ApplyCommand, Entry, LogPosition
from feeds.replication.config import ConsensusConfig
from feeds.replication.disk_space import NO_SPACE
from feeds.replication.journal import Journal
from feeds.replication.messages import Message
from feeds.replication.segment import PendingSync

__all__ = [
    "CANDIDATE",
    "FOLLOWER",
    "LEADER",
    "Library",
    "RunSync",
    "is_full",
]

PYSYNCOBJ: Final = "0.3.17"
"""The release whose private methods are replaced below."""

# The library has put a function for Windows in its place, which fails everywhere else.
socket.inet_ntop = _socket.inet_ntop

if VERSION != PYSYNCOBJ:
    raise ImportError(
        f"pysyncobj {VERSION} is installed, and the guard in feeds.replication is made for "
        f"{PYSYNCOBJ}: install pysyncobj=={PYSYNCOBJ}"
    )

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
_ROLES: Final = {FOLLOWER: "follower", CANDIDATE: "candidate", LEADER: "leader"}

HELD_MAX: Final = 10_000
"""Messages that wait for the disk; the oldest are dropped beyond, as a network drops them."""

RunSync = Callable[[PendingSync], None]
"""Runs a sync where waiting for the disk keeps nobody up, and then hands it to `synced`."""


class _Held(msgspec.Struct, frozen=True):
    """A message that says that an entry is durable here, before it is."""

    index: int
    term: int
    peer: str
    message: Message


class Library(SyncObj):  # type: ignore[misc]  # the library has no types
    """pysyncobj's role, term, vote, timer and commit index, over a journal of ours.

    Messages are collected and leave in `flush`; those that say that this node has an entry wait
    until that is durable. The leader counts itself as its peers: by what is durable.
    """

    # The library's state, as far as it is used here; it has no types of its own.
    _SyncObj__raftState: int = FOLLOWER
    _SyncObj__raftCurrentTerm: int = 0
    _SyncObj__votedForNodeId: str | None = None
    _SyncObj__raftLeader: Any = None
    _SyncObj__raftCommitIndex: int = 0
    _SyncObj__raftLastApplied: int = 0
    _SyncObj__raftElectionDeadline: float = 0.0
    _SyncObj__raftMatchIndex: dict[Any, int]
    _SyncObj__lastResponseTime: dict[Any, float]
    _SyncObj__connectedNodes: set[Any]
    _SyncObj__noopIDx: int | None = None

    def __init__(
        self,
        *,
        node: str,
        peers: Sequence[str],
        journal: Journal,
        applied: LogPosition,
        apply: ApplyCommand,
        send: Callable[[str, Message], None],
        clock: Callable[[], float],
        random: Random,
        config: ConsensusConfig,
        commit: Callable[[], None] = lambda: None,
        run_sync: RunSync | None = None,
    ) -> None:
        self._journal = journal
        self._run_sync = run_sync or self._sync_at_once
        self._syncing_since_s: float | None = None
        self._apply_due_s: float | None = None
        self._held: deque[_Held] = deque(maxlen=HELD_MAX)
        self._apply = apply
        self._commit = commit
        self._send = send
        self._clock = clock
        self._random = random
        self._pace = config
        self._outgoing: list[tuple[str, Message, int]] = []
        self._nodes = {peer: _Peer(peer) for peer in peers}
        settings = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=True,  # nothing is sent by the library; this makes no pipe
            appendEntriesPeriod=config.heartbeat_s,
            raftMinTimeout=config.election_timeout_s_min,
            raftMaxTimeout=config.election_timeout_s_max,
            leaderFallbackTimeout=config.leader_fallback_s,
            dynamicMembershipChange=False,
            pollerType="select",
        )
        super().__init__(
            Node(node), list(self._nodes.values()), conf=settings, transport=_Outbound(self)
        )
        self._poller = _NoPoller()
        self._SyncObj__raftLog = _LibraryLog(journal)
        self._SyncObj__raftCurrentTerm = journal.term
        self._SyncObj__raftCommitIndex = applied.index
        self._SyncObj__raftLastApplied = applied.index
        self._SyncObj__raftMatchIndex = dict.fromkeys(self._nodes.values(), 0)
        self._SyncObj__lastResponseTime = dict.fromkeys(self._nodes.values(), 0.0)
        self._postpone_election()
        if not peers:  # there is no leader to be heard
            self._SyncObj__raftElectionDeadline = float("-inf")

    @property
    def role(self) -> str:
        """`leader`, `follower` or `candidate`."""
        return _ROLES[self._SyncObj__raftState]

    @property
    def leader(self) -> str | None:
        """The node that leads, as far as is known here."""
        found = self._SyncObj__raftLeader
        return None if found is None else str(found.id)

    @property
    def term(self) -> int:
        """The newest term that this node has seen."""
        return self._SyncObj__raftCurrentTerm

    @property
    def commit_index(self) -> int:
        """Index up to which entries are known to be decided."""
        return self._SyncObj__raftCommitIndex

    @property
    def applied_index(self) -> int:
        """Index up to which entries are applied."""
        return self._SyncObj__raftLastApplied

    @property
    def ready_index(self) -> int:
        """Index up to which entries may be applied: they are decided, and durable here."""
        return min(self.commit_index, self._journal.durable_index)

    @property
    def counted_index(self) -> int:
        """Index up to which a leader counts itself among those that have an entry."""
        return self._journal.durable_index

    @property
    def applies_now(self) -> bool:
        """Whether the next tick finds something to apply.

        A follower's disk goes first, for `apply_wait_s`: its leader waits for what the disk has to
        make durable, and the thread that waits for the disk would wait for the applying one.
        """
        if self.ready_index <= self.applied_index:
            self._apply_due_s = None
            return False
        if self._syncing_since_s is None or self._SyncObj__raftState == LEADER:
            return True
        now = self._clock()
        if self._apply_due_s is None:
            self._apply_due_s = now + self._pace.apply_wait_s
        return now >= self._apply_due_s

    def flush(self) -> None:
        """Let the messages leave that may, and begin to make durable what the others wait for."""
        outgoing, self._outgoing = self._outgoing, []
        for peer, message, index in outgoing:
            if index <= self._journal.durable_index:
                self._send(peer, message)
            else:
                self._held.append(_Held(index, self.term, peer, message))
        self._begin_sync()

    def synced(self, pending: PendingSync) -> None:
        """A sync has run. Raises OSError if it failed: then this node must stop."""
        self._syncing_since_s = None
        self._journal.end_sync(pending)
        held = list(self._held)
        self._held.clear()
        for one in held:
            if one.term != self.term:
                continue  # what it speaks of may have been cut off since, or voted against
            if one.index <= self._journal.durable_index:
                self._send(one.peer, one.message)
            else:
                self._held.append(one)
        self._begin_sync()

    def _begin_sync(self) -> None:
        if self._syncing_since_s is not None:
            return
        pending = self._journal.begin_sync()
        if pending is not None:
            self._syncing_since_s = self._clock()
            self._run_sync(pending)

    def _sync_at_once(self, pending: PendingSync) -> None:
        pending.run()
        self.synced(pending)

    @abstractmethod
    def _ask_for_votes(self, term: int) -> None:
        """The library stands for election in a term: ask every peer."""

    # What the library calls.

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802
        """Apply what is committed, once each and in order; what apply raises stops the node."""
        if not self.applies_now:
            return False
        applied = self.applied_index
        count = min(self.ready_index - applied, self._pace.apply_entries_max)
        entries = self._journal.entries(applied + 1, count, self._pace.apply_bytes_max)
        try:
            try:
                for term, command in entries:
                    self._apply(applied + 1, term, command)
                    applied += 1
            finally:  # what was applied before one that could not be is done
                self._commit()
                self._SyncObj__raftLastApplied = applied
        except OSError as error:  # not to be taken for a full log, and not to be tried again
            raise ReplicaStopped(f"entry {applied + 1} could not be applied: {error}") from error
        return False

    def _SyncObj__getCurrentLogIndex(self) -> int:  # noqa: N802
        """Where the library's own look for what a majority has ends: where it begins.

        It would go by every entry that is not committed, in every tick until one of this term is: a
        million after a restart, 0.5 us each. `Consensus` has looked before, at the newest alone.
        """
        return self.commit_index

    def _SyncObj__setCurrentTerm(self, term: int, voted_for: str | None) -> None:  # noqa: N802
        """Durable before it is true: where that fails, nothing has changed."""
        self._journal.save_vote(term, voted_for)
        self._SyncObj__raftCurrentTerm = term
        self._SyncObj__votedForNodeId = voted_for

    def _SyncObj__getCurrentLogTerm(self) -> int:  # noqa: N802
        return self._journal.last.term

    def _SyncObj__generateRaftTimeout(self) -> float:  # noqa: N802
        pace = self._pace
        return self._random.uniform(pace.election_timeout_s_min, pace.election_timeout_s_max)

    def _SyncObj__connectedToAnyone(self) -> bool:  # noqa: N802
        return True  # peers agreed to the election before

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802
        """Segments are dropped by the member, snapshots are the store's."""

    def _checkCommandsToApply(self) -> None:  # noqa: N802
        """Commands do not wait in the library's queue."""

    def _refuse_library(self, *_: object, **__: object) -> NoReturn:
        raise ReplicaStopped(
            "a part of pysyncobj was called that the guard has replaced: please report this"
        )

    _applyCommand = _refuse_library  # noqa: N815
    _SyncObj__onMessageReceived = _refuse_library
    _SyncObj__doApplyCommand = _refuse_library
    _SyncObj__getEntries = _refuse_library
    _SyncObj__deleteEntriesFrom = _refuse_library
    _SyncObj__deleteEntriesTo = _refuse_library
    _SyncObj__loadDumpFile = _refuse_library
    _SyncObj__sendNextNodeIdx = _refuse_library
    _SyncObj__parseChangeClusterRequest = _refuse_library

    def _from_library(self, message: dict[str, Any]) -> None:  # Any: the library's dict
        """The one message that the library still makes: it asks every peer for a vote."""
        if message["type"] != "request_vote":
            self._refuse_library()
        self._ask_for_votes(message["term"])

    def _postpone_election(self) -> None:
        self._SyncObj__raftElectionDeadline = self._clock() + self._SyncObj__generateRaftTimeout()

    def _post(self, peer: str, message: Message, *, durable: int = 0) -> None:
        """Send a message in the next `flush`; not before entry `durable` is durable here."""
        self._outgoing.append((peer, message, durable))

    def _stop(self, why: str) -> NoReturn:
        raise ReplicaStopped(
            f"{why}: logs that must agree do not. This node stops and changes nothing more. Keep a "
            "copy of its data directory, and replace it by an empty one that joins"
        )


def is_full(error: OSError, journal: Journal) -> bool:
    """Whether a write failed because the disk is full, and left the log as it was."""
    return error.errno in NO_SPACE and journal.broken is None


class _Peer(Node):  # type: ignore[misc]  # the library has no types
    """A node that is itself alone: the library looks it up for each entry that it counts."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class _Outbound(Transport):  # type: ignore[misc]  # the library has no types
    """What the library believes to be its network."""

    ready = True

    def __init__(self, consensus: Library) -> None:
        super().__init__(None, None, [])
        self._consensus = consensus
        self._asked_term = -1

    def send(self, _: Any, message: dict[str, Any]) -> bool:  # Any: the library's node
        if message.get("term") != self._asked_term:  # it sends one to each peer: once is enough
            self._asked_term = message["term"]
            self._consensus._from_library(message)  # noqa: SLF001 - one thing in two classes
        return True


class _LibraryLog:
    """What the library believes to be its journal; behind it is ours."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def add(self, _: bytes, __: int, term: int) -> None:
        """The leader's first entry: it is empty."""
        self._journal.append([Entry(term, b"")])

    def setRaftCommitIndex(self, _: int) -> None:  # noqa: N802
        """What is committed is known by what the store has applied."""

    def onOneSecondTimer(self) -> None:  # noqa: N802
        """Nothing waits."""

    def __len__(self) -> int:
        return 1


class _NoPoller:
    """Waiting is the node's own loop's."""

    def poll(self, _: float) -> None:
        """Do not wait."""
