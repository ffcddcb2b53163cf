"""The engine's surface: what each call does."""

import dataclasses

import orjson
import pytest

from feeds.config import FeedsConfig
from feeds.credentials import ApiKey, format_api_key, hash_secret, parse_api_key, verify
from feeds.engine import FeedEngine
from feeds.errors import Conflict, ReplicaStopped
from feeds.events import Engagement, Event, Followed, Impression, Posted, Removed, Unfollowed
from feeds.model import ActivityId, FeedId, TenantId, UserId, activity_id, position_of
from feeds.replication.base import ApplyCommand
from feeds.replication.memory import MemoryReplica
from feeds.store.memory import MemoryStore
from feeds.testing_engine import NOW_US, ManualClock, draft, like, memory_engine, stored

DEMO = TenantId("demo")
AUTHOR = FeedId("user", "ann")
TIMELINE = FeedId("timeline", "bob")
UNKNOWN = activity_id(NOW_US, b"unknown")


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
    before = stored(engine)["events"]
    changed = draft(foreign_id="f", time_us=NOW_US, custom={"tags": ["b"]})
    assert posted.index == engine.post(DEMO, AUTHOR, changed).result().index
    assert before == stored(engine)["events"]
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
    assert b"0123456789abcdef" not in repr(stored(engine)).encode()


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
