"""What the engine says to what cannot be right, and that nothing is changed by it."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.errors import (
    FeedsError,
    InvalidCursor,
    InvalidInput,
    InvalidTime,
    LimitExceeded,
    NotFound,
    UnknownFeedGroup,
)
from feeds.model import ActivityId, FeedId, TenantId, activity_id
from feeds.replication.memory import MemoryReplica
from feeds.store.memory import MemoryStore
from feeds.testing_engine import NOW_US, draft, like, memory_engine, stored

DEMO = TenantId("demo")
AUTHOR = FeedId("user", "ann")
TIMELINE = FeedId("timeline", "bob")
UNKNOWN = activity_id(NOW_US, b"unknown")


@pytest.fixture
def engine() -> FeedEngine:
    return memory_engine()


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
    before = stored(engine)
    with pytest.raises(kind, match=re.escape(sentence)) as caught:
        call(engine)
    assert before == stored(engine)
    assert kind is type(caught.value)
    str(caught.value).encode()


def test_configuration_with_mistakes_names_them_all() -> None:
    config = FeedsConfig(page_size_max=0, copy_limit_default=2_000, groups=())
    with pytest.raises(InvalidInput, match=r"page_size_max is 0.*copy_limit_default.*groups"):
        FeedEngine.embedded(MemoryStore(), MemoryReplica, config)


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
