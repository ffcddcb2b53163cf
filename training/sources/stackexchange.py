"""A Stack Exchange data dump as actions: questions are activities, answers and comments engage.

| in the dump | becomes |
|---|---|
| question | a post by its owner to `user:<owner>`, and to `topic:<tag>` for each of its tags |
| answer or comment on another user's thread | engagement `comment` with the thread |
| favourite (vote type 5, which names its user) | engagement `bookmark` with the thread |
| first engagement with a post of author B | `timeline:<user>` follows `user:B`, derived |

Favourites carry a day and no time. Each is placed at the last microsecond of its day: at its start
it would stand before acts, or even posts, that it followed, and a replay would know it too early.
Everything else of the dump (votes without a voter, links, edits) is left out: there are no
impressions in it, and none are made up.
"""

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from feeds.actions import Action, Engage, Follow, Post
from feeds.counters import DAY_US
from feeds.events import EngagementKind
from feeds.model import ActivityId
from training.errors import SourceError
from training.sources.base import SourceReport, id_of, slug
from training.sources.ordering import TimeOrder
from training.sources.xml_rows import XmlRow, read_rows

__all__ = ["DERIVED", "FILES", "read_stackexchange"]

FILES = ("Users.xml", "Posts.xml", "Comments.xml", "Votes.xml")
"""The files of a dump that are read."""

DERIVED = (
    (
        "Follows are derived: a user follows the author of a post right after the user's first "
        "engagement with a post of that author. The dump has no follow graph."
    ),
    "Favourites carry only their day and are placed at its end.",
    "The dump has no impressions; none are invented.",
)
"""What the actions hold that the dump does not say."""

_QUESTION = 1
_ANSWER = 2
_FAVOURITE = 5
_NO_OWNER = 0


class _Asked(msgspec.Struct, frozen=True, array_like=True, tag="asked"):
    """A question was asked."""

    thread: int
    title: str
    tags: tuple[str, ...]


class _Touched(msgspec.Struct, frozen=True, array_like=True, tag="touched"):
    """A user did something to a post."""

    user: int
    post: int
    kind: EngagementKind


_Record = _Asked | _Touched


@dataclass(frozen=True, slots=True)
class _KnownPost:
    """What is kept of every question and answer; `owner` 0 where the owner is unknown."""

    thread: int
    owner: int
    time_us: int


def read_stackexchange(directory: Path, report: SourceReport) -> Iterator[Action]:
    """The actions of the dump in a directory, in time order.

    Memory grows with the number of posts and users, not with their text. Raises `SourceError` with
    file and line, and what to do.
    """
    if not directory.is_dir():
        raise SourceError(
            f"{directory}: there is no such directory; give the one that holds an unpacked Stack "
            "Exchange data dump"
        )
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise SourceError(
            f"{directory}: {', '.join(missing)} missing; unpack a Stack Exchange data dump there "
            f"(the archive of one site), so that it holds {', '.join(FILES)}"
        )
    dump = _Dump(directory, report)
    with tempfile.TemporaryDirectory(prefix="headwater-sort-") as temporary:
        order = TimeOrder(Path(temporary))
        encoder = msgspec.msgpack.Encoder()
        for time_us, record in dump.records():
            order.add(time_us, encoder.encode(record))
        yield from _derive(order, dump.posts)
    if not report.counts["posts"]:
        raise SourceError(f"{directory / 'Posts.xml'}: holds no question; nothing to import")


class _Dump:
    """One pass over each file, in an order in which what is needed is known."""

    def __init__(self, directory: Path, report: SourceReport) -> None:
        self.posts: dict[int, _KnownPost] = {}
        self._directory = directory
        self._skipped = report.skipped
        self._users: set[int] = set()

    def records(self) -> Iterator[tuple[int, _Record]]:
        """(time, record) pairs, unordered; of equal times questions come first."""
        for row in self._rows("Users.xml"):
            if (user := row.integer("Id")) > _NO_OWNER:
                self._users.add(user)
        yield from self._questions_and_posts()
        yield from itertools.chain(self._answers(), self._comments(), self._favourites())

    def _rows(self, name: str) -> Iterator[XmlRow]:
        return read_rows(self._directory / name)

    def _questions_and_posts(self) -> Iterator[tuple[int, _Asked]]:
        for row in self._rows("Posts.xml"):
            kind, post, time_us = (
                row.integer("PostTypeId"),
                row.integer("Id"),
                row.time_us("CreationDate"),
            )
            owner = self._owner(row)
            if kind == _QUESTION:
                self.posts[post] = _KnownPost(post, owner, time_us)
                tags = _split_tags(row.attributes.get("Tags", ""))
                yield time_us, _Asked(post, row.attributes.get("Title", ""), tags)
            elif kind == _ANSWER:
                self.posts[post] = _KnownPost(row.integer("ParentId"), owner, time_us)
            else:
                self._skipped["posts that are neither question nor answer"] += 1

    def _owner(self, row: XmlRow) -> int:
        owner = row.optional_integer("OwnerUserId")
        return owner if owner in self._users else _NO_OWNER

    def _answers(self) -> Iterator[tuple[int, _Touched]]:
        for post, known in self.posts.items():
            if known.thread != post:
                # An answer is something done on the question, and to the question's owner.
                yield from self._touch(known.owner, known.thread, "comment", known.time_us)

    def _comments(self) -> Iterator[tuple[int, _Touched]]:
        for row in self._rows("Comments.xml"):
            user = row.optional_integer("UserId") or _NO_OWNER
            post, time_us = row.integer("PostId"), row.time_us("CreationDate")
            yield from self._touch(user, post, "comment", time_us)

    def _favourites(self) -> Iterator[tuple[int, _Touched]]:
        for row in self._rows("Votes.xml"):
            if row.integer("VoteTypeId") == _FAVOURITE:
                user = row.optional_integer("UserId") or _NO_OWNER
                day = row.time_us("CreationDate") // DAY_US
                end_us = (day + 1) * DAY_US - 1
                yield from self._touch(user, row.integer("PostId"), "bookmark", end_us)

    def _touch(
        self, user: int, post: int, kind: EngagementKind, time_us: int
    ) -> Iterator[tuple[int, _Touched]]:
        known = self.posts.get(post)
        thread = self.posts.get(known.thread) if known else None
        if user not in self._users:
            self._skipped["engagements without a known user"] += 1
        elif thread is None:
            self._skipped["engagements with a post that is no question or answer"] += 1
        elif time_us < thread.time_us:
            self._skipped["engagements before their thread"] += 1
        else:
            yield time_us, _Touched(user, post, kind)


def _split_tags(text: str) -> tuple[str, ...]:
    """The tags of `<a><b>` (dumps until 2023) or `|a|b|` (later ones)."""
    return tuple(dict.fromkeys(text.strip("<>|").replace("><", "|").split("|"))) if text else ()


def _derive(order: TimeOrder, posts: dict[int, _KnownPost]) -> Iterator[Action]:
    """Actions in time order, with each derived follow right after the engagement it is from."""
    decoder = msgspec.msgpack.Decoder(_Record)
    ids: dict[int, ActivityId] = {}
    following: set[tuple[int, int]] = set()
    for time_us, payload in order:
        match decoder.decode(payload):
            case _Asked() as asked:
                action = _post(asked, posts[asked.thread], time_us)
                ids[asked.thread] = id_of(action)
                yield action
            case _Touched(user=user, post=post, kind=kind):
                known = posts[post]
                if posts[known.thread].owner != user:
                    yield Engage(
                        time_us=time_us, user=str(user), activity_id=ids[known.thread], kind=kind
                    )
                edge = (user, known.owner)
                if known.owner not in (user, _NO_OWNER) and edge not in following:
                    following.add(edge)
                    yield Follow(
                        time_us=time_us,
                        follower=f"timeline:{user}",
                        target=f"user:{known.owner}",
                        derived=True,
                    )


def _post(asked: _Asked, known: _KnownPost, time_us: int) -> Post:
    author = f"user:{known.owner or 'unknown'}"
    return Post(
        time_us=time_us,
        feed=author,
        actor=author,
        verb="ask",
        object=f"question:{asked.thread}",
        foreign_id=f"question:{asked.thread}",
        to=tuple(f"topic:{slug(tag)}" for tag in asked.tags),
        custom={"title": asked.title, "tags": list(asked.tags)},
    )
