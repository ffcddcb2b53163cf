"""Tasks are finished whoever leads and whatever fails; tenants take turns; few are on their way."""

from collections import deque
from concurrent.futures import Future

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds import outbox
from feeds.commands import (
    ClearRows,
    Command,
    FanOut,
    FollowFeed,
    PostActivity,
    RemoveActivity,
    UnfollowFeed,
    decode_command,
    encode_command,
)
from feeds.config import FeedsConfig
from feeds.errors import NoLeader, Overloaded
from feeds.events import Posted
from feeds.keys import APPLIED, FanOutKey, write_number
from feeds.model import activity_id, position_of
from feeds.reader import StoreReader
from feeds.replication.base import Applied, ReplicaStatus
from feeds.state import StateMachine
from feeds.store.base import COLUMN_FAMILIES, Write
from feeds.store.memory import MemoryStore
from feeds.testing_engine import NOW_US
from feeds.values import Spreading, encode

CONFIG = FeedsConfig(fanout_rows_max=2, unfollow_rows_max=2, unfollow_scan_max=3)


class Log:
    """A replica whose proposals are decided when the test says so, or never."""

    def __init__(self) -> None:
        self.proposed: deque[tuple[bytes, Future[Applied]]] = deque()
        self.crowded = False

    def propose(self, command: bytes) -> "Future[Applied]":
        if self.crowded:
            raise Overloaded("too many writes wait")
        future: Future[Applied] = Future()
        self.proposed.append((command, future))
        return future

    def barrier(self) -> "Future[int]":
        raise NotImplementedError

    def status(self) -> ReplicaStatus:
        raise NotImplementedError

    def compact(self, flushed_index: int) -> None:
        """The whole log is kept."""

    def close(self) -> None:
        """Nothing is held."""


class Node:
    """A state machine that leads, on a store that outlives it."""

    def __init__(self, store: MemoryStore | None = None, config: FeedsConfig = CONFIG) -> None:
        self.store = MemoryStore() if store is None else store
        self.log = Log()
        self.machine = StateMachine(self.store, config)
        self.machine.bind(self.log)
        self.machine.lead(leads=True)

    def apply(self, command: bytes, index: int | None = None) -> bytes:
        if index is None:
            index = self.machine.applied().index + 1
        return self.machine.apply(index, 1, command)

    def write(self, command: Command, index: int | None = None) -> None:
        self.apply(encode_command(command), index)
        self.machine.work()

    def decide(self) -> Command:
        """The first proposal is applied and answered."""
        command, future = self.log.proposed.popleft()
        result = self.apply(command)
        future.set_result(Applied(self.machine.applied().index, result))
        self.machine.work()
        return decode_command(command)

    def lose(self) -> None:
        """The first proposal comes to nothing."""
        _, future = self.log.proposed.popleft()
        future.set_exception(NoLeader("nobody leads"))

    def drain(self) -> None:
        while self.log.proposed:
            self.decide()

    def tasks(self) -> list[bytes]:
        return [key for key, _ in self.store.scan("outbox", b"", b"\xff")]

    def state(self) -> dict[str, list[tuple[bytes, bytes]]]:
        return {
            family: list(self.store.scan(family, b"", b"\xff" * 99))
            for family in COLUMN_FAMILIES
            if family != "meta"
        }


def posted(number: int, inline_max: int | None = 1) -> PostActivity:
    facts = Posted(
        time_us=NOW_US,
        activity_id=activity_id(NOW_US, b"%d" % number),
        actor="user:a",
        verb="post",
        object="o",
        feed="user:a",
    )
    return PostActivity(
        tenant="demo",
        posted=facts,
        body=b"{}",
        places_max=9,
        inline_max=inline_max,
        tasks_max=99,
    )


def removed(number: int) -> RemoveActivity:
    activity = activity_id(NOW_US, b"%d" % number)
    return RemoveActivity(
        tenant="demo", activity_id=activity, time_us=NOW_US, inline_max=1, tasks_max=99
    )


def followed(follower: str) -> FollowFeed:
    return FollowFeed(
        tenant="demo",
        follower=follower,
        target="user:a",
        time_us=NOW_US,
        copy_limit=1,
        copy_max=9,
        pull_above=99,
        follows_max=9,
    )


def unfollowed(follower: str, *, keep_history: bool) -> UnfollowFeed:
    return UnfollowFeed(
        tenant="demo",
        follower=follower,
        target="user:a",
        time_us=NOW_US,
        rows_max=1,
        scan_max=9,
        copy_max=9,
        keep_history=keep_history,
        tasks_max=99,
    )


def task_of(tenant: str, number: int) -> Write:
    """A task that finds no follower any more."""
    position = position_of(activity_id(NOW_US, b"%d" % number))
    key = FanOutKey(tenant, "user:a", position).encode()
    return Write("outbox", key, encode(Spreading(1, removes=False, after="")))


def left_behind(tasks: dict[str, int]) -> MemoryStore:
    """A store with so many tasks of each tenant, counted."""
    store = MemoryStore()
    for tenant, number in tasks.items():
        store.write([task_of(tenant, one) for one in range(number)])
        store.write([Write("meta", b"tasks\0" + tenant.encode(), write_number(number))])
    return store


READERS = tuple(f"timeline:{name}" for name in "abcde")
numbers = st.integers(0, 3)
happenings = st.lists(
    st.one_of(
        st.builds(posted, numbers),
        st.builds(posted, numbers),
        st.builds(removed, numbers),
        st.builds(followed, st.sampled_from(READERS)),
        st.builds(unfollowed, st.sampled_from(READERS), keep_history=st.booleans()),
        *(st.just(name) for name in ("decide", "decide", "lose", "elect", "kill", "late")),
    ),
    min_size=10,
    max_size=60,
)


@given(happenings)
@settings(deadline=None, max_examples=200)
def test_tasks_end_alike_through_any_change_of_leader_loss_and_kill(
    happenings: list[Command | str],
) -> None:
    """Whatever becomes of proposals and leaders: the state is that of commands which do all."""
    node, whole = Node(), Node()
    late: list[bytes] = []
    steps: list[Command | str] = [*(followed(reader) for reader in READERS), *happenings]
    for number, step in enumerate(steps, 1):
        if isinstance(step, PostActivity | RemoveActivity):
            whole.write(msgspec.structs.replace(step, inline_max=None), number * 1_000)
            node.write(step, number * 1_000)
        elif not isinstance(step, str):
            whole.write(step, number * 1_000)
            node.write(step, number * 1_000)
        elif step == "elect":
            node.machine.lead(leads=False)
            node.machine.lead(leads=True)
        elif step == "kill":  # what it had proposed may still be decided, under the next leader
            late += [command for command, _ in node.log.proposed]
            node = Node(node.store)
        elif step == "late" and late:
            node.apply(late.pop())
            node.machine.work()
        elif node.log.proposed and step in ("decide", "lose"):
            node.decide() if step == "decide" else node.lose()
    whole.drain()
    node.write(followed(READERS[0]), len(steps) * 1_000 + 900)  # a write after what was lost
    whole.write(followed(READERS[0]), len(steps) * 1_000 + 900)
    node.drain()
    assert [] == node.tasks()
    assert whole.state() == node.state()


def test_task_goes_on_at_another_leader_where_it_was() -> None:
    node = Node()
    for reader in READERS:
        node.write(followed(reader))
    node.write(posted(0))
    node.decide()
    assert 1 + 1 + 2 == len(node.state()["feeds"])
    other = Node(node.store)
    other.drain()
    assert 1 + 5 == len(other.state()["feeds"])


def test_open_tasks_of_all_tenants_are_counted() -> None:
    node = Node()
    reader = StoreReader(node.store, CONFIG)
    assert 0 == reader.open_tasks()
    for tenant in ("big", "small"):
        for follower in READERS:
            node.write(msgspec.structs.replace(followed(follower), tenant=tenant))
        node.write(msgspec.structs.replace(posted(0), tenant=tenant))
    assert 2 == reader.open_tasks() == len(node.tasks())
    node.drain()
    assert 0 == reader.open_tasks() == len(node.tasks())


def test_tenants_take_turns_however_many_tasks_one_has() -> None:
    node = Node(left_behind({"big": 2_000, "small": 3, "tiny": 1}))
    first = [node.decide().tenant for _ in range(outbox.IN_FLIGHT_MAX)]
    assert {"big": 4, "small": 3, "tiny": 1} == {name: first.count(name) for name in first}
    assert {"big"} == {node.decide().tenant for _ in range(100)}
    node.write(msgspec.structs.replace(followed("timeline:x"), tenant="tiny"))
    node.write(msgspec.structs.replace(posted(7, inline_max=0), tenant="tiny"))
    ahead = [node.decide().tenant for _ in range(outbox.IN_FLIGHT_MAX + 2)]
    assert "tiny" in ahead
    node.drain()
    assert [] == node.tasks()


def test_few_commands_are_on_their_way_at_once_and_one_of_each_task() -> None:
    node = Node(left_behind({"big": 50}))
    assert outbox.IN_FLIGHT_MAX == len(node.log.proposed)
    while node.log.proposed:
        waiting = [decode_command(command) for command, _ in node.log.proposed]
        assert all(isinstance(command, FanOut) for command in waiting)
        keys = {command.position for command in waiting if isinstance(command, FanOut)}
        assert len(keys) == len(waiting) <= outbox.IN_FLIGHT_MAX
        node.decide()
    assert [] == node.tasks()


@given(st.lists(st.integers(0, 30), max_size=120), st.integers(0, 20))
@settings(deadline=None)
def test_no_task_is_forgotten_however_few_are_held(happenings: list[int], before: int) -> None:
    """0 to 20 is a new task, anything else lets a command take effect."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "HELD_MAX", 3)
        patch.setattr(outbox, "IN_FLIGHT_MAX", 2)
        node = Node(left_behind({"demo": before}))
        node.write(followed("timeline:x"))
        for number in happenings:
            if number <= 20:
                node.write(msgspec.structs.replace(posted(100 + number, inline_max=0)))
            elif node.log.proposed:
                node.decide()
            working = node.machine._outbox
            assert working is not None
            assert len(working._held) <= 2 * 3 + 2
        node.drain()
        assert [] == node.tasks()
        assert 2 * len({number for number in happenings if number <= 20}) == len(
            node.state()["feeds"]
        )


def later(number: int) -> PostActivity:
    post = posted(0, inline_max=0)
    activity = activity_id(NOW_US + 1 + number, b"")
    return msgspec.structs.replace(
        post, posted=msgspec.structs.replace(post.posted, activity_id=activity)
    )


@pytest.mark.parametrize("before", [0, 20])
def test_old_task_is_done_though_new_ones_never_cease(before: int) -> None:
    """New ones of the same feed lie before it in the store: the newest first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "HELD_MAX", 3)
        patch.setattr(outbox, "IN_FLIGHT_MAX", 2)
        node = Node(left_behind({"demo": before}))
        node.write(followed("timeline:x"))
        for number in range(20):  # more than are held
            node.write(later(number))
        old = set(node.tasks())
        for number in range(20, 100):
            node.write(later(number))
            node.decide()
        assert not old & set(node.tasks())
        assert node.tasks()


def test_task_that_was_begun_is_finished_before_the_next_is_begun() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "IN_FLIGHT_MAX", 1)
        node = Node()
        for reader in READERS:
            node.write(followed(reader))
        for number in range(3):
            node.write(posted(number, inline_max=0))
        begun = []
        while node.log.proposed:
            command = node.decide()
            assert isinstance(command, FanOut)
            begun.append(command.position)
        assert 3 * 3 == len(begun)
        assert [begun[0]] * 3 + [begun[3]] * 3 + [begun[6]] * 3 == begun


def test_who_leads_no_more_proposes_no_more() -> None:
    node = Node(left_behind({"big": 50}))
    node.machine.lead(leads=False)
    for _ in range(outbox.IN_FLIGHT_MAX):
        node.decide()
    assert not node.log.proposed
    assert 50 - outbox.IN_FLIGHT_MAX == len(node.tasks())


def test_lost_proposal_is_repeated_after_the_next_write_and_not_before() -> None:
    node = Node(left_behind({"big": 1}))
    node.lose()
    assert not node.log.proposed
    node.write(followed("timeline:x"))
    assert isinstance(node.decide(), FanOut)
    assert [] == node.tasks()


def test_crowd_is_waited_for() -> None:
    node = Node(left_behind({"big": 50}))
    node.log.crowded = True
    for _ in range(outbox.IN_FLIGHT_MAX):
        node.decide()
    assert not node.log.proposed
    node.log.crowded = False
    node.write(followed("timeline:x"))
    node.drain()
    assert [] == node.tasks()


@pytest.mark.parametrize("counted", [False, True])
def test_ended_follow_of_the_release_before_is_cleared_beside_fan_outs(*, counted: bool) -> None:
    """Its entry has no count, so its end does not change the count of others."""
    node = Node()
    node.write(followed("timeline:x"))
    for number in range(5):
        node.write(posted(number))
    ended = unfollowed("timeline:x", keep_history=False)
    if not counted:
        ended = msgspec.structs.replace(ended, tasks_max=0)
    node.machine.lead(leads=False)
    node.write(ended)
    count = node.store.get("meta", b"tasks\0demo")
    assert (write_number(1) if counted else None) == count
    again = Node(node.store)
    assert isinstance(again.decide(), ClearRows)
    again.drain()
    assert [] == again.tasks()
    assert again.store.get("meta", b"tasks\0demo") in (None, write_number(0))
    assert again.store.get("meta", APPLIED) is not None
