"""The engine's surface: what each call does, and what it says to what cannot be right.

Over 500 lines because a third of it is one table, of bad inputs: it is read beside the calls.
"""

import dataclasses
import re
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import orjson
import pytest

from feeds import outbox
from feeds.config import FeedsConfig
from feeds.credentials import ApiKey, format_api_key, hash_secret, parse_api_key, verify
from feeds.engine import FeedEngine
from feeds.errors import (
    Conflict,
    FeedsError,
    InvalidCursor,
    InvalidInput,
    InvalidTime,
    LimitExceeded,
    NotFound,
    Overloaded,
    ReplicaStopped,
    StorageFull,
    UnknownFeedGroup,
)
from feeds.events import Engagement, Event, Followed, Impression, Posted, Removed, Unfollowed
from feeds.model import (
    ActivityDraft,
    ActivityId,
    FeedId,
    TenantId,
    UserId,
    activity_id,
    position_of,
)
from feeds.replication.base import Applied, ApplyCommand
from feeds.replication.memory import MemoryReplica
from feeds.state import StateMachine
from feeds.store.base import COLUMN_FAMILIES
from feeds.store.memory import MemoryStore
from feeds.testing_engine import NOW_US, ManualClock, memory_engine

DEMO = TenantId("demo")
AUTHOR = FeedId("user", "ann")
TIMELINE = FeedId("timeline", "bob")
UNKNOWN = activity_id(NOW_US, b"unknown")


def draft(**changes: Any) -> ActivityDraft:  # Any: each field's own type
    fields: dict[str, Any] = {"actor": "user:ann", "verb": "ship", "object": "v1"}
    return ActivityDraft(**(fields | changes))


def like(activity: ActivityId, **changes: Any) -> Engagement:  # Any: as above
    fields: dict[str, Any] = {"time_us": NOW_US, "user": "bob", "kind": "like"}
    return Engagement(activity_id=activity, **(fields | changes))


def state(engine: FeedEngine) -> dict[str, list[tuple[bytes, bytes]]]:
    return {
        family: list(engine._view.scan(family, b"", b"\xff" * 99)) for family in COLUMN_FAMILIES
    }


@pytest.fixture
def engine() -> FeedEngine:
    return memory_engine()


def test_post_stamps_id_and_time_and_reaches_followers(engine: FeedEngine) -> None:
    engine.follow(DEMO, TIMELINE, AUTHOR).result()
    posted = engine.post(DEMO, AUTHOR, draft(custom={"title": "one"})).result()
    assert (NOW_US, False) == (posted.activity.time_us, posted.duplicate)
    page = engine.read(DEMO, TIMELINE)
    assert [posted.activity.id] == [row.activity_id for row in page.rows]
    assert page.next is None
    body = orjson.loads(page.bodies[0])
    assert {
        "id": posted.activity.id,
        "foreign_id": "",
        "time": "2020-09-13T12:26:40.000000",
        "actor": "user:ann",
        "verb": "ship",
        "object": "v1",
        "target": "",
        "title": "one",
        "origin": "user:ann",
    } == body
    assert orjson.loads(engine.read(DEMO, AUTHOR).bodies[0])["origin"] is None


def test_activity_that_comes_two_ways_is_shown_once(engine: FeedEngine) -> None:
    news = FeedId("topic", "news")
    engine.follow(DEMO, TIMELINE, AUTHOR).result()
    engine.follow(DEMO, TIMELINE, news).result()
    engine.post(DEMO, AUTHOR, draft(to=("topic:news", "topic:news", "user:ann"))).result()
    page = engine.read(DEMO, TIMELINE)
    assert [news] == [row.origin for row in page.rows]
    assert ["topic:news"] == orjson.loads(page.bodies[0])["to"]
    assert 1 == len(engine.rows(DEMO, TIMELINE, 10))
    engine.unfollow(DEMO, TIMELINE, news).result()
    assert [AUTHOR] == [row.origin for row in engine.read(DEMO, TIMELINE).rows]


def test_activity_posted_again_keeps_its_place_and_facts_and_takes_the_new_content(
    engine: FeedEngine,
) -> None:
    first = draft(foreign_id="f", time_us=NOW_US, custom={"tags": ["a"]})
    posted = engine.post(DEMO, AUTHOR, first).result()
    before = state(engine)["events"]
    changed = draft(foreign_id="f", time_us=NOW_US, custom={"tags": ["b"]})
    assert posted.index == engine.post(DEMO, AUTHOR, changed).result().index
    assert before == state(engine)["events"]
    assert ["b"] == orjson.loads(engine.read(DEMO, AUTHOR).bodies[0])["tags"]
    news = FeedId("topic", "news")
    assert engine.post(DEMO, news, changed).result().duplicate
    assert [posted.activity.id] == [row.activity_id for row in engine.read(DEMO, news).rows]
    index, facts, _ = engine.recent(DEMO, 1)[0]
    assert (posted.index, "user:ann", ("topic:news",)) == (index, facts.feed, facts.to)
    assert ("a",) == facts.tags
    assert facts == engine.events(DEMO, posted.index, 9)[-1][2]


def test_unfollowed_author_leaves_the_timeline(engine: FeedEngine) -> None:
    engine.post(DEMO, AUTHOR, draft()).result()
    assert 1 == engine.follow(DEMO, TIMELINE, AUTHOR).result().copied
    assert 0 == engine.follow(DEMO, TIMELINE, AUTHOR).result().copied
    assert engine.unfollow(DEMO, TIMELINE, AUTHOR).result().removed
    assert not engine.unfollow(DEMO, TIMELINE, AUTHOR).result().removed
    assert [] == engine.read(DEMO, TIMELINE).rows


def test_follow_copies_the_newest_hundred() -> None:
    engine = memory_engine()
    for second in range(105):
        engine.post(DEMO, AUTHOR, draft(time_us=NOW_US - second * 1_000_000)).result()
    assert 100 == engine.follow(DEMO, TIMELINE, AUTHOR).result().copied
    edge = engine.follows(DEMO, TIMELINE)["user:ann"]
    assert NOW_US - 99_000_000 == edge.since_us
    page = engine.read(DEMO, TIMELINE)
    assert 25 == len(page.rows)
    assert page.next == page.rows[-1].activity_id
    assert 100 == len(engine.read(DEMO, TIMELINE, 100).rows)


def test_rows_are_as_many_as_asked_where_each_came_two_ways(engine: FeedEngine) -> None:
    engine.follow(DEMO, TIMELINE, AUTHOR).result()
    engine.follow(DEMO, TIMELINE, FeedId("topic", "news")).result()
    ids = [
        engine.post(DEMO, AUTHOR, draft(object=f"v{number}", to=("topic:news",))).result()
        for number in range(7)
    ]
    newest = sorted(position_of(posted.activity.id) for posted in ids)
    for limit in range(1, 9):
        assert newest[:limit] == engine.rows(DEMO, TIMELINE, limit)


def test_first_merged_feed_of_a_tenant_is_merged_at_once() -> None:
    engine = memory_engine(FeedsConfig(pull_followers_min=1))
    engine.follow(DEMO, TIMELINE, AUTHOR).result()
    first = engine.post(DEMO, AUTHOR, draft()).result()
    assert 1 == len(engine.rows(DEMO, TIMELINE, 9)) == len(engine.read(DEMO, TIMELINE).rows)
    assert not engine.tenant(DEMO).merging
    engine.follow(DEMO, FeedId("timeline", "cid"), AUTHOR).result()
    second = engine.post(DEMO, AUTHOR, draft(object="v2")).result()
    for follower in (TIMELINE, FeedId("timeline", "cid")):
        assert {position_of(posted.activity.id) for posted in (first, second)} == set(
            engine.rows(DEMO, follower, 9)
        )
        assert 2 == len(engine.read(DEMO, follower).rows)
    assert engine.tenant(DEMO).merging


def test_page_is_filled_behind_removed_activities() -> None:
    engine = memory_engine(FeedsConfig(pull_followers_min=0))
    ids = [
        engine.post(DEMO, AUTHOR, draft(time_us=NOW_US - second)).result().activity.id
        for second in range(10)
    ]
    engine.follow(DEMO, TIMELINE, AUTHOR).result()
    engine.unfollow(DEMO, TIMELINE, AUTHOR, keep_history=True).result()
    for removed in ids[2:8]:
        assert engine.remove(DEMO, removed).result().removed
    page = engine.read(DEMO, TIMELINE, 3)
    assert [ids[0], ids[1], ids[8]] == [row.activity_id for row in page.rows]
    assert [ids[9]] == [r.activity_id for r in engine.read(DEMO, TIMELINE, 3, page.next).rows]
    assert not engine.remove(DEMO, ids[2]).result().removed


@pytest.mark.parametrize("threshold", [0, 1, 10**9], ids=["pulled", "turning", "pushed"])
def test_kept_history_is_the_same_pages_and_gets_nothing_new(threshold: int) -> None:
    engine = memory_engine(FeedsConfig(pull_followers_min=threshold))
    posted = []
    for number in range(7):
        if number == 3:
            engine.follow(DEMO, TIMELINE, AUTHOR, copy_limit=1).result()
        if number == 5:
            engine.follow(DEMO, FeedId("timeline", "cid"), AUTHOR).result()
        new = draft(object=f"v{number}", time_us=NOW_US + number)
        posted.append(engine.post(DEMO, AUTHOR, new).result().activity.id)
    late = engine.post(DEMO, AUTHOR, draft(object="late", time_us=NOW_US - 9)).result().activity.id

    def page(cursor: str | None = None) -> list[tuple[str, str | None]]:
        rows = engine.read(DEMO, TIMELINE, 100, cursor).rows
        return [(row.activity_id, str(row.origin)) for row in rows]

    before, rest = page(), page(posted[4])
    assert [(activity, "user:ann") for activity in [*posted[:1:-1], late]] == before
    engine.unfollow(DEMO, TIMELINE, AUTHOR, keep_history=True).result()
    engine.post(DEMO, AUTHOR, draft(object="after", time_us=NOW_US + 9)).result()
    assert (before, rest) == (page(), page(posted[4]))
    engine.remove(DEMO, posted[6]).result()
    assert before[1:] == page()
    engine.follow(DEMO, TIMELINE, AUTHOR, copy_limit=0).result()
    engine.unfollow(DEMO, TIMELINE, AUTHOR).result()
    assert [] == page()


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_page_behind_very_many_removed_activities_is_short_and_says_where_to_go_on(
    limit: int,
) -> None:
    engine = memory_engine(FeedsConfig(page_scan_max=4, follows_max=3, pull_followers_min=1))
    other, topic = FeedId("timeline", "cid"), FeedId("topic", "t")
    for target in (AUTHOR, topic):
        engine.follow(DEMO, TIMELINE, target).result()
    posted = [
        engine.post(
            DEMO,
            AUTHOR,
            draft(object=f"v{number}", time_us=NOW_US + number, to=("topic:t",) * (number % 2)),
        )
        .result()
        .activity.id
        for number in range(40)
    ]
    for target in (AUTHOR, topic):  # merged from now on: what was pushed stays when it is removed
        engine.follow(DEMO, other, target).result()
    kept = posted[:2] + posted[20:22]
    for activity in set(posted) - set(kept):
        engine.remove(DEMO, activity).result()
    shown: list[ActivityId] = []
    cursor, pages, short = None, 0, 0
    while pages < 100:
        page = engine.read(DEMO, TIMELINE, limit, cursor)
        shown += [row.activity_id for row in page.rows]
        short += page.next is not None and len(page.rows) < limit
        pages, cursor = pages + 1, page.next
        if cursor is None:
            break
    assert kept[::-1] == shown
    assert short > 0


def test_same_key_answers_as_the_first_time_and_other_content_is_a_conflict() -> None:
    clock = ManualClock()
    engine = memory_engine(clock=clock)
    first = engine.post(DEMO, AUTHOR, draft(custom={"a": 1, "b": 2}), key="k").result()
    clock.advance(60)
    again = engine.post(DEMO, AUTHOR, draft(custom={"b": 2, "a": 1}), key="k").result()
    assert dataclasses.replace(first, duplicate=True) == again
    assert 1 == len(engine.read(DEMO, AUTHOR).rows)
    with pytest.raises(Conflict, match="idempotency key 'k' was used with other content"):
        engine.post(DEMO, AUTHOR, draft(object="v2"), key="k").result()
    clock.advance(86_400)
    assert not engine.post(DEMO, AUTHOR, draft(object="v2"), key="k").result().duplicate


def test_same_key_records_once(engine: FeedEngine) -> None:
    activity = engine.post(DEMO, AUTHOR, draft()).result().activity.id
    first = engine.record(DEMO, [like(activity)], key="k").result()
    again = engine.record(DEMO, [like(activity)], key="k").result()
    assert (1, False, True) == (first.recorded, first.duplicate, again.duplicate)
    assert first.index == again.index
    assert {2: 1} == engine.recent(DEMO, 1)[0][2].totals


def test_events_of_unknown_activities_are_named_and_left_out(engine: FeedEngine) -> None:
    activity = engine.post(DEMO, AUTHOR, draft()).result().activity.id
    result = engine.record(DEMO, [like(UNKNOWN), like(activity), like(UNKNOWN)]).result()
    assert (1, (UNKNOWN,)) == (result.recorded, result.unknown)


def test_every_command_leaves_its_facts_in_log_order(engine: FeedEngine) -> None:
    heard: list[tuple[TenantId, int, Event]] = []
    engine.subscribe(lambda t, index, events: heard.extend((t, index, e) for e in events))
    activity = engine.post(DEMO, AUTHOR, draft()).result().activity.id
    engine.follow(DEMO, TIMELINE, AUTHOR, derived=True).result()
    shown = Impression(time_us=NOW_US, user=UserId("bob"), activity_id=activity, position=0)
    engine.record(DEMO, [shown, like(activity)]).result()
    engine.unfollow(DEMO, TIMELINE, AUTHOR).result()
    engine.remove(DEMO, activity).result()
    logged = engine.events(DEMO, 0, 100)
    kinds = [type(event) for _, _, event in logged]
    assert [Posted, Followed, Impression, Engagement, Unfollowed, Removed] == kinds
    assert [(2, 0), (3, 0), (4, 0), (4, 1), (5, 0), (6, 0)] == [(i, o) for i, o, _ in logged]
    assert [(DEMO, index, event) for index, _, event in logged] == heard


def test_events_of_one_command_are_not_parted(engine: FeedEngine) -> None:
    activity = engine.post(DEMO, AUTHOR, draft()).result().activity.id
    engine.record(DEMO, [like(activity)] * 5).result()
    engine.record(DEMO, [like(activity)] * 5).result()
    assert 6 == len(engine.events(DEMO, 0, 2))
    assert 5 == len(engine.events(DEMO, 3, 2))
    assert [] == engine.events(DEMO, 4, 2)


def test_listener_that_raises_stops_nothing(engine: FeedEngine) -> None:
    def listener(*_: object) -> None:
        raise ValueError("a fault of the listener's")

    engine.subscribe(listener)
    engine.post(DEMO, AUTHOR, draft()).result()
    assert 1 == len(engine.read(DEMO, AUTHOR).rows)


def test_tenant_never_sees_anothers(engine: FeedEngine) -> None:
    other = TenantId("demo2")
    engine.create_tenant(other).result()
    engine.follow(DEMO, TIMELINE, AUTHOR).result()
    activity = engine.post(DEMO, AUTHOR, draft()).result().activity
    engine.record(DEMO, [like(activity.id)]).result()
    position = position_of(activity.id)
    assert [] == engine.read(other, TIMELINE).rows
    assert [] == engine.rows(other, AUTHOR, 10)
    assert [None] == engine.bodies(other, [position])
    assert [None] == engine.activities(other, [position])
    assert [] == engine.recent(other, 10)
    assert [] == engine.events(other, 0, 10)
    assert {} == engine.follows(other, TIMELINE)
    assert [] == engine.followers(other, AUTHOR, 10)
    assert {} == engine.counters(other, "author", ["user:ann"])[0].totals
    assert 0 == engine.user_record(other, UserId("bob")).engagements
    assert not engine.remove(other, activity.id).result().removed
    assert (activity.id,) == engine.record(other, [like(activity.id)]).result().unknown
    assert [DEMO, other] == engine.tenants()


def test_followers_come_by_name_page_by_page(engine: FeedEngine) -> None:
    names = [FeedId("timeline", name) for name in ("a", "aa", "b", "c")]
    for name in reversed(names):
        engine.follow(DEMO, name, AUTHOR).result()
    assert names[:2] == engine.followers(DEMO, AUTHOR, 2)
    assert names[2:] == engine.followers(DEMO, AUTHOR, 9, cursor=names[1])


def test_api_key_is_found_by_its_id_and_only_its_secret_verifies(engine: FeedEngine) -> None:
    engine.add_key(DEMO, "abc123", hash_secret("0123456789abcdef"), ["read"]).result()
    found = engine.key("abc123")
    assert ApiKey(DEMO, "abc123", hash_secret("0123456789abcdef"), ("read",), NOW_US) == found
    written = parse_api_key(format_api_key("abc123", "0123456789abcdef"))
    assert ("abc123", "0123456789abcdef") == written
    assert verify(found, "0123456789abcdef")
    assert not verify(found, "0123456789abcdee")
    assert not verify(None, "0123456789abcdef")
    assert engine.key("absent") is None
    assert [found] == engine.keys(DEMO)
    with pytest.raises(Conflict, match="key id 'abc123' is taken"):
        engine.add_key(DEMO, "abc123", hash_secret("another secret")).result()
    assert b"0123456789abcdef" not in repr(state(engine)).encode()


BAD: dict[str, tuple[type[FeedsError], str, Callable[[FeedEngine], Any]]] = {
    "unknown group": (
        UnknownFeedGroup,
        "feed group 'wall' is not configured: use one of flat, timeline, topic, user",
        lambda e: e.post(DEMO, FeedId("wall", "ann"), draft()),
    ),
    "unknown group in to": (
        UnknownFeedGroup,
        "feed group 'wall' is not configured",
        lambda e: e.post(DEMO, AUTHOR, draft(to=("wall:x",))),
    ),
    "unknown group in a read": (
        UnknownFeedGroup,
        "feed group 'wall'",
        lambda e: e.read(DEMO, FeedId("wall", "ann")),
    ),
    "feed id": (
        InvalidInput,
        "is not a feed id: write group:id",
        lambda e: e.post(DEMO, FeedId("user", "a\0b"), draft()),
    ),
    "cursor": (
        InvalidCursor,
        "'nonsense' is not an activity id: take it from an earlier reply",
        lambda e: e.read(DEMO, AUTHOR, cursor="nonsense"),
    ),
    "page size": (
        LimitExceeded,
        "limit is 101, page_size_max is 100: ask for 1 to 100",
        lambda e: e.read(DEMO, AUTHOR, 101),
    ),
    "page size 0": (LimitExceeded, "ask for 1 to 100", lambda e: e.read(DEMO, AUTHOR, 0)),
    "tenant": (
        NotFound,
        "tenant 'nobody' does not exist: create it",
        lambda e: e.post(TenantId("nobody"), AUTHOR, draft()),
    ),
    "tenant in a read": (
        NotFound,
        "tenant 'nobody' does not exist",
        lambda e: e.rows(TenantId("nobody"), AUTHOR, 1),
    ),
    "tenant's name": (
        InvalidInput,
        "is not a tenant id",
        lambda e: e.create_tenant("No Body"),
    ),
    "10,000 events": (
        LimitExceeded,
        "10000 events in one batch, events_batch_max is 1000: send fewer",
        lambda e: e.record(DEMO, [like(UNKNOWN)] * 10_000),
    ),
    "NaN": (
        InvalidInput,
        "event 1: value nan is out of range",
        lambda e: e.record(DEMO, [like(UNKNOWN), like(UNKNOWN, value=float("nan"))]),
    ),
    "1e308": (
        InvalidInput,
        "event 0: value 1e+308 is out of range: send a number within ±1e+09",
        lambda e: e.record(DEMO, [like(UNKNOWN, value=1e308)]),
    ),
    "value is text": (
        InvalidInput,
        "value is not a number",
        lambda e: e.record(DEMO, [like(UNKNOWN, value="1")]),
    ),
    "NaN in custom fields": (
        InvalidInput,
        "custom fields hold NaN or an infinite number",
        lambda e: e.post(DEMO, AUTHOR, draft(custom={"a": [{"b": float("nan")}]})),
    ),
    "a number above 64 bits": (
        InvalidInput,
        "custom fields cannot be written as JSON",
        lambda e: e.post(DEMO, AUTHOR, draft(custom={"a": 2**64})),
    ),
    "year 9999": (
        InvalidTime,
        "lies outside 1970-01-01 to 2199-12-31",
        lambda e: e.post(DEMO, AUTHOR, draft(time_us=253_370_764_800_000_000)),
    ),
    "year 9999 of an event": (
        InvalidTime,
        "event 0: time 253370764800000000 us lies outside",
        lambda e: e.record(DEMO, [like(UNKNOWN, time_us=253_370_764_800_000_000)]),
    ),
    "no time of an event": (
        InvalidTime,
        "event 0: time is not a whole number",
        lambda e: e.record(DEMO, [like(UNKNOWN, time_us=None)]),
    ),
    "before 1970": (
        InvalidTime,
        "lies outside",
        lambda e: e.follow(DEMO, TIMELINE, AUTHOR, time_us=-1),
    ),
    "two days ahead": (
        InvalidTime,
        "time is 172800 s in the future, future_time_max_s is 86400",
        lambda e: e.post(DEMO, AUTHOR, draft(time_us=NOW_US + 172_800_000_000)),
    ),
    "following itself": (
        InvalidInput,
        "user:ann cannot follow itself",
        lambda e: e.follow(DEMO, AUTHOR, AUTHOR),
    ),
    "following a timeline": (
        InvalidInput,
        "timeline:bob cannot be followed",
        lambda e: e.follow(DEMO, AUTHOR, TIMELINE),
    ),
    "copy limit": (
        LimitExceeded,
        "copy_limit is 1001, copy_limit_max is 1000: send less",
        lambda e: e.follow(DEMO, TIMELINE, AUTHOR, copy_limit=1_001),
    ),
    "surrogate in actor": (
        InvalidInput,
        "actor is not valid Unicode: send UTF-8",
        lambda e: e.post(DEMO, AUTHOR, draft(actor="\ud800")),
    ),
    "surrogate in custom fields": (
        InvalidInput,
        "custom fields cannot be written as JSON",
        lambda e: e.post(DEMO, AUTHOR, draft(custom={"title": "\ud800"})),
    ),
    "surrogate in tags": (
        InvalidInput,
        "custom fields cannot be written as JSON",
        lambda e: e.post(DEMO, AUTHOR, draft(foreign_id="f", custom={"tags": ["\ud800"]})),
    ),
    "surrogate in a key": (
        InvalidInput,
        "idempotency key is not valid Unicode",
        lambda e: e.post(DEMO, AUTHOR, draft(), key="\ud800"),
    ),
    "surrogate in a slate id": (
        InvalidInput,
        "event 0: slate_id is not valid Unicode",
        lambda e: e.record(DEMO, [like(UNKNOWN, slate_id="\ud800")]),
    ),
    "surrogate in a counter's name": (
        InvalidInput,
        "not valid Unicode",
        lambda e: e.counters(DEMO, "tag", ["\ud800"]),
    ),
    "oversize": (
        LimitExceeded,
        "activity_bytes_max is 65536: send less",
        lambda e: e.post(DEMO, AUTHOR, draft(custom={"text": "x" * 70_000})),
    ),
    "long text": (
        LimitExceeded,
        "object takes 2000 bytes, text_bytes_max is 1024: shorten it",
        lambda e: e.post(DEMO, AUTHOR, draft(object="x" * 2_000)),
    ),
    "no object": (
        InvalidInput,
        "object is empty",
        lambda e: e.post(DEMO, AUTHOR, draft(object="")),
    ),
    "too many in to": (
        LimitExceeded,
        "101 feeds in `to`, to_max is 100",
        lambda e: e.post(DEMO, AUTHOR, draft(to=tuple(f"topic:t{n}" for n in range(101)))),
    ),
    "to is a text": (
        InvalidInput,
        "to must be a list of feeds",
        lambda e: e.post(DEMO, AUTHOR, draft(to="topic:news")),
    ),
    "user id": (
        InvalidInput,
        "event 0: user 'a b' is not a user id",
        lambda e: e.record(DEMO, [like(UNKNOWN, user="a b")]),
    ),
    "activity id of an event": (
        InvalidInput,
        "event 0: 'x' is not an activity id",
        lambda e: e.record(DEMO, [like(ActivityId("x"))]),
    ),
    "kind": (
        InvalidInput,
        "event 0: kind 'love' is not known: use one of click, like",
        lambda e: e.record(DEMO, [like(UNKNOWN, kind="love")]),
    ),
    "activity id": (
        InvalidInput,
        "is not an activity id",
        lambda e: e.remove(DEMO, "x"),
    ),
    "recent": (
        LimitExceeded,
        "limit is 1000001, recent_max is 1000000",
        lambda e: e.recent(DEMO, 1_000_001),
    ),
    "events": (
        LimitExceeded,
        "limit is 50001, events_max is 50000",
        lambda e: e.events(DEMO, 0, 50_001),
    ),
    "custom field of our name that is not JSON": (
        InvalidInput,
        "custom fields cannot be written as JSON",
        lambda e: e.post(DEMO, AUTHOR, draft(foreign_id="f", custom={"id": {1}}), key="k"),
    ),
    "empty key": (
        InvalidInput,
        "the idempotency key is empty",
        lambda e: e.follow(DEMO, TIMELINE, AUTHOR, key=""),
    ),
    "scope": (
        InvalidInput,
        "scope 'root' is not known: use read or write",
        lambda e: e.add_key(DEMO, "abc123", bytes(32), ["root"]),
    ),
    "hash": (
        InvalidInput,
        "secret_sha256 is not 32 bytes",
        lambda e: e.add_key(DEMO, "abc123", b"secret"),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_sentence_and_changes_nothing(
    name: str, engine: FeedEngine
) -> None:
    kind, sentence, call = BAD[name]
    before = state(engine)
    with pytest.raises(kind, match=re.escape(sentence)) as caught:
        call(engine)
    assert before == state(engine)
    assert kind is type(caught.value)
    str(caught.value).encode()


def test_configuration_with_mistakes_names_them_all() -> None:
    config = FeedsConfig(page_size_max=0, copy_limit_default=2_000, groups=())
    with pytest.raises(InvalidInput, match=r"page_size_max is 0.*copy_limit_default.*groups"):
        FeedEngine.embedded(MemoryStore(), MemoryReplica, config)


def test_command_of_a_newer_release_stops_the_replica_and_is_not_passed_over() -> None:
    replicas: list[MemoryReplica] = []

    def factory(apply: ApplyCommand, index: int) -> MemoryReplica:
        replicas.append(MemoryReplica(apply, index))
        return replicas[0]

    engine = FeedEngine.embedded(MemoryStore(), factory, clock=ManualClock())
    error = replicas[0].propose(b"\xffnewer").exception()
    assert isinstance(error, ReplicaStopped)
    assert "command of version 255" in str(error)
    assert 0 == engine.applied_index()


def test_clearing_that_met_a_full_disk_goes_on_once_there_is_room() -> None:
    replicas: list[FullReplica] = []

    def factory(apply: ApplyCommand, index: int) -> FullReplica:
        replicas.append(FullReplica(apply, index))
        return replicas[0]

    engine = FeedEngine.embedded(
        MemoryStore(), factory, FeedsConfig(unfollow_rows_max=1), clock=ManualClock()
    )
    engine.create_tenant(DEMO).result()
    engine.follow(DEMO, TIMELINE, AUTHOR).result()
    for number in range(3):
        engine.post(DEMO, AUTHOR, draft(object=f"v{number}")).result()
    replicas[0].room = 1
    engine.unfollow(DEMO, TIMELINE, AUTHOR).result()
    with pytest.raises(StorageFull):
        engine.post(DEMO, AUTHOR, draft()).result()
    assert 2 == len(engine.rows(DEMO, TIMELINE, 10))
    replicas[0].room = 1_000
    engine.create_tenant(DEMO).result()
    assert [] == engine.rows(DEMO, TIMELINE, 10)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"unfollow_scan_max": 0}, "unfollow_scan_max is 0: it must be at least 1"),
        ({"group_commit_ops_max": 0}, "group_commit_ops_max is 0"),
        ({"proposals_max": 0}, "proposals_max is 0"),
        ({"rows_max": 100}, "page_size_max is not below rows_max"),
        ({"page_scan_max": 10_000}, "page_scan_max is not above follows_max"),
        ({"disk_reserve_bytes": -1}, "disk_reserve_bytes is -1: it must not be negative"),
    ],
)
def test_configuration_with_which_something_would_never_end_is_refused(
    changes: dict[str, int], sentence: str
) -> None:
    assert [sentence] == [problem[: len(sentence)] for problem in FeedsConfig(**changes).problems()]


def test_limits_are_exact(engine: FeedEngine) -> None:
    engine.post(DEMO, AUTHOR, draft(to=tuple(f"topic:t{n}" for n in range(100)))).result()
    engine.post(DEMO, AUTHOR, draft(object="x" * 1_024)).result()
    engine.post(DEMO, AUTHOR, draft(time_us=NOW_US + 86_400_000_000)).result()
    engine.record(DEMO, [like(UNKNOWN, value=-1e9)] * 1_000).result()
    assert 3 == len(engine.read(DEMO, AUTHOR, 100).rows)
    with pytest.raises(InvalidTime):
        engine.post(DEMO, AUTHOR, draft(time_us=NOW_US + 86_400_000_001))
    with pytest.raises(LimitExceeded, match="1001 events in one batch"):
        engine.record(DEMO, [like(UNKNOWN)] * 1_001)


class FullReplica(MemoryReplica):
    """Has room for so many commands, as a disk that fills up."""

    room = 1_000

    def propose(self, command: bytes) -> "Future[Applied]":
        self.room -= 1
        if self.room >= 0:
            return super().propose(command)
        refused: Future[Applied] = Future()
        refused.set_exception(StorageFull("the disk is full: free space and retry"))
        return refused


class CrowdedReplica(MemoryReplica):
    """Refuses some proposals, as a replica does in which too many wait."""

    crowded = 0

    def propose(self, command: bytes) -> "Future[Applied]":
        if self.crowded:
            self.crowded -= 1
            raise Overloaded("too many writes wait: retry after a moment")
        return super().propose(command)


def test_clearing_that_met_a_crowd_goes_on_with_the_next_write() -> None:
    replicas: list[CrowdedReplica] = []

    def factory(apply: ApplyCommand, index: int) -> CrowdedReplica:
        replicas.append(CrowdedReplica(apply, index))
        return replicas[0]

    engine = FeedEngine.embedded(
        MemoryStore(), factory, FeedsConfig(unfollow_rows_max=1), clock=ManualClock()
    )
    engine.create_tenant(DEMO).result()
    engine.follow(DEMO, TIMELINE, AUTHOR).result()
    for number in range(3):
        engine.post(DEMO, AUTHOR, draft(object=f"v{number}")).result()
    original = replicas[0].propose

    def crowd_behind(command: bytes) -> "Future[Applied]":
        future = original(command)
        replicas[0].crowded = 1  # as often as the engine tries before the next write
        replicas[0].propose = original  # type: ignore[method-assign]
        return future

    replicas[0].propose = crowd_behind  # type: ignore[method-assign]
    engine.unfollow(DEMO, TIMELINE, AUTHOR).result()
    assert 2 == len(engine.rows(DEMO, TIMELINE, 10))
    engine.create_tenant(DEMO).result()
    assert [] == engine.rows(DEMO, TIMELINE, 10)


def _machine(engine: FeedEngine) -> StateMachine:
    assert isinstance(engine._changes, StateMachine)
    return engine._changes


def test_clearing_of_more_follows_than_are_worked_on_at_once_comes_to_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox, "IN_FLIGHT_MAX", 2)
    store, clock = MemoryStore(), ManualClock()
    engine = memory_engine(FeedsConfig(unfollow_rows_max=1), clock, store=store)
    readers = [FeedId("timeline", f"r{number}") for number in range(7)]
    for reader in readers:
        engine.follow(DEMO, reader, AUTHOR).result()
    for number in range(3):
        engine.post(DEMO, AUTHOR, draft(object=f"v{number}")).result()
    _machine(engine).lead(leads=False)
    for reader in readers:
        engine.unfollow(DEMO, reader, AUTHOR).result()
    again = FeedEngine.embedded(store, MemoryReplica, clock=clock)
    again.create_tenant(DEMO).result()
    assert [[]] * 7 == [again.rows(DEMO, reader, 10) for reader in readers]


def test_clearing_that_was_cut_off_goes_on_when_the_engine_is_opened() -> None:
    store = MemoryStore()
    clock = ManualClock()
    engine = memory_engine(FeedsConfig(unfollow_rows_max=1), clock, store=store)
    engine.follow(DEMO, TIMELINE, AUTHOR).result()
    for number in range(3):
        engine.post(DEMO, AUTHOR, draft(object=f"v{number}")).result()
    _machine(engine).lead(leads=False)
    assert engine.unfollow(DEMO, TIMELINE, AUTHOR).result().unfinished
    assert 2 == len(engine.rows(DEMO, TIMELINE, 10))
    again = FeedEngine.embedded(store, MemoryReplica, clock=clock)
    assert [] == again.rows(DEMO, TIMELINE, 10)
