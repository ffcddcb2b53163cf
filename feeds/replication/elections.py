"""Elections: asking before standing, voting, stepping down.

The library keeps the timer and stands; whether it may, and who is voted for, is decided here.
"""

import structlog

from feeds.replication.library import CANDIDATE, FOLLOWER, LEADER, Library
from feeds.replication.messages import RequestVote, VoteReply

__all__ = ["Elections"]

_log = structlog.get_logger(__name__)


class Elections(Library):
    """A node's part in elections."""

    _pre_votes: set[str] | None = None
    _standing = False
    _asked_to_stand = False
    _heard_leader_s = float("-inf")
    _silent_since_s: float | None = None
    _may_vote = True
    _muted = False
    _votes: frozenset[str] = frozenset()
    _full: str | None = None
    _left_to_others = 0

    @property
    def full(self) -> str | None:
        """Why this node's disk takes no commands at present; None where it does."""
        return self._full

    @property
    def leader(self) -> str | None:
        """The node that leads, as far as is known here.

        Nobody where it was not heard for as long as an election takes to begin at the latest: what
        would be sent on to it might never be answered. A heartbeat's time more must pass, so that a
        node that stood still itself hears first what came meanwhile.
        """
        since_s = self._silent_since_s
        known = since_s is not None and self._clock() - since_s >= self._pace.heartbeat_s
        return None if known and self._is_silent() else super().leader

    def _note_silence(self) -> None:
        """Take up since when it is known here that no leader is heard."""
        if not self._is_silent():
            self._silent_since_s = None
        elif self._silent_since_s is None:
            self._silent_since_s = self._clock()

    def _is_silent(self) -> bool:
        if self._SyncObj__raftState == LEADER:
            return False
        return self._clock() - self._heard_leader_s > self._pace.election_timeout_s_max

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
        if self._leaves_it_to_others():
            self._left_to_others += 1
            return
        last = self._journal.last
        self._pre_votes = set()
        ask = RequestVote(self.term + 1, last.index, last.term, pre=True)
        for peer in self._nodes:
            self._post(peer, ask, durable=last.index)
        if self._is_majority(len(self._pre_votes) + 1):
            self._stand()

    def _stand(self, *, asked: bool = False) -> None:
        """Let the library stand for election in its next tick; `asked` to by who leads."""
        self._pre_votes = None
        self._standing = self._may_vote and not self._leaves_it_to_others()
        self._asked_to_stand = asked

    def _leaves_it_to_others(self) -> bool:
        """Whether this node's disk is full, and who has space may still come to lead."""
        return self._full is not None and self._left_to_others < self._pace.full_timeouts

    def _look_at_disk(self) -> None:
        """Take up whether there is space; what changes is said once."""
        before, self._full = self._full, self._journal.full
        if self._full is not None and before is None:
            _log.warning("log_full", why=self._full, role=self.role)
        elif self._full is None and before is not None:
            _log.info("log_has_space", role=self.role)

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
            and self._SyncObj__raftState == FOLLOWER
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
        elif reply.term == self.term and self._SyncObj__raftState == CANDIDATE:
            self._votes |= {peer}
            if self._is_majority(len(self._votes) + 1):
                self._SyncObj__onBecomeLeader()

    def _is_as_long(self, asked: RequestVote) -> bool:
        last = self._journal.last
        return (asked.last_term, asked.last_index) >= (last.term, last.index)

    def _hears_leader(self) -> bool:
        if self._SyncObj__raftState == LEADER:
            return True
        return self._clock() - self._heard_leader_s < self._pace.election_timeout_s_min

    def _is_majority(self, count: int) -> bool:
        return 2 * count > len(self._nodes) + 1

    def _take_term(self, term: int) -> None:
        """Follow in a newer term, with nobody voted for; durable when it returns."""
        self._SyncObj__setCurrentTerm(term, None)
        self._step_down()

    def _step_down(self) -> None:
        if self._SyncObj__raftState == LEADER:
            _log.info("leadership_lost", term=self.term)
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None
        self._pre_votes, self._standing = None, False
        self._postpone_election()

    def _ask_for_votes(self, term: int) -> None:
        self._votes = frozenset()
        last = self._journal.last
        for peer in self._nodes:
            self._post(peer, RequestVote(term, last.index, last.term), durable=last.index)
