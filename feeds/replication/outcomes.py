"""What a proposer is told, and how a follower hears it from the leader. Pure."""

from feeds.errors import (
    FeedsError,
    LimitExceeded,
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    ReplicaStopped,
    StorageFull,
)
from feeds.replication.base import Applied
from feeds.replication.messages import ForwardReply, Outcome

__all__ = ["forward_reply", "forwarded", "no_leader", "unknown"]


def no_leader(leader: str | None) -> NoLeader:
    """Nothing was written, as this node knows no leader that it can reach."""
    if leader is None:
        return NoLeader("no node leads at the moment; nothing was written: retry in a moment")
    return NoLeader(f"node {leader} leads and cannot be reached; nothing was written: retry")


def unknown(why: str) -> OutcomeUnknown:
    """It may have been written."""
    return OutcomeUnknown(f"{why}: the write may have taken effect. Repeat it with its key")


def forward_reply(request: int, outcome: Applied | FeedsError) -> ForwardReply:
    """The leader's reply to a forwarded command."""
    if isinstance(outcome, Applied):
        return ForwardReply(request, "ok", outcome.index, outcome.result)
    kind: Outcome
    match outcome:
        case NoLeader():
            kind = "no_leader"
        case Overloaded():
            kind = "overloaded"
        case StorageFull():
            kind = "full"
        case LimitExceeded():
            kind = "limit"
        case _:
            kind = "unknown"
    retry_after_s = outcome.retry_after_s if isinstance(outcome, Overloaded) else 0.0
    return ForwardReply(request, kind, message=str(outcome), retry_after_s=retry_after_s)


def forwarded(reply: ForwardReply) -> Applied | FeedsError:
    """What a leader's reply says."""
    if reply.outcome == "ok":
        return Applied(reply.index, reply.result)
    if reply.outcome == "overloaded":
        return Overloaded(reply.message, reply.retry_after_s)
    kinds: dict[str, type[FeedsError]] = {
        "no_leader": NoLeader,
        "full": StorageFull,
        "limit": LimitExceeded,
        "stopped": ReplicaStopped,
    }
    return kinds.get(reply.outcome, OutcomeUnknown)(reply.message)
