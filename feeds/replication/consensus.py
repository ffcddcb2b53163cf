"""Consensus: pysyncobj as the core, and the guard around what it does wrong.

What the library still does: it keeps role, term, vote and the election timer; it stands for
election when the timer has run out; it lets a leader fall back that a majority no longer answers.
Everything else is replaced here: how messages are answered, what is sent and when, what is written
and when it is durable, what is committed, how entries are applied, and all of its own storage.
Rule by rule, with the schedule that each answers: "The guard" in feeds/DESIGN.md.

What is kept of the library, and how, is in `library`; elections are in `elections`; here are
following and leading.
"""

from collections.abc import Sequence
from typing import Any

import structlog

from feeds.errors import ClusterMismatch
from feeds.replication.base import Entry, LogPosition
from feeds.replication.elections import Elections
from feeds.replication.library import FOLLOWER, LEADER, is_full
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

__all__ = ["Consensus", "is_full"]

_log = structlog.get_logger(__name__)


class Consensus(Elections):
    """One node's log, in step with its peers'. One thread; `tick` makes it go on.

    Raises OSError or `ReplicaStopped` where this node must stop.
    """

    _keep_index = 0
    _offered = ""
    _offer_due_s = float("-inf")

    def __init__(self, **parts: Any) -> None:  # Any: as `Library` takes them
        self._progress: dict[str, Progress] = {}
        super().__init__(**parts)

    # What others ask.

    @property
    def keep_index(self) -> int:
        """Index up to which no peer needs this node's log, as the leader says."""
        if self._SyncObj__raftState == LEADER:
            return self._slowest_match()
        return self._keep_index

    def progress(self, peer: str) -> Progress | None:
        """How far a peer is; None where this node does not lead."""
        return self._progress.get(peer) if self._SyncObj__raftState == LEADER else None

    @property
    def owes_news(self) -> bool:
        """Whether a peer is to be told of a commit within `commit_news_s`."""
        return self._SyncObj__raftState == LEADER and any(
            progress.news_due_s is not None for progress in self._progress.values()
        )

    # What others tell.

    def hurry(self, peer: str) -> None:
        """Tell a peer of commits in this tick: somebody there waits for one."""
        progress = self._progress.get(peer)
        if progress is not None:
            progress.news_due_s = self._clock()

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

    def append(self, commands: Sequence[bytes]) -> int:
        """As leader, put commands behind the log; the index of the first. Raises OSError."""
        first, term = self._journal.last_index + 1, self.term
        self._journal.append([Entry(term, command) for command in commands])
        return first

    def tick(self) -> None:
        """Do what time and arrivals call for: elections, commits, applying, sending."""
        self._look_at_disk()
        self._note_silence()
        if self._SyncObj__raftState == LEADER:
            self._give_up_on_a_hung_disk()
            self._send_appends(heartbeat=False)
            self._offer_lead()
        else:
            self._ask_before_standing()
        self.flush()  # so that peers are at work while this node applies
        self._commit_what_a_majority_has()
        try:
            self._onTick(0.0)
        except OSError as error:
            if not is_full(error, self._journal):
                raise
            self._step_down()  # a leader that cannot write its first entry
        if self._SyncObj__raftState == LEADER:
            self._send_appends(heartbeat=False)

    def receive(self, peer: str, message: Message) -> None:
        """Take a message of a peer; raises where this node must stop.

        One that cannot be heeded because the disk is full is as good as lost.
        """
        try:
            self._receive(peer, message)
        except OSError as error:
            if not is_full(error, self._journal):
                raise
            if self._SyncObj__raftState == LEADER:  # of a new term, or another one is under way
                self._step_down()

    def _receive(self, peer: str, message: Message) -> None:
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
                self._stand(asked=True)
            case _:
                pass

    def installed(self, position: LogPosition) -> None:
        """The store holds everything up to `position` now: the log goes on from there."""
        self._journal.reset(position)
        self._SyncObj__raftCommitIndex = position.index
        self._SyncObj__raftLastApplied = position.index

    def transfer(self) -> None:
        """Before this node stops: ask the peer that has the whole log to lead."""
        if self._SyncObj__raftState != LEADER:
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

    def _commit_what_a_majority_has(self) -> None:
        """The newest entry of this term that a majority has, and this leader with it.

        That is the rule of section 5.4.2 of the Raft paper: what is of an earlier term is committed
        with it, never by itself.
        """
        noop = self._SyncObj__noopIDx
        if noop is None or self._SyncObj__raftState != LEADER:
            return
        own = self.counted_index
        has = sorted([own, *self._SyncObj__raftMatchIndex.values()])
        index = min(own, has[(len(has) - 1) // 2])
        if index >= noop and index > self.commit_index:
            self._SyncObj__raftCommitIndex = index

    def _offer_lead(self) -> None:
        """A leader whose disk is full asks one peer after the other to lead in its place.

        Each has been sent the whole log by then; one whose own disk is full does not stand.
        """
        now = self._clock()
        if self._full is None or now < self._offer_due_s:
            return
        last = self._journal.last.index
        ready = sorted(
            peer
            for peer, progress in self._progress.items()
            if progress.next > last
            and progress.match >= self.commit_index
            and self._nodes[peer] in self._SyncObj__connectedNodes
        )
        if ready:
            self._offered = next((peer for peer in ready if peer > self._offered), ready[0])
            self._offer_due_s = now + self._pace.hand_over_s
            self._post(self._offered, TimeoutNow(self.term))

    def _give_up_on_a_hung_disk(self) -> None:
        """A leader that can decide nothing must not keep others from leading."""
        since_s = self._syncing_since_s
        if since_s is not None and self._clock() - since_s > self._pace.leader_fallback_s:
            _log.warning("disk_hangs", seconds=round(self._clock() - since_s, 1))
            self._step_down()

    # Following.

    def _on_append(self, peer: str, append: AppendEntries) -> None:
        if self._muted:
            return
        if append.term < self.term:
            self._reply(peer, append, success=False, index=self._journal.last.index + 1)
            return
        if append.term > self.term:
            self._SyncObj__setCurrentTerm(append.term, None)
            self._standing = False
        elif self._SyncObj__raftState == LEADER:
            self._stop(f"two nodes lead in term {append.term}: this one and {peer}")
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = self._nodes[peer]
        self._pre_votes = None
        self._standing = self._standing and self._asked_to_stand  # who asked is heard until then
        self._left_to_others = 0
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
            return
        match = append.previous_index + len(append.entries)
        commit = min(append.commit_index, match)
        self._SyncObj__raftCommitIndex = max(self.commit_index, commit)
        self._reply(peer, append, success=True, index=match)

    def _reply(self, peer: str, append: AppendEntries, *, success: bool, index: int) -> None:
        last = self._journal.last_index
        reply = AppendReply(self.term, append.sequence, success, index, last)
        self._post(peer, reply, durable=index if success else 0)

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
        journal.append(append.entries[place:] if place else append.entries)

    # Leading.

    def _on_append_reply(self, peer: str, reply: AppendReply) -> None:
        if reply.term > self.term:
            if self._may_vote:
                self._take_term(reply.term)
            return
        if reply.term != self.term or self._SyncObj__raftState != LEADER:
            return
        progress, node = self._progress[peer], self._nodes[peer]
        now = self._clock()
        self._SyncObj__lastResponseTime[node] = now
        if reply.sequence > progress.sent:
            return
        if reply.success and reply.index <= self._journal.last_index:
            progress.acknowledge(reply.sequence, reply.index, now)
            self._SyncObj__raftMatchIndex[node] = progress.match
        elif not reply.success:
            progress.refuse(reply.sequence, reply.index, now)
            if reply.last_index < progress.match:  # it says itself whether this is old news
                self._post(peer, Outdated(self.term, progress.match))

    def _send_appends(self, *, heartbeat: bool) -> None:
        """To each peer what it lacks, as far as may be under way; at least a heartbeat if asked."""
        now, last = self._clock(), self._journal.last_index
        for peer, node in self._nodes.items():
            if node not in self._SyncObj__connectedNodes:
                continue
            progress = self._progress[peer]
            if progress.pending and now - progress.answered_s > self._pace.resend_s:
                progress.rewind(now)
            sent = progress.next <= last and self._send_entries(peer, progress, last)
            if not sent and (heartbeat or self._is_news_due(progress, now)):
                self._post(peer, self._append_behind(progress, progress.next - 1, []))

    def _is_news_due(self, progress: Progress, now_s: float) -> bool:
        """A commit is told with the next entries; alone, where none come soon."""
        if progress.told_commit == self.commit_index:
            progress.news_due_s = None
            return False
        if progress.news_due_s is None:
            progress.news_due_s = now_s + self._pace.commit_news_s
        return now_s >= progress.news_due_s

    def _send_entries(self, peer: str, progress: Progress, last: int) -> bool:
        journal, pace = self._journal, self._pace
        base = journal.base.index
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
        self, progress: Progress, previous: int, entries: list[Entry]
    ) -> AppendEntries:
        term = self._journal.term_at(previous)
        if term is None:  # the peer lacks what the log no longer has: a heartbeat all the same
            previous, term = self._journal.last.index, self._journal.last.term
        progress.sent += 1
        progress.told_commit, progress.news_due_s = self.commit_index, None
        return AppendEntries(
            self.term,
            progress.sent,
            previous,
            term,
            progress.told_commit,
            self._slowest_match(),
            entries,
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
        self._left_to_others = 0
        self._progress = {peer: Progress(last + 1, now, now) for peer in self._nodes}
        _log.info("leadership_won", term=self.term, last_index=last)
        super()._SyncObj__onBecomeLeader()
        self._SyncObj__noopIDx = self._journal.last_index  # the entry that it has just begun with

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802
        self._SyncObj__newAppendEntriesTime = self._clock() + self._pace.heartbeat_s
        self._send_appends(heartbeat=True)
