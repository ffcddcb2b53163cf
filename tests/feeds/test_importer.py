"""Replaying action logs: in order, all of it, and once however often it is replayed."""

import io
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any, ClassVar

import msgspec
import pytest

from feeds import actions
from feeds.actions import LINE_BYTES_MAX, Action, read_actions
from feeds.bench import workload
from feeds.config import FeedsConfig
from feeds.counters import COUNTER_KINDS
from feeds.engine import FeedEngine
from feeds.errors import (
    Conflict,
    InvalidInput,
    LimitExceeded,
    Overloaded,
    StorageFull,
    UnknownFeedGroup,
)
from feeds.events import Engagement, Removed
from feeds.importer import BATCH_EVENTS_MAX, replay
from feeds.model import ActivityDraft, FeedId, TenantId, UserId, identify
from feeds.replication.base import Applied
from feeds.replication.memory import MemoryReplica
from feeds.state import StateMachine
from feeds.store.memory import MemoryStore
from feeds.testing_engine import NOW_US, ManualClock, memory_engine

DEMO = TenantId("demo")
DRAFT = ActivityDraft(actor="user:ann", verb="ship", object="v1", foreign_id="f", time_us=NOW_US)
SHIPPED = identify(DRAFT, NOW_US)

LOG: list[Action] = [
    actions.Post(
        time_us=NOW_US, feed="user:ann", actor="user:ann", verb="ship", object="v1", foreign_id="f"
    ),
    actions.Follow(time_us=NOW_US, follower="timeline:bob", target="user:ann", derived=True),
    actions.Show(time_us=NOW_US, user="bob", activity_id=SHIPPED, position=0, slate_id="s"),
    actions.Engage(time_us=NOW_US, user="bob", activity_id=SHIPPED, kind="like", value=2.0),
    actions.Engage(time_us=NOW_US, user="cid", activity_id=SHIPPED[::-1], kind="like"),
    actions.Unfollow(time_us=NOW_US, follower="timeline:bob", target="user:ann"),
    actions.Remove(time_us=NOW_US, activity_id=SHIPPED),
]


def events(engine: FeedEngine) -> list[object]:
    return [event for _, _, event in engine.events(DEMO, 0, 10_000)]


def test_every_action_takes_place_in_order() -> None:
    engine = memory_engine()
    report = replay(engine, DEMO, [*LOG[:4], *LOG[5:]])
    kinds = [type(event).__name__ for event in events(engine)]
    assert ["Posted", "Followed", "Impression", "Engagement", "Unfollowed", "Removed"] == kinds
    assert {
        "duplicate": 0,
        "engage": 1,
        "follow": 1,
        "post": 1,
        "remove": 1,
        "show": 1,
        "unfollow": 1,
        "unknown": 0,
    } == report.counts
    assert (6, engine.applied_index()) == (report.actions, report.last_index)


def test_same_log_again_adds_nothing() -> None:
    engine = memory_engine()
    log = list(workload(3 * BATCH_EVENTS_MAX))
    replay(engine, DEMO, log)
    before = events(engine)
    report = replay(engine, DEMO, log)
    assert before == events(engine)
    assert report.counts["duplicate"] == report.counts["post"] + _batches(log)


def _batches(log: Iterable[Action]) -> int:
    """How often engagements follow something else, or a batch is full."""
    batches, length = 0, 0
    for action in log:
        length = length + 1 if isinstance(action, actions.Engage) else 0
        batches += length % BATCH_EVENTS_MAX == 1
    return batches


def test_engagements_in_a_row_are_one_batch_up_to_the_limit() -> None:
    engine = memory_engine()
    likes: list[Action] = [
        actions.Engage(time_us=NOW_US, user=f"u{number}", activity_id=SHIPPED, kind="like")
        for number in range(BATCH_EVENTS_MAX + 1)
    ]
    report = replay(engine, DEMO, [LOG[0], *likes])
    assert 4 == report.last_index  # the tenant, the post and two batches
    assert BATCH_EVENTS_MAX + 1 == engine.recent(DEMO, 1)[0][2].totals[2]
    assert 1 == engine.user_record(DEMO, UserId("u500")).engagements


def test_bad_action_is_named_by_its_number_and_what_came_before_has_taken_place() -> None:
    engine = memory_engine()
    wrong = actions.Follow(time_us=NOW_US, follower="timeline:bob", target="wall:ann")
    with pytest.raises(UnknownFeedGroup, match="action 2: feed group 'wall'"):
        replay(engine, DEMO, [LOG[0], wrong, LOG[1]])
    assert 1 == len(engine.read(DEMO, FeedId("user", "ann")).rows)
    assert {} == engine.follows(DEMO, FeedId("timeline", "bob"))


def test_bad_event_is_named_and_those_before_it_in_its_batch_take_effect_once() -> None:
    engine = memory_engine()
    for _ in range(2):
        with pytest.raises(InvalidInput, match=r"action 5: event 0: .* is not an activity id"):
            replay(engine, DEMO, LOG)
    kinds = [type(event).__name__ for event in events(engine)]
    assert ["Posted", "Followed", "Impression", "Engagement"] == kinds
    replay(engine, DEMO, [*LOG[:4], like("cid"), *LOG[5:]])
    kinds = [type(event).__name__ for event in events(engine)]
    assert ["Engagement", "Engagement", "Unfollowed", "Removed"] == kinds[3:]


def test_action_that_the_machine_rejects_is_the_one_named() -> None:
    engine = memory_engine(FeedsConfig(follows_max=1))
    log: list[Action] = [
        actions.Follow(time_us=NOW_US, follower="timeline:bob", target=f"user:{name}")
        for name in ("ann", "cid")
    ]
    wrong = msgspec.structs.replace(like("ann"), time_us=-1)
    with pytest.raises(LimitExceeded, match="action 2: timeline:bob follows 1 feeds"):
        replay(engine, DEMO, [*log, LOG[0], wrong])
    assert 1 == len(events(engine))


def like(user: str) -> actions.Engage:
    return actions.Engage(time_us=NOW_US, user=user, activity_id=SHIPPED, kind="like")


def likes(engine: FeedEngine) -> int:
    """By the counters; the event log must say the same."""
    counted = engine.recent(DEMO, 1)[0][2].totals.get(COUNTER_KINDS.index("like"), 0)
    assert counted == sum(isinstance(event, Engagement) for event in events(engine))
    return counted


@pytest.mark.parametrize("first", [2, 3, 5, 9])
def test_log_that_has_grown_adds_only_what_is_new(first: int) -> None:
    engine = memory_engine()
    log: list[Action] = [LOG[0], *(like(f"u{number}") for number in range(9))]
    replay(engine, DEMO, log[:first])
    assert first - 1 == likes(engine)
    for _ in range(3):
        replay(engine, DEMO, log)
        assert 9 == likes(engine)


def test_log_that_breaks_off_keeps_what_came_before_and_goes_on_when_it_is_mended() -> None:
    engine = memory_engine()
    post = msgspec.json.encode(LOG[0])
    good = msgspec.json.encode(like("ann"))
    with pytest.raises(InvalidInput, match=r"log:4: not an action"):
        replay(engine, DEMO, read_actions(io.BytesIO(b"\n".join([post, good, good, b"{"])), "log"))
    assert 2 == likes(engine)
    replay(engine, DEMO, read_actions(io.BytesIO(b"\n".join([post, good, good, good])), "log"))
    assert 3 == likes(engine)


def test_log_that_was_edited_within_a_batch_is_refused_and_counts_nothing_twice() -> None:
    engine = memory_engine()
    replay(engine, DEMO, [LOG[0], like("ann"), like("bob")])
    with pytest.raises(Conflict, match="action 2: an earlier import had other actions"):
        replay(engine, DEMO, [LOG[0], like("ann"), like("cid")])
    assert 2 == likes(engine)


def test_follows_and_removals_are_not_repeated_either() -> None:
    engine = memory_engine()
    log = [*LOG[:4], *LOG[5:]]
    replay(engine, DEMO, log)
    before = events(engine)
    replay(engine, DEMO, log)
    assert before == events(engine)


def test_removal_is_told_with_the_time_of_the_action() -> None:
    engine = memory_engine()
    replay(engine, DEMO, [LOG[0], msgspec.structs.replace(LOG[6], time_us=NOW_US - 5)])
    assert Removed(time_us=NOW_US - 5, activity_id=SHIPPED) == events(engine)[-1]


class FullForAMoment(MemoryReplica):
    """Refuses the proposals in `full`, by their number, as where the disk is full and then not."""

    full: ClassVar[set[int]] = {2}
    seen = 0

    def propose(self, command: bytes) -> "Future[Applied]":
        self.seen += 1
        if self.seen not in self.full:
            return super().propose(command)
        refused: Future[Applied] = Future()
        refused.set_exception(StorageFull("the disk is full: free space and retry"))
        return refused


def test_nothing_behind_a_refused_action_takes_effect_and_the_next_import_adds_it_all() -> None:
    engine = FeedEngine.embedded(MemoryStore(), FullForAMoment, clock=ManualClock())
    engine.create_tenant(DEMO).result()
    log: list[Action] = [LOG[0], like("ann"), LOG[1], like("bob")]
    with pytest.raises(StorageFull, match="action 1: the disk is full"):
        replay(engine, DEMO, log)
    assert [] == events(engine)
    assert {} == engine.follows(DEMO, FeedId("timeline", "bob"))
    replay(engine, DEMO, log)
    assert 2 == likes(engine)
    assert 1 == len(engine.read(DEMO, FeedId("timeline", "bob")).rows)


def test_empty_log_is_imported_and_has_no_time() -> None:
    report = replay(memory_engine(), DEMO, [])
    assert (0, 0, "", {}) == (report.actions, report.last_index, report.last_time, report.counts)


def test_progress_counts_to_the_end() -> None:
    seen: list[int] = []
    log = list(workload(1_200))
    replay(memory_engine(), DEMO, log, seen.append)
    assert [500, 1000, len(log)] == seen


def test_line_that_is_no_action_is_named() -> None:
    stream = io.BytesIO(b'{"type":"remove","time_us":1,"activity_id":"x"}\n\n{"type":"jump"}\n')
    with pytest.raises(InvalidInput, match=r"log\.jsonl:3: not an action: .*'jump'"):
        list(read_actions(stream, "log.jsonl"))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"type":"engage","value":NaN}', "not an action"),
        (b'{"type":"post","time_us":1e400}', "not an action"),
        (b'{"type":"post","custom":{"a":' + b"[" * 100_000 + b"}", "not an action"),
        (b"x" * (LINE_BYTES_MAX + 1), f"longer than {LINE_BYTES_MAX} bytes"),
        (b"\xff\xfe{\x00}\x00", "not an action"),
        (b"\x1f\x8b\x08\x00", "not an action"),
    ],
    ids=["NaN", "infinite", "deep", "long", "UTF-16", "gzip"],
)
def test_line_of_another_kind_is_named(line: bytes, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^log:1: .*{sentence}"):
        list(read_actions(io.BytesIO(line + b"\n"), "log"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"time_us": 253_370_764_800_000_000}, "lies outside 1970-01-01 to 2199-12-31"),
        ({"value": 1e308}, "out of range: send a number within"),
        ({"position": 2**31}, "position is 2147483648"),
    ],
    ids=["year 9999", "1e308", "position"],
)
def test_event_that_cannot_be_is_named_and_what_came_before_stays(
    change: dict[str, Any], sentence: str
) -> None:
    engine = memory_engine()
    wrong = msgspec.structs.replace(like("ann"), **change)
    with pytest.raises(InvalidInput, match=rf"action 3: event 0: .*{sentence}"):
        replay(engine, DEMO, [LOG[0], LOG[1], wrong])
    assert ["Posted", "Followed"] == [type(event).__name__ for event in events(engine)]


def test_line_that_is_not_utf_8_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"log\.jsonl:1: not an action"):
        list(read_actions(io.BytesIO(b'{"type":"remove","activity_id":"\xff"}\n'), "log.jsonl"))


def crowded_engine() -> tuple[FeedEngine, StateMachine]:
    """An engine in which one fan-out may wait, and none is worked on until it is told to lead."""
    engine = memory_engine(FeedsConfig(fanout_inline_max=0, outbox_tasks_max=1))
    machine = engine._changes
    assert isinstance(machine, StateMachine)
    machine.lead(leads=False)
    return engine, machine


def posts_to_a_follower(number: int) -> list[Action]:
    follow = actions.Follow(time_us=NOW_US, follower="timeline:bob", target="user:ann")
    posts = [
        actions.Post(
            time_us=NOW_US, feed="user:ann", actor="user:ann", verb="ship", object=f"v{one}"
        )
        for one in range(number)
    ]
    return [follow, *posts]


def test_import_waits_where_too_many_fan_outs_wait_and_takes_place_whole() -> None:
    engine, machine = crowded_engine()
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        machine.lead(leads=len(pauses) > 1)

    report = replay(engine, DEMO, posts_to_a_follower(4), pause=pause)
    assert [1.0, 1.0] == pauses
    assert (4, 0) == (report.counts["post"], report.counts["duplicate"])
    assert 4 == len(engine.read(DEMO, FeedId("timeline", "bob")).rows)


def test_import_waits_no_longer_than_a_minute_for_one_write() -> None:
    engine, _ = crowded_engine()
    pauses: list[float] = []
    with pytest.raises(Overloaded, match=r"action 3: .* outbox_tasks_max is 1"):
        replay(engine, DEMO, posts_to_a_follower(4), pause=pauses.append)
    assert 60 == sum(pauses)
    assert 1 == len(engine.read(DEMO, FeedId("user", "ann")).rows)
