"""The machine: the same log gives the same state, and counters equal a naive recount."""

from typing import get_args

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds import machine
from feeds.applier import Applier
from feeds.commands import (
    OPERATION,
    ClearRows,
    Command,
    CreateTenant,
    FollowFeed,
    MoveClock,
    Once,
    PostActivity,
    RecordEvents,
    RemoveActivity,
    UnfollowFeed,
    Unkeyed,
    encode_command,
)
from feeds.config import FeedsConfig
from feeds.counters import HOUR_US
from feeds.engine import FeedEngine
from feeds.events import ENGAGEMENT_KINDS, Engagement, Impression, Posted
from feeds.flushing import InlineFlusher
from feeds.keys import DedupCountKey, DedupKey, ExpiryKey, FeedRowKey, TenantKey, after
from feeds.machine.clock import clock_us
from feeds.model import (
    ActivityDraft,
    FeedId,
    TenantId,
    UserId,
    activity_id,
)
from feeds.replication.base import ApplyCommand
from feeds.replication.memory import MemoryReplica
from feeds.results import (
    FollowResult,
    Placed,
    RecordResult,
    Rejected,
    Result,
    UnfollowResult,
    encode_result,
)
from feeds.state import StateMachine
from feeds.store.base import COLUMN_FAMILIES, Write
from feeds.store.memory import MemoryStore
from feeds.testing_engine import NOW_US, ManualClock, check_counters, memory_engine
from feeds.values import Remembered, decode_key_count, decode_tenant, encode

TENANT = TenantId("demo")


def test_every_command_is_decided_and_only_those_without_a_key_have_no_once() -> None:
    kinds = set(get_args(Command))
    assert kinds == set(machine.DECISIONS)
    assert set(get_args(Unkeyed)) == {kind for kind in kinds if not hasattr(kind, "once")}


def posted(number: int, time_us: int = NOW_US, to: tuple[str, ...] = ()) -> PostActivity:
    activity = activity_id(time_us, b"%d" % number)
    facts = Posted(
        time_us=time_us,
        activity_id=activity,
        actor=f"user:{number % 3}",
        verb="post",
        object="o",
        feed="user:a",
        to=to,
        tags=tuple("abc"[: number % 4]),
    )
    return PostActivity(tenant="demo", posted=facts, body=b'{"n":%d}' % number, places_max=101)


def followed(follower: str = "timeline:x", target: str = "user:a", limit: int = 100) -> FollowFeed:
    return FollowFeed(
        tenant="demo",
        follower=follower,
        target=target,
        time_us=NOW_US,
        copy_limit=limit,
        copy_max=1_000,
        pull_above=1_000,
        follows_max=3,
    )


def unfollowed(rows_max: int = 2, *, keep_history: bool = False) -> UnfollowFeed:
    return UnfollowFeed(
        tenant="demo",
        follower="timeline:x",
        target="user:a",
        time_us=NOW_US,
        rows_max=rows_max,
        scan_max=100,
        copy_max=1_000,
        keep_history=keep_history,
    )


CLEAR = ClearRows(tenant="demo", follower="timeline:x", target="user:a", rows_max=2, scan_max=100)


class Node:
    """A store and the index it has applied."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.index = 0

    def apply(self, command: Command) -> Result:
        self.index += 1
        outcome = machine.apply(command, self.index, self.store)
        self.store.write(outcome.writes)
        return outcome.result

    def clock_us(self) -> int:
        return clock_us(self.store)

    def move_clock(self, to_us: int) -> None:
        self.apply(MoveClock(seen_us=self.clock_us(), to_us=to_us))

    def rows(self, feed: str) -> list[FeedRowKey]:
        prefix = FeedRowKey.prefix("demo", feed)
        return [
            FeedRowKey.decode(key) for key, _ in self.store.scan("feeds", prefix, after(prefix))
        ]

    def state(self) -> dict[str, list[tuple[bytes, bytes]]]:
        return _state(self.store)


def _state(store: MemoryStore) -> dict[str, list[tuple[bytes, bytes]]]:
    return {family: list(store.scan(family, b"", b"\xff" * 99)) for family in COLUMN_FAMILIES}


def test_ended_follow_is_cleared_in_bounded_commands() -> None:
    node = Node()
    node.apply(followed())
    for number in range(5):
        node.apply(posted(number))
    assert UnfollowResult(7, removed=True, unfinished=True) == node.apply(unfollowed())
    assert 3 == len(node.rows("timeline:x"))
    assert UnfollowResult(8, removed=True, unfinished=True) == node.apply(CLEAR)
    assert UnfollowResult(9, removed=True, unfinished=False) == node.apply(CLEAR)
    assert [] == node.rows("timeline:x")
    assert UnfollowResult(10, removed=False) == node.apply(CLEAR)


def test_rows_of_a_follow_made_while_the_ended_one_is_cleared_stay() -> None:
    node = Node()
    node.apply(followed())
    for number in range(5):
        node.apply(posted(number))
    node.apply(unfollowed())
    node.apply(followed())
    node.apply(posted(5))
    while node.apply(CLEAR) != UnfollowResult(node.index, removed=False):
        pass
    assert 6 == len(node.rows("timeline:x"))


def test_follow_above_the_limit_is_rejected_and_changes_nothing() -> None:
    node = Node()
    for target in ("user:a", "user:b", "user:c"):
        node.apply(followed(target=target))
    before = node.state()
    result = node.apply(followed(target="user:d"))
    assert isinstance(result, Rejected)
    assert "timeline:x follows 3 feeds, which is the limit: unfollow one" == result.message
    assert before == node.state()


def test_record_without_a_word_of_merging_is_taken_for_merging() -> None:
    old = msgspec.msgpack.encode((NOW_US, 1))  # as release 0.1 wrote it
    assert decode_tenant(old).merging
    node = Node()
    node.apply(CreateTenant(tenant="demo", now_us=NOW_US))
    record = node.store.get("config", TenantKey("demo").encode())
    assert record is not None
    assert not decode_tenant(record).merging


def test_ties_with_the_oldest_copied_are_copied_too() -> None:
    node = Node()
    for number in range(3):
        node.apply(posted(number))
    node.apply(posted(3, NOW_US - 1))
    node.apply(followed(limit=1))
    assert 3 == len(node.rows("timeline:x"))


def test_key_is_forgotten_after_its_time_and_its_entry_is_pruned() -> None:
    node = Node()

    def record(key: str, clock_us: int, user: str, stamp_us: int) -> Result:
        if clock_us > node.clock_us():
            node.move_clock(clock_us)
        event = Impression(time_us=NOW_US, user=UserId(user), activity_id=activity_id(NOW_US, b"0"))
        once = Once(key, user.encode(), stamp_us, stamp_us + 10)
        return node.apply(RecordEvents(tenant="demo", events=(event,), once=once))

    node.apply(posted(0))
    assert RecordResult(2, 1) == record("k", 0, "alice", stamp_us=NOW_US)
    assert RecordResult(2, 1, duplicate=True) == record("k", 9, "alice", stamp_us=2 * NOW_US)
    assert isinstance(record("k", 9, "bob", stamp_us=2 * NOW_US), Rejected)
    assert RecordResult(7, 1) == record("k", 10, "bob", stamp_us=0)
    assert RecordResult(9, 1) == record("other", 30, "carol", stamp_us=0)
    assert [b"demo\0kother", b"demo\0n", b"demo\0x" + bytes(7) + b"\x28other"] == [
        key for key, _ in node.state()["dedup"]
    ]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.integers(0, 30),
            st.integers(1, 20),
            st.booleans(),
            st.integers(0, 9),
        ),
        max_size=40,
    )
)
@settings(deadline=None)
def test_no_more_keys_are_remembered_than_may_be_and_none_before_its_time(
    used: list[tuple[int, int, int, bool, int]],
) -> None:
    node = Node()
    for number, now_us, ttl_us, counted, passed_us in used:
        node.move_clock(node.clock_us() + passed_us)
        once = Once(f"k{number}", b"", now_us, now_us + ttl_us, None, 3 if counted else 0)
        node.apply(RecordEvents(tenant="demo", events=(), once=once))
        dedup = node.state()["dedup"]
        keys = {key[6:] for key, _ in dedup if key[5:6] == b"k"}
        marks = {key[14:]: value for key, value in dedup if key[5:6] == b"x"}
        (count,) = [decode_key_count(value) for key, value in dedup if key[5:6] == b"n"]
        assert once.key.encode() in keys
        assert keys == marks.keys()
        assert count.count == sum(value == b"\1" for value in marks.values()) <= 3
        assert all(
            count.since_us <= int.from_bytes(key[6:14]) for key, _ in dedup if key[5:6] == b"x"
        )


def test_clock_moves_only_from_where_its_mover_saw_it() -> None:
    node = Node()
    late, lost, back = (
        MoveClock(seen_us=0, to_us=5),
        MoveClock(seen_us=4, to_us=9),
        MoveClock(seen_us=5, to_us=3),
    )
    for command in (late, late, lost, back, MoveClock(seen_us=5, to_us=2**62 + 1)):
        node.apply(command)
        assert 5 == node.clock_us()


def test_keys_of_an_older_release_go_on_from_where_its_stamps_had_led() -> None:
    node = Node()
    node.move_clock(1_000)
    old = Remembered(b"", NOW_US + 10, encode_result(RecordResult(1, 7)))
    node.store.write(
        [
            Write("dedup", DedupKey("demo", "k").encode(), encode(old)),
            Write("dedup", ExpiryKey("demo", NOW_US + 10, "k").encode(), b"\1"),
            Write("dedup", DedupCountKey("demo").encode(), encode((1, NOW_US))),
        ]
    )

    def record(key: str) -> Result:
        return node.apply(RecordEvents(tenant="demo", events=(), once=Once(key, b"", 0, 10)))

    record("other")
    node.move_clock(1_009)
    assert RecordResult(1, 7, duplicate=True) == record("k")
    node.move_clock(1_010)
    assert RecordResult(node.index + 1, 0) == record("k")


def test_the_keys_that_expire_next_are_forgotten_first_where_there_are_too_many() -> None:
    node = Node()
    for number in range(5):
        once = Once(f"k{number}", b"", 0, 100 + number, None, 3)
        node.apply(RecordEvents(tenant="demo", events=(), once=once))
    assert [b"k2", b"k3", b"k4"] == [
        key[6:] for key, _ in node.state()["dedup"] if key[5:6] == b"k"
    ]


def test_a_repeat_by_the_engine_is_answered_as_the_first_time() -> None:
    node = Node()
    command = msgspec.structs.replace(posted(0), once=Once(f"{OPERATION}1", b"", 0, 10))
    assert node.apply(command) == node.apply(command)


def test_activity_posted_again_and_again_stays_within_its_number_of_places() -> None:
    node = Node()
    node.apply(posted(0, to=("topic:0", "topic:1")))
    more = msgspec.structs.replace(posted(0, to=("topic:2",)), places_max=3)
    before = node.state()
    result = node.apply(more)
    assert isinstance(result, Rejected)
    assert "is in 3 feeds, and with 1 more would be in over 3" in result.message
    assert before == node.state()
    assert Placed(1, posted(0).posted.activity_id, duplicate=True) == node.apply(
        msgspec.structs.replace(more, places_max=4)
    )


def test_command_that_comes_after_another_is_rejected_without_it() -> None:
    node = Node()
    first = msgspec.structs.replace(posted(0), once=Once("a", b"", NOW_US, NOW_US + 9))
    second = msgspec.structs.replace(followed(), once=Once("b", b"", NOW_US, NOW_US + 9, "a"))
    result = node.apply(second)
    assert isinstance(result, Rejected)
    assert "the write before it, with key 'a', has not taken effect" in result.message
    node.apply(first)
    assert FollowResult(3, copied=1) == node.apply(second)
    assert FollowResult(3, copied=1) == node.apply(second)


def test_rejected_command_has_no_writes() -> None:
    bad = RemoveActivity(tenant="demo", activity_id="no id", time_us=NOW_US)
    outcome = machine.apply(bad, 1, MemoryStore())
    assert isinstance(outcome.result, Rejected)
    assert () == outcome.writes


def test_new_post_of_a_removed_activity_does_not_wake_kept_rows() -> None:
    engine = memory_engine()
    timeline, author = FeedId("timeline", "x"), FeedId("user", "a")
    draft = ActivityDraft(actor="user:a", verb="post", object="o", foreign_id="f", time_us=NOW_US)
    engine.follow(TENANT, timeline, author).result()
    posted_id = engine.post(TENANT, author, draft).result().activity.id
    engine.unfollow(TENANT, timeline, author, keep_history=True).result()
    assert 1 == len(engine.read(TENANT, timeline).rows)
    engine.remove(TENANT, posted_id).result()
    assert 0 == len(engine.read(TENANT, timeline).rows)
    assert not engine.post(TENANT, author, draft).result().duplicate
    assert 0 == len(engine.read(TENANT, timeline).rows)
    assert 1 == len(engine.read(TENANT, author).rows)


commands = st.lists(
    st.one_of(
        st.builds(posted, st.integers(0, 5)),
        st.builds(followed, st.sampled_from(("timeline:x", "timeline:y"))),
        st.builds(unfollowed, st.integers(1, 3), keep_history=st.booleans()),
        st.just(CLEAR),
        st.integers(0, 5).map(
            lambda n: RemoveActivity(
                tenant="demo", activity_id=activity_id(NOW_US, b"%d" % n), time_us=NOW_US
            )
        ),
        st.tuples(st.integers(0, 5), st.integers(0, 2)).map(
            lambda pair: RecordEvents(
                tenant="demo",
                events=(
                    Impression(
                        time_us=NOW_US,
                        user=UserId("u"),
                        activity_id=activity_id(NOW_US, b"%d" % pair[0]),
                    ),
                ),
                once=Once(f"k{pair[1]}", b"%d" % pair[0], NOW_US, NOW_US + 1),
            )
        ),
    ),
    max_size=12,
)


@given(commands, st.integers(1, 9))
def test_commands_that_share_a_batch_do_what_each_does_alone(log: list[Command], size: int) -> None:
    alone, together = MemoryStore(), MemoryStore()
    one = Applier(alone, 0, 1 << 20, InlineFlusher(alone))
    many = Applier(together, 0, 1 << 20, InlineFlusher(together))
    encoded = [encode_command(command) for command in log]
    expected = [one.apply(index, 1, data) for index, data in enumerate(encoded, 1)]
    found = []
    for index, data in enumerate(encoded, 1):
        found.append(many.hold(index, 1, data))
        if index % size == 0:
            many.commit()
    many.commit()
    assert found == expected
    assert _state(together) == _state(alone)
    assert many.take_left() == one.take_left()


@given(commands)
@settings(deadline=None)
def test_same_log_gives_the_same_state(log: list[Command]) -> None:
    one, other = Node(), Node()
    assert [one.apply(command) for command in log] == [other.apply(command) for command in log]
    assert one.state() == other.state()


@given(commands, st.integers(0, 12))
@settings(deadline=None)
def test_log_applied_again_from_the_applied_index_changes_nothing(
    log: list[Command], first: int
) -> None:
    store, logged = MemoryStore(), []

    def recording(apply: ApplyCommand, index: int) -> MemoryReplica:
        def apply_and_keep(index: int, term: int, data: bytes) -> bytes:
            logged.append((index, term, data))
            return apply(index, term, data)

        return MemoryReplica(apply_and_keep, index)

    engine = FeedEngine.embedded(store, recording, clock=ManualClock())
    engine.create_tenant("demo").result()
    for command in log:
        engine._propose(command, object, lambda _: None).exception()  # type: ignore[type-var]
    again = FeedEngine.embedded(store, MemoryReplica, clock=ManualClock())
    before = _state(store)
    seen: list[int] = []
    again.subscribe(lambda _tenant, index, _events: seen.append(index))
    apply = StateMachine(store, FeedsConfig()).apply
    assert [b""] * len(logged[first:]) == [apply(*entry) for entry in logged[first:]]
    assert before == _state(store)
    assert [] == seen


events = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(("ann", "bob", "cid")),
        st.sampled_from(("impression", *ENGAGEMENT_KINDS)),
        st.integers(-40 * 24, 0).map(lambda hours: NOW_US + hours * HOUR_US + 17),
    ),
    max_size=40,
)


def _event(spec: tuple[int, str, str, int]) -> Impression | Engagement:
    number, user, kind, time_us = spec
    activity = activity_id(NOW_US, b"%d" % number)
    if kind == "impression":
        return Impression(time_us=time_us, user=UserId(user), activity_id=activity)
    return Engagement(
        time_us=time_us,
        user=UserId(user),
        activity_id=activity,
        kind=kind,  # type: ignore[arg-type]
    )


@given(events, st.integers(1, 40))
@settings(deadline=None)
def test_counters_equal_a_naive_recount_of_the_event_log(
    specs: list[tuple[int, str, str, int]], batch: int
) -> None:
    engine = memory_engine()
    for number in range(5):  # activity 5 is unknown
        engine._propose(posted(number), Placed, lambda _: None).result()
    sent = [_event(spec) for spec in specs]
    for start in range(0, len(sent), batch):
        engine.record(TENANT, sent[start : start + batch]).result()
    logged = [event for _, _, event in engine.events(TENANT, 0, 1_000)]
    assert [e for e in sent if e.activity_id != activity_id(NOW_US, b"5")] == logged[5:]
    check_counters(engine, TENANT)
