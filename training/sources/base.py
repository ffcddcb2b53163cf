"""What every source of public data gives: actions in time order, and an honest count of them."""

import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from feeds.actions import Action, Engage, Follow, Post
from feeds.model import ActivityDraft, ActivityId, identify

__all__ = ["Progress", "SourceReport", "counted", "id_of", "no_progress", "slug", "write_actions"]

Progress = Callable[[str, int, int | None], None]
"""(what is being done, units done, units in all or None): told now and then while work goes on."""

REPORT_EVERY = 2_000
"""Actions between two calls of a `Progress`."""

# No byte in hexadecimal begins like one of these, so escapes can be told apart.
_READABLE = {"#": "_sharp", "+": "_plus", ".": "_dot"}
_OTHER = re.compile(r"[^A-Za-z0-9-]")


@dataclass(slots=True)
class SourceReport:
    """What a source gave, what it left out, and what it had to derive.

    `skipped` maps a reason to a count; `derived` are sentences that belong in every report that is
    made from these actions.
    """

    dataset: str
    derived: tuple[str, ...]
    counts: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, object]:
        """As JSON types."""
        return {
            "dataset": self.dataset,
            "counts": dict(sorted(self.counts.items())),
            "skipped": dict(sorted(self.skipped.items())),
            "derived": list(self.derived),
        }


def no_progress(what: str, done: int, total: int | None) -> None:
    """Tells nobody."""


def slug(name: str) -> str:
    """A name as the id of a feed; names that differ in more than apostrophes differ in slugs.

    >>> slug("q#"), slug("Film-Noir"), slug("Children's"), slug("q_sharp")
    ('q_sharp', 'Film-Noir', 'Childrens', 'q_5fsharp')
    """
    return _OTHER.sub(_escape, name.replace("'", ""))


def id_of(post: Post) -> ActivityId:
    """The id that the engine gives the activity of this action."""
    draft = ActivityDraft(
        actor=post.actor,
        verb=post.verb,
        object=post.object,
        foreign_id=post.foreign_id,
        custom=post.custom,
    )
    return identify(draft, post.time_us)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return _READABLE.get(character) or "".join(f"_{byte:02x}" for byte in character.encode())


def counted(actions: Iterable[Action], report: SourceReport) -> Iterator[Action]:
    """The same actions, counted by type (and engagements by kind) into the report."""
    for action in actions:
        match action:
            case Post():
                report.counts["posts"] += 1
            case Follow(derived=True):
                report.counts["follows derived"] += 1
            case Engage(kind=kind):
                report.counts[f"engagements {kind}"] += 1
            case _:
                report.counts["other"] += 1
        yield action


def write_actions(actions: Iterable[Action], path: Path, progress: Progress = no_progress) -> int:
    """Write an action log and return how many actions it has.

    The file appears when it is complete: a failure half way leaves what was there before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder = msgspec.json.Encoder()
    count = 0
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as stream:
        temporary = Path(stream.name)
        try:
            for action in actions:
                stream.write(encoder.encode(action))
                stream.write(b"\n")
                count += 1
                if count % REPORT_EVERY == 0:
                    progress("writing the action log", count, None)
            stream.flush()
            os.fsync(stream.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    progress("writing the action log", count, count)
    return count
