"""The commands of scenario scripts: words, and follows with an idempotency key.

The simulated nodes' stores keep no more than a hash of what they applied. What the engine's machine
would make of it is found by applying the same commands to a store in memory.
"""

from collections.abc import Mapping

from feeds import machine
from feeds.commands import FollowFeed, Once, decode_command, encode_command
from feeds.errors import FeedsError
from feeds.results import FollowResult, Rejected, Result
from feeds.store.memory import MemoryStore

__all__ = ["answer_of", "follow", "word_of"]

_DAY_US = 86_400_000_000


def follow(follower: str, target: str, key: str) -> bytes:
    """A follow that takes effect once, however often it is written."""
    once = Once(key, f"{follower} {target}".encode(), now_us=1, expires_us=_DAY_US)
    return encode_command(
        FollowFeed(
            tenant="t",
            follower=follower,
            target=target,
            time_us=1,
            copy_limit=0,
            copy_max=0,
            pull_above=100,
            follows_max=100,
            once=once,
        )
    )


def word_of(command: bytes) -> str:
    """A command in a word; `-` for what a new leader writes."""
    found = _decode(command)
    if found is not None and found.once is not None:
        return f"follow({found.once.key})"
    return command.decode() or "-"


def answer_of(commands: Mapping[int, bytes], index: int) -> str:
    """What the machine answers to the command at `index`, behind those before it; empty for words.

    A repeat is given the first one's answer, so its index says when it took effect.
    """
    store = MemoryStore()
    result: Result | None = None
    for place, command in sorted(commands.items()):
        found = _decode(command)
        if found is not None and place <= index:
            outcome = machine.apply(found, place, store)
            store.write(outcome.writes)
            result = outcome.result if place == index else None
    match result:
        case FollowResult():
            return f"took effect as entry {result.index}"
        case Rejected():
            return f"{result.code}: {result.message}"
        case _:
            return ""


def _decode(command: bytes) -> FollowFeed | None:
    try:
        found = decode_command(command)
    except FeedsError:
        return None
    return found if isinstance(found, FollowFeed) else None
