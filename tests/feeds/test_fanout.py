"""Fan-out in many commands leaves what fan-out in one would have left, whatever comes between."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds import machine
from feeds.commands import (
    ClearRows,
    Command,
    FanOut,
    FollowFeed,
    PostActivity,
    RemoveActivity,
    UnfollowFeed,
    decode_command,
)
from feeds.config import FeedsConfig
from feeds.errors import Overloaded
from feeds.events import Posted
from feeds.keys import FanOutKey, OutboxKey, TaskCountKey, TenantKey, read_number
from feeds.model import FeedId, TenantId, activity_id, position_of
from feeds.reader import StoreReader
from feeds.results import Drained, Placed, Rejected, Result, UnfollowResult
from feeds.store.base import COLUMN_FAMILIES, Write
from feeds.store.memory import MemoryStore
from feeds.testing_engine import NOW_US
from feeds.values import TenantRecord, encode

DEMO = TenantId("demo")
AUTHOR = "user:a"
TOPIC = "topic:t"
READERS = tuple(f"timeline:{name}" for name in "abcdef")
STEP = 1_000
"""Log indexes from one write to the next: tasks go on between them."""


def posted(number: int, to: tuple[str, ...] = (), inline_max: int | None = 1) -> PostActivity:
    activity = activity_id(NOW_US + number, b"%d" % number)
    facts = Posted(
        time_us=NOW_US + number,
        activity_id=activity,
        actor=AUTHOR,
        verb="post",
        object="o",
        feed=AUTHOR,
        to=to,
    )
    return PostActivity(
        tenant="demo",
        posted=facts,
        body=b'{"n":1}',
        places_max=9,
        inline_max=inline_max,
        tasks_max=99,
    )


def removed(number: int, inline_max: int | None = 1) -> RemoveActivity:
    activity = activity_id(NOW_US + number, b"%d" % number)
    return RemoveActivity(
        tenant="demo", activity_id=activity, time_us=NOW_US, inline_max=inline_max, tasks_max=99
    )


def followed(
    follower: str, target: str = AUTHOR, copy_limit: int = 0, pull_above: int = 10**9
) -> FollowFeed:
    return FollowFeed(
        tenant="demo",
        follower=follower,
        target=target,
        time_us=NOW_US,
        copy_limit=copy_limit,
        copy_max=100,
        pull_above=pull_above,
        follows_max=99,
    )


def unfollowed(
    follower: str, target: str = AUTHOR, *, keep_history: bool = False, rows_max: int = 99
) -> UnfollowFeed:
    return UnfollowFeed(
        tenant="demo",
        follower=follower,
        target=target,
        time_us=NOW_US,
        rows_max=rows_max,
        scan_max=99,
        copy_max=99,
        keep_history=keep_history,
        tasks_max=99,
    )


State = dict[str, list[tuple[bytes, bytes]]]


class Node:
    """A store, and what is left in its outbox."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.index = 0
        tenant = encode(TenantRecord(NOW_US, 0))
        self.store.write([Write("config", TenantKey(DEMO).encode(), tenant)])

    def apply(self, command: Command, index: int | None = None) -> Result:
        self.index = self.index + 1 if index is None else index
        outcome = machine.apply(command, self.index, self.store)
        self.store.write(outcome.writes)
        return outcome.result

    def tasks(self) -> list[bytes]:
        return [key for key, _ in self.store.scan("outbox", b"", b"\xff")]

    def go_on(self, key: bytes, rows_max: int = 1) -> Result:
        if FanOutKey.has(key):
            task = FanOutKey.decode(key)
            return self.apply(
                FanOut(
                    tenant=task.tenant, place=task.place, position=task.position, rows_max=rows_max
                )
            )
        ended = OutboxKey.decode(key)
        return self.apply(
            ClearRows(
                tenant=ended.tenant,
                follower=ended.follower,
                target=ended.target,
                rows_max=rows_max,
                scan_max=2,
            )
        )

    def drain(self, rows_max: int = 1) -> None:
        while tasks := self.tasks():
            self.go_on(tasks[-1], rows_max)

    def counted(self) -> int:
        data = self.store.get("meta", TaskCountKey("demo").encode())
        return read_number(data) if data else 0

    def state(self) -> State:
        return {
            family: list(self.store.scan(family, b"", b"\xff" * 99))
            for family in COLUMN_FAMILIES
            if family not in ("meta", "outbox")
        }

    def shown(self, feed: str) -> list[str]:
        page = StoreReader(self.store, FeedsConfig()).read(DEMO, FeedId.parse(feed), 100)
        return [row.activity_id for row in page.rows]

    def living_rows(self) -> list[tuple[bytes, bytes]]:
        """Those that can be read: not of an activity that was removed since."""
        since = {key[-16:]: value[:8] for key, value in self.store.scan("activities", b"", b"\xff")}
        head = len(b"demo\0")
        rows = []
        for key, value in self.store.scan("feeds", b"", b"\xff"):
            place = key.index(b"\0", head) + 1
            first = since.get(key[place : place + 16])
            if first is not None and value >= first:
                rows.append((key, value))
        return rows


numbers = st.integers(0, 2)
targets = st.sampled_from((AUTHOR, TOPIC))
readers = st.sampled_from(READERS)
inline = st.sampled_from((0, 1, 2, 7, 99))


def writes(pull_above: int) -> st.SearchStrategy[list[Command]]:
    # Edges come first and often: what is posted to nobody is no fan-out.
    follows = st.builds(followed, readers, targets, st.sampled_from((0, 1, 9)), st.just(pull_above))
    posts = st.builds(posted, numbers, st.sampled_from(((), (TOPIC,))), inline)
    return st.lists(
        st.one_of(
            follows,
            follows,
            posts,
            posts,
            st.builds(removed, numbers, inline),
            st.builds(
                unfollowed,
                readers,
                targets,
                keep_history=st.booleans(),
                rows_max=st.integers(1, 9),
            ),
        ),
        min_size=8,
        max_size=30,
    )


def in_one_command(command: Command) -> Command:
    if isinstance(command, PostActivity | RemoveActivity):
        return msgspec.structs.replace(command, inline_max=None)
    return command


def answer(result: Result) -> Result:
    """What must be answered alike: how many commands an unfollow takes may differ."""
    if isinstance(result, UnfollowResult):
        return msgspec.structs.replace(result, unfinished=False)
    return result


def run(
    log: list[Command], turns: list[list[int]], rows_max: int, look: Callable[[Node, Node], None]
) -> tuple[Node, Node]:
    """The same writes in one command each and in chunks, with some tasks going on between."""
    whole, chunked = Node(), Node()
    followers = [followed(reader) for reader in READERS]
    for number, command in enumerate([*followers, *log]):
        index = (number + 1) * STEP
        expected = whole.apply(in_one_command(command), index)
        assert answer(expected) == answer(chunked.apply(command, index))
        for turn in turns[number % len(turns)]:
            if tasks := chunked.tasks():
                chunked.go_on(tasks[turn % len(tasks)], rows_max)
            look(whole, chunked)
        assert len(chunked.tasks()) == chunked.counted()
    whole.drain()
    chunked.drain(rows_max)
    assert 0 == whole.counted() == chunked.counted()
    return whole, chunked


def look_at_pages(whole: Node, chunked: Node) -> None:
    """Rows may come late; but nothing is shown twice, and nothing that was removed.

    What an ended follow left may be seen until it is cleared, which takes as many commands as there
    are rows.
    """
    ended = {OutboxKey.decode(key).follower for key in chunked.tasks() if not FanOutKey.has(key)}
    for feed in (*READERS, AUTHOR):
        shown = chunked.shown(feed)
        assert len(set(shown)) == len(shown)
        assert feed in ended or set(shown) <= set(whole.shown(feed))


turns = st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=8)


@given(writes(10**9), turns, st.integers(1, 3))
@settings(deadline=None, max_examples=200)
def test_chunks_leave_what_one_command_leaves(
    log: list[Command], turns: list[list[int]], rows_max: int
) -> None:
    whole, chunked = run(log, turns, rows_max, look_at_pages)
    assert whole.state() == chunked.state()


@given(writes(3), turns, st.integers(1, 3))
@settings(deadline=None, max_examples=200)
def test_feed_that_is_merged_from_now_on_ends_with_the_same_living_rows(
    log: list[Command], turns: list[list[int]], rows_max: int
) -> None:
    whole, chunked = run(log, turns, rows_max, look_at_pages)
    assert whole.living_rows() == chunked.living_rows()
    expected, found = whole.state(), chunked.state()
    assert set(found.pop("feeds")) <= set(expected.pop("feeds"))
    assert expected == found
    for feed in (*READERS, AUTHOR):
        assert whole.shown(feed) == chunked.shown(feed)


def crowd(followers: int, inline_max: int | None = 1) -> Node:
    """A node with a post before so many followers."""
    node = Node()
    for number in range(followers):
        node.apply(followed(f"timeline:{number:03}"))
    node.apply(posted(0, inline_max=inline_max))
    return node


def rows(node: Node) -> int:
    return len(node.state()["feeds"])


def test_post_reaches_some_followers_at_once_and_the_others_in_bounded_commands() -> None:
    node = crowd(10, inline_max=4)
    assert 1 + 4 == rows(node)
    (task,) = node.tasks()
    assert Drained(12, unfinished=True) == node.go_on(task, 5)
    assert 1 + 4 + 5 == rows(node)
    assert Drained(13, unfinished=False) == node.go_on(task, 5)
    assert 1 + 10 == rows(node)
    assert [] == node.tasks()
    assert Drained(14, unfinished=False) == node.go_on(task, 5)


def test_bound_is_of_all_places_of_a_post_together() -> None:
    node = Node()
    for reader in READERS:
        node.apply(followed(reader))
        node.apply(followed(reader, TOPIC))
    node.apply(posted(0, (TOPIC,), inline_max=7))
    assert 2 + 7 == rows(node)
    node.drain()
    assert 2 + 12 == rows(node)


def test_followers_of_as_many_as_are_reached_at_once_leave_no_task() -> None:
    assert [] == crowd(4, inline_max=4).tasks()


def test_removal_turns_an_unfinished_fan_out_round_until_no_row_is_left() -> None:
    node = crowd(10, inline_max=4)
    node.go_on(node.tasks()[0], 3)
    node.apply(removed(0))
    assert 1 == len(node.tasks()) == node.counted()
    assert [] == node.shown("timeline:000")
    node.drain(2)
    assert 0 == rows(node)


def test_removal_turns_it_round_too_where_the_feed_is_merged_by_now() -> None:
    node = crowd(3)
    node.apply(followed("timeline:x", pull_above=3))
    node.apply(removed(0))
    node.drain()
    assert 0 == rows(node)


def test_post_and_removal_in_a_merged_feed_leave_no_task() -> None:
    node = crowd(3)
    node.apply(followed("timeline:x", pull_above=3))
    node.drain()
    node.apply(posted(1, inline_max=0))
    node.apply(removed(1, inline_max=0))
    assert [] == node.tasks()


def test_removal_that_reaches_all_followers_itself_ends_the_task() -> None:
    node = crowd(10, inline_max=4)
    node.apply(removed(0, inline_max=10))
    assert [] == node.tasks()
    assert 0 == rows(node) == node.counted()


def test_post_of_what_was_removed_ends_the_removal_and_its_rows_stay() -> None:
    node = crowd(10, inline_max=4)
    node.drain()
    node.apply(removed(0))
    node.go_on(node.tasks()[0], 2)
    node.apply(posted(0))
    assert 1 == len(node.tasks()) == node.counted()
    node.drain()
    assert 1 + 10 == rows(node)


def test_who_stops_following_and_keeps_history_has_what_was_under_way() -> None:
    node = crowd(3)
    assert [] == node.shown("timeline:002")
    node.apply(unfollowed("timeline:002", keep_history=True))
    assert [posted(0).posted.activity_id] == node.shown("timeline:002")


def test_who_follows_while_a_fan_out_is_under_way_has_what_the_follow_copied() -> None:
    node = crowd(3)
    node.apply(followed("timeline:x", copy_limit=0))
    node.drain()
    assert [] == node.shown("timeline:x")


def test_write_that_would_leave_one_task_too_many_is_refused_and_changes_nothing() -> None:
    node = crowd(3)
    before = node.state()
    result = node.apply(msgspec.structs.replace(posted(1), tasks_max=1))
    assert isinstance(result, Rejected)
    assert "2 tasks of writes to many followers waiting, outbox_tasks_max is 1" in result.message
    assert isinstance(result.error(), Overloaded)
    assert before == node.state()
    node.drain()
    retried = node.apply(msgspec.structs.replace(posted(1), tasks_max=1))
    assert isinstance(retried, Placed)


@pytest.mark.parametrize("followers", [1, 600, 3_000])
def test_command_of_the_release_before_reaches_all_followers_itself(followers: int) -> None:
    node = Node()
    for number in range(followers):
        node.apply(followed(f"timeline:{number:04}"))
    new = posted(0)
    facts = msgspec.msgpack.encode(new.posted)
    data = msgspec.msgpack.encode(["post", "demo", msgspec.Raw(facts), b"{}", 9, None])
    node.apply(decode_command(b"\1" + data))
    assert 1 + followers == rows(node)
    data = msgspec.msgpack.encode(["remove", "demo", new.posted.activity_id, NOW_US, None])
    node.apply(decode_command(b"\1" + data))
    assert 0 == rows(node)
    assert [] == node.tasks()


def test_follower_of_the_release_before_is_reached_by_a_task() -> None:
    """Its edge, read from behind, does not say since when it is."""
    node = crowd(0)
    for number in range(3):
        node.apply(followed(f"timeline:{number}"))
    old = [
        Write("follows", key, b"")
        for key, _ in node.state()["follows"]
        if key.startswith(b"demo\0r")
    ]
    assert 3 == len(old)
    node.store.write(old)
    node.apply(posted(1))
    node.apply(followed("timeline:3"))
    node.drain()
    position = position_of(posted(1).posted.activity_id)
    assert 1 + 3 == sum(bytes(position) in key for key, _ in node.state()["feeds"])
