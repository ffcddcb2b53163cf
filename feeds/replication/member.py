"""One node's part in a cluster: consensus, and everyone who waits for it.

No thread, no socket, no clock of its own: whoever runs a member feeds it messages and time, so a
simulation runs the same code as a node does. Single-threaded.

What a proposer is told is one of three things: `Applied`; an error that says that nothing was
written (`NoLeader`, `Overloaded`, `StorageFull`, `LimitExceeded`); or one that says that it may
have been (`OutcomeUnknown`, `ReplicaStopped`). Exactly once, and within `propose_timeout_s`.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from random import Random

import structlog

from feeds.errors import (
    FeedsError,
    LimitExceeded,
    NoLeader,
    Overloaded,
    StorageFull,
)
from feeds.replication.base import (
    Applied,
    ApplyCommand,
    LogPosition,
    PeerStatus,
    ReplicaStatus,
)
from feeds.replication.config import MemberConfig
from feeds.replication.consensus import Consensus, is_full
from feeds.replication.journal import Journal
from feeds.replication.library import RunSync
from feeds.replication.messages import (
    AppendEntries,
    AppendReply,
    Forward,
    ForwardReply,
    JoinAsk,
    JoinTold,
    Message,
)
from feeds.replication.outcomes import forward_reply, forwarded, no_leader, unknown
from feeds.replication.segment import PendingSync
from feeds.replication.waiting import Done, Waiter, tell

__all__ = ["Member"]

_log = structlog.get_logger(__name__)


class Member:
    """A node of the cluster, as far as the log is concerned.

    `tick` makes everything go on: call it after whatever arrived, and every 20 ms. `commit` follows
    `apply` after some commands; then their proposers are told. `run_sync` lets
    the disk be waited for elsewhere; without it, whoever calls waits. What `tick`, `synced` and
    `receive` raise (OSError, `StorageError`) means that this node must stop: call `stop`.
    """

    def __init__(
        self,
        *,
        node: str,
        peers: Sequence[str],
        journal: Journal,
        apply: ApplyCommand,
        applied: LogPosition,
        send: Callable[[str, Message], None],
        clock: Callable[[], float],
        random: Random,
        config: MemberConfig | None = None,
        joining: bool = False,
        on_joined: Callable[[], None] = lambda: None,
        commit: Callable[[], None] = lambda: None,
        run_sync: RunSync | None = None,
    ) -> None:
        self.before_write: Callable[[], bytes | None] = lambda: None
        """Asked where this node leads: what the log must hold before the commands written next."""
        self._node = node
        self._peers = tuple(peers)
        self._journal = journal
        self._machine = apply
        self._commit = commit
        self._untold: list[tuple[int, int, bytes]] = []
        self._clock = clock
        self._config = config or MemberConfig()
        self._consensus = Consensus(
            node=node,
            peers=peers,
            journal=journal,
            applied=applied,
            apply=self._apply,
            commit=self._commit_applied,
            send=send,
            clock=clock,
            random=random,
            config=self._config.consensus,
            run_sync=run_sync,
        )
        self._send = send
        self._queue: deque[tuple[bytes, Waiter]] = deque()
        self._queue_bytes = 0
        self._group = LogPosition(0, 0)
        self._open = 0
        self._by_index: dict[int, list[Waiter]] = defaultdict(list)
        self._by_request: dict[int, Waiter] = {}
        self._by_deadline: deque[Waiter] = deque()
        self._request = 0
        self._heard_s: dict[str, float] = {}
        self._connected: set[str] = set()
        self._silence_due_s = float("-inf")
        self._snapshot_after_s: dict[str, float] = {}
        self._snapshot_index = 0
        self._stopped: FeedsError | None = None
        self._joining = joining
        self._on_joined = on_joined
        self._told: dict[str, JoinTold] = {}
        self._join_asked_s = float("-inf")
        if joining:
            self._consensus.mute()

    @property
    def leads(self) -> bool:
        """Whether this node leads, as far as it knows."""
        return self._consensus.role == "leader" and self._stopped is None

    @property
    def busy(self) -> bool:
        """Whether a tick would find something to do at once."""
        consensus = self._consensus
        return consensus.applies_now or (
            bool(self._queue) and (consensus.role != "leader" or self._may_append())
        )

    @property
    def owes_news(self) -> bool:
        """Whether a tick within `commit_news_s` has something to tell a peer."""
        return self._stopped is None and self._consensus.owes_news

    @property
    def waiting(self) -> int:
        """Commands whose proposers were told nothing yet."""
        return self._open

    @property
    def status_key(self) -> tuple[int, str, int]:
        """What changes when watchers have something to hear: applied index, role and term."""
        consensus = self._consensus
        return consensus.applied_index, consensus.role, consensus.term

    def connected(self, peer: str, *, anew: bool = False) -> None:
        """A peer can be sent to; `anew` where its directory is another than it was before."""
        self._connected.add(peer)
        self._consensus.connected(peer, anew=anew)

    def disconnected(self, peer: str) -> None:
        """A peer cannot be sent to; what was sent on to it and not answered stays unknown."""
        self._connected.discard(peer)
        self._consensus.disconnected(peer)
        for request in [one for one, waiter in self._by_request.items() if waiter.leader == peer]:
            self._settle(self._by_request.pop(request), unknown(f"{peer} is gone"))

    def submit(self, command: bytes, done: Done) -> None:
        """Propose a command; `done` is called once, perhaps before this returns.

        A leader writes it in its next tick, a follower sends it on to the leader.
        """
        if self._stopped is not None:
            tell(done, self._stopped)
        elif (size := len(command)) > self._config.record_bytes_max:
            limit = self._config.record_bytes_max
            what = f"a command of {size} bytes is above record_bytes_max ({limit}): send less"
            tell(done, LimitExceeded(what))
        elif (
            self._open >= self._config.proposals_max
            or self._queue_bytes >= self._config.proposals_bytes_max
        ):
            what = f"{self._open} commands ({self._queue_bytes} bytes) are on their way"
            tell(done, Overloaded(f"{what}, and no more may be: retry in a moment"))
        else:
            waiter = Waiter(done, self._clock() + self._config.propose_timeout_s)
            self._open += 1
            self._queue_bytes += size
            self._queue.append((command, waiter))
            self._by_deadline.append(waiter)

    def barrier(self, done: Callable[[int | FeedsError], None]) -> None:
        """An index at or below which is every write that was acknowledged before this call."""

        def found(outcome: Applied | FeedsError) -> None:
            done(outcome.index if isinstance(outcome, Applied) else outcome)

        self.submit(b"", found)

    def receive(self, peer: str, message: Message) -> None:
        """Take a message of a peer."""
        if self._stopped is not None or peer not in self._peers:
            return
        self._heard_s[peer] = self._clock()
        match message:
            case AppendEntries() | AppendReply():  # of every write, so it is looked for first
                self._consensus.receive(peer, message)
            case Forward():
                self._on_forward(peer, message)
            case ForwardReply():
                self._on_forward_reply(message)
            case JoinAsk():
                if not self._joining:
                    last = self._journal.last.index
                    self._send(peer, JoinTold(self._consensus.term, last))
            case JoinTold():
                self._on_told(peer, message)
            case _:
                self._consensus.receive(peer, message)

    def tick(self) -> None:
        """Do what time and arrivals call for."""
        if self._stopped is not None:
            return
        if self._joining:
            self._join()
        self._write_group()
        self._consensus.tick()
        self._consensus.flush()
        self._expire()
        self._give_up_silent()

    def synced(self, pending: PendingSync) -> None:
        """A sync that was handed to `run_sync` has run; `tick` goes on with it. Raises OSError."""
        if self._stopped is None:
            self._consensus.synced(pending)

    def transfer(self) -> None:
        """Before this node stops: let another one lead at once."""
        self._consensus.transfer()

    def compact(self, flushed_index: int) -> int:
        """Drop whole segments that neither this node's store nor a peer needs; how many went."""
        floor = min(flushed_index, self._consensus.applied_index)
        if self._journal.size_bytes <= self._config.log_keep_bytes_max:
            floor = min(floor, self._consensus.keep_index)
        # The first entry that is kept is what the rest stands on: it must be one that is decided.
        return self._journal.compact(floor - 1)

    def snapshot_wanted(self) -> list[str]:
        """Peers that need what this leader's log no longer has, and may be sent it now."""
        if not self.leads:
            return []
        now = self._clock()
        return [
            peer
            for peer in self._connected
            if (progress := self._consensus.progress(peer)) is not None
            and progress.lacking
            and not progress.snapshot
            and now >= self._snapshot_after_s.get(peer, float("-inf"))
        ]

    def snapshot_started(self, peer: str) -> None:
        """A snapshot is on its way to a peer."""
        progress = self._consensus.progress(peer)
        if progress is not None:
            progress.snapshot = True

    def snapshot_ended(self, peer: str, position: LogPosition | None) -> None:
        """A peer has installed a snapshot, or (None) it could not be sent."""
        if position is None:
            self._snapshot_after_s[peer] = self._clock() + self._config.snapshot_retry_s
        else:
            self._snapshot_index = max(self._snapshot_index, position.index)
        progress = self._consensus.progress(peer)
        if progress is not None:
            progress.snapshot = progress.lacking = False
            if position is not None:
                progress.next = max(progress.next, position.index + 1)

    def may_install(self, position: LogPosition) -> bool:
        """Whether a snapshot brings what is neither decided here already, nor in the log."""
        return (
            self._stopped is None
            and position.index > self._consensus.commit_index
            and self._journal.term_at(position.index) != position.term
        )

    def installed(self, position: LogPosition) -> None:
        """The store was replaced by a snapshot. Raises OSError."""
        before = self._consensus.applied_index
        self._consensus.installed(position)
        self._snapshot_index = position.index
        for index in [index for index in self._by_index if before < index <= position.index]:
            for waiter in self._by_index.pop(index):
                self._settle(waiter, unknown("it was passed over by a snapshot"))

    def status(self) -> ReplicaStatus:
        """Where this node stands."""
        consensus, now = self._consensus, self._clock()
        peers = []
        for peer in self._peers:
            progress = consensus.progress(peer)
            peers.append(
                PeerStatus(
                    peer,
                    peer in self._connected,
                    progress.match if progress else 0,
                    now - self._heard_s[peer] if peer in self._heard_s else None,
                )
            )
        return ReplicaStatus(
            role="stopped" if self._stopped else "joining" if self._joining else consensus.role,
            term=consensus.term,
            last_index=self._journal.last.index,
            applied_index=consensus.applied_index,
            log_bytes=self._journal.size_bytes,
            node=self._node,
            leader=consensus.leader,
            commit_index=consensus.commit_index,
            first_index=self._journal.base.index + 1,
            snapshot_index=self._snapshot_index,
            peers=tuple(peers),
            full=consensus.full,
        )

    def stop(self, why: FeedsError) -> None:
        """Take part no more; everyone who waits is told. Stopping twice is harmless."""
        if self._stopped is not None:
            return
        self._stopped = why
        queued = {id(waiter) for _, waiter in self._queue}
        waiting = [waiter for waiter in self._by_deadline if waiter.done is not None]
        self._queue.clear()
        for waiter in waiting:
            told = NoLeader(f"nothing was written: {why}") if id(waiter) in queued else why
            self._settle(waiter, told)

    # Proposing.

    def _write_group(self) -> None:
        """Put what waits behind the log, or send it to the leader, or say that there is none."""
        if not self._queue:
            return
        if self._consensus.role == "leader":
            if self._may_append():
                self._append_group()
            return
        leader = self._consensus.leader
        while self._queue:
            command, waiter = self._take()
            if waiter.done is None:
                continue
            if leader is None or leader not in self._connected:
                self._settle(waiter, no_leader(leader))
                continue
            self._request += 1
            waiter.leader = leader
            self._by_request[self._request] = waiter
            self._send(leader, Forward(self._request, command))

    def _may_append(self) -> bool:
        """One group is on its way at a time, unless enough for another one has come.

        Where the disk is full nothing waits: what cannot be written is told so at once.
        """
        config, group = self._config, self._group
        return (
            group.index <= self._consensus.commit_index
            or group.term != self._consensus.term
            or self._consensus.full is not None
            or len(self._queue) >= config.group_commit_ops_min
            or self._queue_bytes >= config.group_commit_bytes_min
        )

    def _append_group(self) -> None:
        config = self._config
        group: list[tuple[bytes, Waiter]] = []
        size = 0
        while self._queue and len(group) < config.group_commit_ops_max:
            size += len(self._queue[0][0])
            if group and size > config.group_commit_bytes_max:
                break
            command, waiter = self._take()
            if waiter.done is not None:
                group.append((command, waiter))
        if not group:
            return
        before = self.before_write()
        first_ones = [] if before is None else [before]
        try:
            first = self._consensus.append([*first_ones, *(command for command, _ in group)])
        except OSError as error:
            if not is_full(error, self._journal):
                raise
            full = f"the leader's disk is full ({error}); nothing was written: free space and retry"
            for _, waiter in group:
                self._settle(waiter, StorageFull(full))
            return
        first, term = first + len(first_ones), self._consensus.term
        self._group = LogPosition(first + len(group) - 1, term)
        for index, (_, waiter) in enumerate(group, first):
            waiter.term = term
            self._by_index[index].append(waiter)

    def _take(self) -> tuple[bytes, Waiter]:
        command, waiter = self._queue.popleft()
        self._queue_bytes -= len(command)
        return command, waiter

    def _apply(self, index: int, term: int, command: bytes) -> bytes:
        result = self._machine(index, term, command)
        if index in self._by_index:
            self._untold.append((index, term, result))
        return result

    def _commit_applied(self) -> None:
        """What was applied is in the store now: tell those who proposed it."""
        self._commit()
        untold, self._untold = self._untold, []
        for index, term, result in untold:
            for waiter in self._by_index.pop(index):
                if waiter.term == term:
                    self._settle(waiter, Applied(index, result))
                else:
                    lost = f"entry {index} of term {waiter.term} was replaced by another leader's"
                    self._settle(waiter, NoLeader(f"{lost}: it was not written, retry"))

    def _settle(self, waiter: Waiter, outcome: Applied | FeedsError) -> None:
        done, waiter.done = waiter.done, None
        if done is not None:
            self._open -= 1
            tell(done, outcome)

    def _expire(self) -> None:
        now, waiting = self._clock(), self._by_deadline
        while waiting and (waiting[0].done is None or waiting[0].deadline_s <= now):
            waiter = waiting.popleft()
            if waiter.done is not None:
                self._settle(waiter, unknown("no majority answered in time"))
        if len(self._by_request) > 2 * self._open + 100:  # those that were told are dropped
            self._by_request = {
                request: waiter
                for request, waiter in self._by_request.items()
                if waiter.done is not None
            }

    def _on_forward(self, peer: str, forward: Forward) -> None:
        if self._consensus.role != "leader":
            error = no_leader(self._consensus.leader)
            self._send(peer, ForwardReply(forward.request, "no_leader", message=str(error)))
            return

        def answer(outcome: Applied | FeedsError) -> None:
            self._send(peer, forward_reply(forward.request, outcome))
            self._consensus.hurry(peer)

        self.submit(forward.command, answer)

    def _on_forward_reply(self, reply: ForwardReply) -> None:
        waiter = self._by_request.pop(reply.request, None)
        if waiter is not None:
            self._settle(waiter, forwarded(reply))

    # Others' needs.

    def _give_up_silent(self) -> None:
        """The log is not kept for ever for a peer that does not answer; looked at now and then."""
        now = self._clock()
        if now < self._silence_due_s or self._consensus.role != "leader":
            return
        self._silence_due_s = now + self._config.consensus.heartbeat_s
        for peer in self._peers:
            progress = self._consensus.progress(peer)
            if progress is not None:
                silent_s = now - max(self._heard_s.get(peer, 0.0), progress.since_s)
                progress.given_up = silent_s > self._config.log_keep_s_max

    def _join(self) -> None:
        """Begin with nothing: know of every peer first what this node may have known before."""
        now = self._clock()
        if self._told.keys() < set(self._peers):
            if now - self._join_asked_s >= self._config.join_ask_s:
                self._join_asked_s = now
                for peer in self._peers:
                    self._send(peer, JoinAsk())
            return
        if self._consensus.applied_index >= max(told.last_index for told in self._told.values()):
            self._joining = False
            self._on_joined()
            self._consensus.allow_votes()
            _log.info("joined", applied_index=self._consensus.applied_index)

    def _on_told(self, peer: str, told: JoinTold) -> None:
        if not self._joining or peer in self._told:
            return
        self._told[peer] = told
        if self._told.keys() >= set(self._peers):
            self._consensus.unmute(max(one.term for one in self._told.values()))
