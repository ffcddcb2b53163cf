"""Consensus: pysyncobj as the core, and the guard around what it does wrong.

What the library still does: it keeps role, term, vote and the election timer; it stands for
election when the timer has run out; it moves the leader's commit index by its rule (a majority has
the entry, and the entry is of the leader's own term); it lets a leader fall back that a majority
no longer answers. Everything else is replaced here: how messages are answered, what is sent and
when, what is written and when it is durable, how entries are applied, and all of its own storage.
Rule by rule, with the schedule that each answers: "The guard" in feeds/DESIGN.md.

Overriding works by Python's name mangling: the library's `self.__name` is `_SyncObj__name`.
"""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, NoReturn

import structlog
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from feeds.errors import ClusterMismatch, ReplicaStopped
from feeds.replication.base import ApplyCommand, LogPosition
from feeds.replication.journal import Entry, Journal
from feeds.replication.messages import (
    AppendEntries,
    AppendReply,
    Message,
    Outdated,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from feeds.replication.progress import Progress

__all__ = ["Consensus", "ConsensusConfig", "is_full"]

PYSYNCOBJ: Final = "0.3.17"
"""The release whose private methods are replaced below."""

if VERSION != PYSYNCOBJ:
    raise ImportError(
        f"pysyncobj {VERSION} is installed, and the guard in feeds.replication.consensus is made "
        f"for {PYSYNCOBJ}: install pysyncobj=={PYSYNCOBJ}"
    )

_log = structlog.get_logger(__name__)
_FOLLOWER, _CANDIDATE, _LEADER = 0, 1, 2
_ROLES: Final = {_FOLLOWER: "follower", _CANDIDATE: "candidate", _LEADER: "leader"}
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusConfig:
    """The pace of a cluster, and what it sends at once."""

    heartbeat_s: float = 0.05
    """Seconds between two appends of an idle leader to each peer."""

    election_timeout_s_min: float = 0.4
    """Seconds without a leader after which a node may stand; no peer agrees before that."""

    election_timeout_s_max: float = 0.8
    """Seconds without a leader after which it stands at the latest; drawn anew each time."""

    leader_fallback_s: float = 1.0
    """Seconds without a majority's answers after which a leader believes in itself no more."""

    append_entries_max: int = 1_024
    """Entries of one append at most."""

    append_bytes_max: int = 1024 * 1024
    """Bytes of the commands of one append, after the first, at most."""

    pipeline_max: int = 8
    """Appends with entries that may be unanswered by one peer."""

    resend_s: float = 0.3
    """Seconds without an answer after which a peer is sent again what it has not acknowledged."""

    apply_entries_max: int = 1_024
    """Entries that one tick applies at most, so that heartbeats go on."""

    apply_bytes_max: int = 8 * 1024 * 1024
    """Bytes of the commands, after the first, that one tick applies at most."""


class Consensus(SyncObj):  # type: ignore[misc]  # the library has no types
    """One node's log, in step with its peers'. One thread; `tick` makes it go on.

    Messages are collected and leave in `flush`, behind a sync of the log: whatever a peer may count
    on is durable here. Raises OSError or `ReplicaStopped` where this node must stop.
    """

    # The library's state, as far as it is used here; it has no types of its own.
    _SyncObj__raftState: int = _FOLLOWER
    _SyncObj__raftCurrentTerm: int = 0
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
    ) -> None:
        self._journal = journal
        self._apply = apply
        self._send = send
        self._clock = clock
        self._random = random
        self._pace = config
        self._outgoing: list[tuple[str, Message]] = []
        self._progress: dict[str, Progress] = {}
        self._pre_votes: set[str] | None = None
        self._votes: set[str] = set()
        self._standing = False
        self._heard_leader_s = float("-inf")
        self._keep_index = 0
        self._told_commit = 0
        self._may_vote = True
        self._muted = False
        self._nodes = {peer: Node(peer) for peer in peers}
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

    # What others ask.

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
    def keep_index(self) -> int:
        """Index up to which no peer needs this node's log, as the leader says."""
        if self._SyncObj__raftState == _LEADER:
            return self._slowest_match()
        return self._keep_index

    def progress(self, peer: str) -> Progress | None:
        """How far a peer is; None where this node does not lead."""
        return self._progress.get(peer) if self._SyncObj__raftState == _LEADER else None

    # What others tell.

    def connected(self, peer: str, *, anew: bool = False) -> None:
        """A peer can be sent to; `anew` if it begins with nothing, whatever it acknowledged."""
        self._SyncObj__connectedNodes.add(self._nodes[peer])
        progress = self._progress.get(peer)
        if progress is not None:
            progress.rewind()
            if anew:
                progress.forget()
                self._SyncObj__raftMatchIndex[self._nodes[peer]] = 0

    def disconnected(self, peer: str) -> None:
        """A peer cannot be sent to."""
        self._SyncObj__connectedNodes.discard(self._nodes[peer])

    def mute(self) -> None:
        """Count for nothing, until `unmute`: acknowledge nothing, vote for nobody, do not stand."""
        self._muted, self._may_vote = True, False

    def unmute(self, term: int) -> None:
        """Acknowledge from now on, in no term below `term`; `allow_votes` does the rest."""
        self._muted = False
        if term > self.term:
            self._take_term(term)

    def allow_votes(self) -> None:
        """Vote and stand again."""
        self._may_vote = True
        self._postpone_election()

    def append(self, commands: Sequence[bytes]) -> int:
        """As leader, put commands behind the log; the index of the first. Raises OSError."""
        first = self._journal.last.index + 1
        self._journal.append([Entry(self.term, command) for command in commands])
        return first

    def tick(self) -> None:
        """Do what time and arrivals call for: elections, commits, applying, sending."""
        if self._SyncObj__raftState != _LEADER:
            self._ask_before_standing()
        try:
            self._onTick(0.0)
        except OSError as error:
            if not is_full(error, self._journal):
                raise
            self._step_down()  # a leader that cannot write its first entry
        if self._SyncObj__raftState == _LEADER:
            self._send_appends(heartbeat=False)

    def flush(self) -> None:
        """Make durable what was written, then let the messages leave."""
        if not self._outgoing:
            return
        self._journal.sync()
        outgoing, self._outgoing = self._outgoing, []
        for peer, message in outgoing:
            self._send(peer, message)

    def receive(self, peer: str, message: Message) -> None:
        """Take a message of a peer; raises where this node must stop."""
        match message:
            case AppendEntries():
                self._on_append(peer, message)
            case AppendReply():
                self._on_append_reply(peer, message)
            case RequestVote():
                self._on_request_vote(peer, message)
            case VoteReply():
                self._on_vote_reply(peer, message)
            case Outdated() if message.term == self.term:
                self._on_outdated(message)
            case TimeoutNow() if message.term == self.term and self.leader == peer:
                self._stand()
            case _:
                pass

    def installed(self, position: LogPosition) -> None:
        """The store holds everything up to `position` now: the log goes on from there."""
        self._journal.reset(position)
        self._SyncObj__raftCommitIndex = position.index
        self._SyncObj__raftLastApplied = position.index

    def transfer(self) -> None:
        """Before this node stops: ask the peer that has the whole log to lead."""
        if self._SyncObj__raftState != _LEADER:
            return
        ready = [
            peer
            for peer, progress in self._progress.items()
            if progress.match == self._journal.last.index
            and self._nodes[peer] in self._SyncObj__connectedNodes
        ]
        if ready:
            self._post(min(ready), TimeoutNow(self.term))
            self.flush()

    # Votes.

    def _ask_before_standing(self) -> None:
        """When the timer has run out, ask whether peers would vote before the term is moved.

        So a node that was cut off, or was slow once, does not depose a leader that others hear.
        """
        if self._standing:
            self._standing = False
            self._SyncObj__raftElectionDeadline = float("-inf")
            return
        if self._SyncObj__raftElectionDeadline >= self._clock():
            return
        self._postpone_election()
        if not self._may_vote:
            return
        last = self._journal.last
        self._pre_votes = set()
        ask = RequestVote(self.term + 1, last.index, last.term, pre=True)
        for peer in self._nodes:
            self._post(peer, ask)
        if self._is_majority(len(self._pre_votes) + 1):
            self._stand()

    def _stand(self) -> None:
        """Let the library stand for election in its next tick."""
        self._pre_votes = None
        self._standing = self._may_vote

    def _on_request_vote(self, peer: str, asked: RequestVote) -> None:
        if asked.pre:
            granted = (
                self._may_vote
                and asked.term > self.term
                and self._is_as_long(asked)
                and not self._hears_leader()
            )
            self._post(peer, VoteReply(asked.term if granted else self.term, granted, pre=True))
            return
        if not self._may_vote:
            return
        if asked.term > self.term:
            self._take_term(asked.term)
        granted = (
            asked.term == self.term
            and self._SyncObj__raftState == _FOLLOWER
            and self._journal.voted_for in (None, peer)
            and self._is_as_long(asked)
        )
        if granted:
            self._SyncObj__setCurrentTerm(self.term, peer)
            self._postpone_election()
        self._post(peer, VoteReply(self.term, granted))

    def _on_vote_reply(self, peer: str, reply: VoteReply) -> None:
        if not reply.granted:
            if reply.term > self.term and self._may_vote:
                self._take_term(reply.term)
            return
        if reply.pre:
            if self._pre_votes is not None and reply.term == self.term + 1:
                self._pre_votes.add(peer)
                if self._is_majority(len(self._pre_votes) + 1):
                    self._stand()
        elif reply.term == self.term and self._SyncObj__raftState == _CANDIDATE:
            self._votes.add(peer)
            if self._is_majority(len(self._votes) + 1):
                self._SyncObj__onBecomeLeader()

    def _is_as_long(self, asked: RequestVote) -> bool:
        last = self._journal.last
        return (asked.last_term, asked.last_index) >= (last.term, last.index)

    def _hears_leader(self) -> bool:
        if self._SyncObj__raftState == _LEADER:
            return True
        return self._clock() - self._heard_leader_s < self._pace.election_timeout_s_min

    def _is_majority(self, count: int) -> bool:
        return 2 * count > len(self._nodes) + 1

    def _take_term(self, term: int) -> None:
        """Follow in a newer term, with nobody voted for; durable when it returns."""
        self._SyncObj__setCurrentTerm(term, None)
        self._step_down()

    def _step_down(self) -> None:
        if self._SyncObj__raftState == _LEADER:
            _log.info("leadership_lost", term=self.term)
        self._SyncObj__setState(_FOLLOWER)
        self._SyncObj__raftLeader = None
        self._pre_votes, self._standing = None, False
        self._postpone_election()

    def _postpone_election(self) -> None:
        self._SyncObj__raftElectionDeadline = self._clock() + self._SyncObj__generateRaftTimeout()

    # Following.

    def _on_append(self, peer: str, append: AppendEntries) -> None:
        if self._muted:
            return
        if append.term < self.term:
            self._reply(peer, append, success=False, index=self._journal.last.index + 1)
            return
        if append.term > self.term:
            self._SyncObj__setCurrentTerm(append.term, None)
        elif self._SyncObj__raftState == _LEADER:
            self._stop(f"two nodes lead in term {append.term}: this one and {peer}")
        self._SyncObj__setState(_FOLLOWER)
        self._SyncObj__raftLeader = self._nodes[peer]
        self._pre_votes, self._standing = None, False
        self._heard_leader_s = self._clock()
        self._keep_index = append.keep_index
        self._postpone_election()
        differs = self._find_difference(append)
        if differs is not None:
            self._reply(peer, append, success=False, index=differs)
            return
        try:
            self._store(append)
        except OSError as error:
            if not is_full(error, self._journal):
                raise
            _log.warning("log_full", why=str(error))
            return
        match = append.previous_index + len(append.entries)
        commit = min(append.commit_index, match)
        self._SyncObj__raftCommitIndex = max(self.commit_index, commit)
        self._reply(peer, append, success=True, index=match)

    def _reply(self, peer: str, append: AppendEntries, *, success: bool, index: int) -> None:
        last = self._journal.last.index
        self._post(peer, AppendReply(self.term, append.sequence, success, index, last))

    def _on_outdated(self, told: Outdated) -> None:
        last = self._journal.last.index
        if last < told.match_index:
            raise ClusterMismatch(
                f"this node's log ends with {last}, but it has acknowledged {told.match_index}: "
                "its data directory is an older one. Replace the node: give it an empty directory, "
                "and start it with --join"
            )

    def _find_difference(self, append: AppendEntries) -> int | None:
        """From where on the leader must send again; None if its entries fit behind this log."""
        journal, index = self._journal, append.previous_index
        if index <= journal.base.index or index <= self.commit_index:
            if index >= journal.base.index and journal.term_at(index) != append.previous_term:
                self._stop(f"entry {index} is committed, and {self.leader} leads with another one")
            return None
        found = journal.term_at(index)
        if found is None:
            return journal.last.index + 1
        if found == append.previous_term:
            return None
        while index > self.commit_index + 1 and journal.term_at(index - 1) == found:
            index -= 1
        return index

    def _store(self, append: AppendEntries) -> None:
        """Write the entries that are new; cut the log only at the first whose term differs."""
        journal, index = self._journal, append.previous_index
        known = max(0, journal.base.index - index)  # applied, and dropped from the log since
        for place in range(known, len(append.entries)):
            found = journal.term_at(index + place + 1)
            if found is None:
                break
            if found != append.entries[place][0]:
                if index + place + 1 <= self.commit_index:
                    self._stop(f"entry {index + place + 1} is committed, and would be cut off")
                journal.truncate_from(index + place + 1)
                break
        else:
            return
        journal.append([Entry(term, command) for term, command in append.entries[place:]])

    # Leading.

    def _on_append_reply(self, peer: str, reply: AppendReply) -> None:
        if reply.term > self.term:
            if self._may_vote:
                self._take_term(reply.term)
            return
        if reply.term != self.term or self._SyncObj__raftState != _LEADER:
            return
        progress, node = self._progress[peer], self._nodes[peer]
        now = self._clock()
        self._SyncObj__lastResponseTime[node] = now
        if reply.sequence > progress.sent:
            return
        if reply.success and reply.index <= self._journal.last.index:
            progress.acknowledge(reply.sequence, reply.index, now)
            self._SyncObj__raftMatchIndex[node] = progress.match
        elif not reply.success:
            progress.refuse(reply.sequence, reply.index, now)
            if reply.last_index < progress.match:  # it says itself whether this is old news
                self._post(peer, Outdated(self.term, progress.match))

    def _send_appends(self, *, heartbeat: bool) -> None:
        """To each peer what it lacks, as far as may be under way; at least a heartbeat if asked."""
        now = self._clock()
        commit_news = self._told_commit != self.commit_index
        self._told_commit = self.commit_index
        for peer, node in self._nodes.items():
            if node not in self._SyncObj__connectedNodes:
                continue
            progress = self._progress[peer]
            if progress.pending and now - progress.answered_s > self._pace.resend_s:
                progress.rewind(now)
            sent = self._send_entries(peer, progress)
            if not sent and (heartbeat or commit_news):
                self._post(peer, self._append_behind(progress, progress.next - 1, []))

    def _send_entries(self, peer: str, progress: Progress) -> bool:
        journal, pace = self._journal, self._pace
        last, base = journal.last.index, journal.base.index
        sent = False
        while (
            progress.next <= last and progress.pending < pace.pipeline_max and not progress.snapshot
        ):
            if progress.next <= base:
                progress.lacking = True
                break
            entries = journal.entries(progress.next, pace.append_entries_max, pace.append_bytes_max)
            append = self._append_behind(progress, progress.next - 1, entries)
            progress.begin(len(entries), self._clock())
            self._post(peer, append)
            sent = True
        return sent

    def _append_behind(
        self, progress: Progress, previous: int, entries: Sequence[Entry]
    ) -> AppendEntries:
        term = self._journal.term_at(previous)
        if term is None:  # the peer lacks what the log no longer has: a heartbeat all the same
            previous, term = self._journal.last.index, self._journal.last.term
        progress.sent += 1
        return AppendEntries(
            self.term,
            progress.sent,
            previous,
            term,
            self.commit_index,
            self._slowest_match(),
            [(entry.term, entry.command) for entry in entries],
        )

    def _slowest_match(self) -> int:
        return min(
            (progress.match for progress in self._progress.values() if not progress.given_up),
            default=self._journal.last.index,
        )

    # What the library calls.

    def _SyncObj__onBecomeLeader(self) -> None:  # noqa: N802
        now = self._clock()
        last = self._journal.last.index
        self._progress = {peer: Progress(last + 1, now, now) for peer in self._nodes}
        _log.info("leadership_won", term=self.term, last_index=last)
        super()._SyncObj__onBecomeLeader()

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802
        self._SyncObj__newAppendEntriesTime = self._clock() + self._pace.heartbeat_s
        self._send_appends(heartbeat=True)

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802
        """Apply what is committed, once each and in order; what apply raises stops the node."""
        if self.commit_index <= self.applied_index:
            return False
        self._journal.sync()  # nothing is applied that is not durable here
        first = self.applied_index + 1
        count = min(self.commit_index - self.applied_index, self._pace.apply_entries_max)
        entries = self._journal.entries(first, count, self._pace.apply_bytes_max)
        try:
            for index, (term, command) in enumerate(entries, first):
                self._apply(index, term, command)
                self._SyncObj__raftLastApplied = index
        except OSError as error:  # not to be taken for a full log, and not to be tried again
            raise ReplicaStopped(f"entry {index} could not be applied: {error}") from error
        return False

    def _SyncObj__getEntries(  # noqa: N802
        self, first: int, *_: int | None
    ) -> list[tuple[None, int, int | None]]:
        """The library asks one entry at a time for its term, to judge whether to commit it."""
        noop = self._SyncObj__noopIDx
        if noop is not None and first >= noop and self._SyncObj__raftState == _LEADER:
            return [(None, first, self.term)]
        return [(None, first, self._journal.term_at(first))]

    def _SyncObj__getCurrentLogIndex(self) -> int:  # noqa: N802
        return self._journal.last.index

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
    _SyncObj__deleteEntriesFrom = _refuse_library
    _SyncObj__deleteEntriesTo = _refuse_library
    _SyncObj__loadDumpFile = _refuse_library
    _SyncObj__sendNextNodeIdx = _refuse_library
    _SyncObj__parseChangeClusterRequest = _refuse_library

    def _from_library(self, message: dict[str, Any]) -> None:  # Any: the library's dict
        """The one message that the library still makes: it asks every peer for a vote."""
        if message["type"] != "request_vote":
            self._refuse_library()
        self._votes = set()
        last = self._journal.last
        for peer in self._nodes:
            self._post(peer, RequestVote(message["term"], last.index, last.term))

    def _post(self, peer: str, message: Message) -> None:
        self._outgoing.append((peer, message))

    def _stop(self, why: str) -> NoReturn:
        raise ReplicaStopped(
            f"{why}: logs that must agree do not. This node stops and changes nothing more. Keep a "
            "copy of its data directory, and replace it by an empty one that joins"
        )


def is_full(error: OSError, journal: Journal) -> bool:
    """Whether a write failed because the disk is full, and left the log as it was."""
    return error.errno in _NO_SPACE and journal.broken is None


class _Outbound(Transport):  # type: ignore[misc]  # the library has no types
    """What the library believes to be its network."""

    ready = True

    def __init__(self, consensus: Consensus) -> None:
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

    def setCurrentTerm(self, term: int, voted_for: str | None) -> None:  # noqa: N802
        """Durable when it returns."""
        self._journal.save_vote(term, voted_for)

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
