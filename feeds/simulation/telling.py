"""What scenario scripts say of messages and nodes."""

from feeds.replication.base import ReplicaStatus
from feeds.replication.messages import (
    AppendEntries,
    AppendReply,
    Forward,
    ForwardReply,
    JoinAsk,
    JoinTold,
    Message,
    Outdated,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from feeds.simulation.words import word_of

__all__ = ["tell_message", "tell_status"]


def tell_message(message: Message) -> str:  # noqa: C901, PLR0911 - a case for each message
    """A message in words; empty for a heartbeat and an answer that says all is well."""
    match message:
        case AppendEntries():
            return _append(message)
        case AppendReply():
            found = f"has up to {message.index}"
            return found if message.success else f"no, send again from {message.index} on"
        case RequestVote():
            verb = "would you vote" if message.pre else "vote"
            log = f"my log ends with {message.last_index}:{message.last_term}"
            return f"{verb} for me in term {message.term}? {log}"
        case VoteReply():
            yes = "yes, I would" if message.pre else "yes"
            return f"{yes if message.granted else 'no'}, in term {message.term}"
        case TimeoutNow():
            return f"stand at once, I stop (term {message.term})"
        case Forward():
            return f"forwards {word_of(message.command)}"
        case ForwardReply():
            return f"answers {message.outcome}, entry {message.index}"
        case JoinAsk():
            return "what must I know?"
        case JoinTold():
            return f"my term is {message.term}, my log ends with {message.last_index}"
        case Outdated():
            return f"you have acknowledged up to {message.match_index}"


def _append(append: AppendEntries) -> str:
    if not append.entries:
        return ""
    entries = ", ".join(
        f"{index}:{term} {word_of(command)}"
        for index, (term, command) in enumerate(append.entries, append.previous_index + 1)
    )
    behind = f"{append.previous_index}:{append.previous_term}"
    return f"append {entries} behind {behind}, committed up to {append.commit_index}"


def tell_status(name: str, status: ReplicaStatus | None) -> str:
    """Where a node stands, in one line."""
    if status is None:
        return f"{name} is down"
    of = f" of {status.leader}" if status.leader not in (None, name) else ""
    log = (
        f"log {status.first_index}..{status.last_index}"
        if status.last_index >= status.first_index
        else f"empty log behind {status.last_index}"
    )
    return (
        f"{name} {status.role}{of}, term {status.term}, {log}, committed {status.commit_index}, "
        f"applied {status.applied_index}{', its disk is full' if status.full else ''}"
    )
