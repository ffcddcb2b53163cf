"""Replaying action logs: in order, all of it, and once however often it is replayed."""

import io
from collections.abc import Iterable

import pytest

from feeds import actions
from feeds.actions import Action, read_actions
from feeds.bench import workload
from feeds.engine import FeedEngine
from feeds.errors import InvalidInput, UnknownFeedGroup
from feeds.importer import BATCH_EVENTS_MAX, replay
from feeds.model import ActivityDraft, FeedId, TenantId, UserId, identify
from feeds.testing_engine import NOW_US, memory_engine

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


def test_bad_event_is_named_by_its_batch() -> None:
    with pytest.raises(InvalidInput, match=r"action 3: event 2: .* is not an activity id"):
        replay(memory_engine(), DEMO, LOG)


def test_progress_counts_to_the_end() -> None:
    seen: list[int] = []
    log = list(workload(1_200))
    replay(memory_engine(), DEMO, log, seen.append)
    assert [500, 1000, len(log)] == seen


def test_line_that_is_no_action_is_named() -> None:
    stream = io.BytesIO(b'{"type":"remove","time_us":1,"activity_id":"x"}\n\n{"type":"jump"}\n')
    with pytest.raises(InvalidInput, match=r"log\.jsonl:3: not an action: .*'jump'"):
        list(read_actions(stream, "log.jsonl"))


def test_line_that_is_not_utf_8_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"log\.jsonl:1: not an action"):
        list(read_actions(io.BytesIO(b'{"type":"remove","activity_id":"\xff"}\n'), "log.jsonl"))
