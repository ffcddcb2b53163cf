"""Sorting, cumulating and searching gives the bits that taking every event one by one gives."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feeds.counters import DAY_US, HOUR_US
from feeds.events import (
    ENGAGEMENT_KINDS,
    Engagement,
    Event,
    Followed,
    Impression,
    Posted,
    Removed,
    Unfollowed,
)
from feeds.model import ActivityId, TenantId, UserId, activity_id, position_of
from ranking.candidates import Candidates
from ranking.features import COUNTS, FEATURES, FeatureSpec, build
from ranking.scorers.factorization import FactorTable
from training.asof.answers import features_as_of
from training.asof.case import Questions
from training.events.columns import columns_of
from training.events.log import EventLog
from training.sets.replay import ReplayState
from training.testing import log_of

SPEC = FeatureSpec((*FEATURES, *COUNTS))
START_US = 1_600_000_000_000_000
USERS = tuple(f"u{number}" for number in range(4))
AUTHORS = ("user:u0", "user:u1", "SU:zoe", "bob")
TAGS = ("a", "b", "c", "d", "e")
FEEDS = ("user:u0", "user:zoe", "topic:x", "topic:y")
IDS = tuple(activity_id(START_US + number, str(number).encode()) for number in range(7))

Asked = tuple[int, int, str, ActivityId]
"""(place, time, user, activity)"""

times = st.integers(-40 * 24, 45 * 24).map(lambda hours: START_US + hours * HOUR_US) | st.integers(
    START_US, START_US + DAY_US
)
users, ids = st.sampled_from(USERS).map(UserId), st.sampled_from(IDS)
posted = st.builds(
    Posted,
    time_us=times,
    activity_id=ids,
    actor=st.sampled_from(AUTHORS),
    verb=st.just("post"),
    object=st.just("note:1"),
    feed=st.sampled_from(FEEDS),
    to=st.lists(st.sampled_from(FEEDS), max_size=2).map(tuple),
    tags=st.lists(st.sampled_from(TAGS), max_size=3).map(tuple),
    length=st.integers(0, 5_000),
)
shown = st.builds(Impression, time_us=times, user=users, activity_id=ids)
engaged = st.builds(
    Engagement, time_us=times, user=users, activity_id=ids, kind=st.sampled_from(ENGAGEMENT_KINDS)
)
homes = st.sampled_from(USERS).map(lambda name: f"timeline:{name}")
followed = st.builds(
    Followed, time_us=times, follower=homes, target=st.sampled_from(FEEDS), since_us=times
)
unfollowed = st.builds(Unfollowed, time_us=times, follower=homes, target=st.sampled_from(FEEDS))
removed = st.builds(Removed, time_us=times, activity_id=ids)
events = st.lists(
    posted | shown | shown | engaged | engaged | followed | unfollowed | removed,
    min_size=1,
    max_size=40,
)
in_order = events.map(lambda found: sorted(found, key=lambda event: event.time_us))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Event], list[Asked]]:
    log = draw(events | in_order)
    asked = draw(
        st.lists(st.tuples(st.integers(0, len(log)), times, users, ids), min_size=1, max_size=12)
    )
    return log, sorted(asked, key=lambda each: each[:2])


def replayed(
    log: EventLog, asked: Sequence[Asked], table_rows: int, factors: FactorTable | None = None
) -> Iterator[bytes | None]:
    """The bits of each question's features by way of the reducers; None where it is not there."""
    state = ReplayState(TenantId(log.tenant), table_rows)
    taken = 0
    for place, now_us, user, activity in asked:
        for index, event in zip(log.indexes[taken:place], log.events[taken:place], strict=True):
            state.apply(index, event)
        taken = max(taken, place)
        rows = state.table.rows([position_of(activity)])
        if rows[0] < 0:
            yield None
            continue
        one = Candidates(rows, np.zeros(1, np.int8), ("asked",))
        query = state.query(UserId(user), now_us)
        yield build(SPEC, query, one, state.table, factors).values.tobytes()


def computed(
    log: EventLog, asked: Sequence[Asked], table_rows: int, factors: FactorTable | None = None
) -> list[bytes | None]:
    columns = columns_of(log)
    user_of = {name: number for number, name in enumerate(columns.users)}
    activity_of = {name: number for number, name in enumerate(columns.activities)}
    known = [row for row, each in enumerate(asked) if each[2] in user_of and each[3] in activity_of]
    questions = Questions(
        np.array([asked[row][0] for row in known], np.int64),
        np.array([asked[row][1] for row in known], np.int64),
        np.array([user_of[asked[row][2]] for row in known], np.int32),
        np.array([activity_of[asked[row][3]] for row in known], np.int32),
    )
    rows, features = features_as_of(columns, questions, SPEC, table_rows, factors)
    answers: list[bytes | None] = [None] * len(asked)
    for row, values in zip(rows.tolist(), features.values, strict=True):
        answers[known[row]] = values.tobytes()
    return answers


def differences(
    expected: Sequence[bytes | None], actual: Sequence[bytes | None], users: Sequence[bool]
) -> list[str]:
    """What differs, for reading; users that no event names are not asked for."""
    found = []
    for number, (ours, theirs) in enumerate(zip(expected, actual, strict=True)):
        if not users[number] or ours == theirs:
            continue
        if ours is None or theirs is None:
            found.append(f"question {number}: {ours is not None} replayed, {theirs is not None}")
            continue
        left, right = np.frombuffer(ours, np.float32), np.frombuffer(theirs, np.float32)
        found += [
            f"question {number} {SPEC.names[place]}: {left[place]}, {right[place]}"
            for place in np.flatnonzero(left.view(np.uint32) != right.view(np.uint32))
        ]
    return found


def compare(log: EventLog, asked: Sequence[Asked], table_rows: int) -> None:
    named = {event.user for event in log.events if isinstance(event, Impression | Engagement)}
    expected = list(replayed(log, asked, table_rows))
    actual = computed(log, asked, table_rows)
    assert differences(expected, actual, [each[2] in named for each in asked]) == []


@given(case=cases(), table_rows=st.sampled_from((1, 2, 3, 1_000)))
@settings(max_examples=150, deadline=None)
def test_every_bit_is_that_of_the_replay(
    case: tuple[list[Event], list[Asked]], table_rows: int
) -> None:
    log, asked = case
    compare(log_of(log), asked, table_rows)


@pytest.mark.parametrize("hours", [23, 24, 25])
def test_sight_of_one_activity_moves_the_clock_of_all_hours(hours: int) -> None:
    stays, seen = IDS[:2]
    fields = {"actor": "bob", "verb": "post", "object": "note:1", "feed": "user:u0"}
    log: list[Event] = [
        Posted(time_us=START_US, activity_id=each, to=(), tags=(), length=0, **fields)
        for each in (stays, seen)
    ]
    log += [
        Engagement(time_us=START_US, user=UserId("u0"), activity_id=stays, kind="click"),
        Impression(time_us=START_US + hours * HOUR_US, user=UserId("u0"), activity_id=seen),
    ]
    compare(log_of(log), [(4, START_US, "u0", stays)], 1_000)


@given(case=cases(), table_rows=st.sampled_from((2, 1_000)))
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_so_it_is_where_records_are_full_and_chunks_short(
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[list[Event], list[Asked]],
    table_rows: int,
) -> None:
    for name, most in (("AUTHORS_MAX", 2), ("TAGS_MAX", 2)):
        monkeypatch.setattr(f"feeds.counters.{name}", most)
        monkeypatch.setattr(f"training.asof.sides.{name}", most)
    monkeypatch.setattr("feeds.counters.RECENT_MAX", 2)
    monkeypatch.setattr("training.asof.records.RECENT_MAX", 2)
    monkeypatch.setattr("training.asof.sides._EVENTS", 3)
    monkeypatch.setattr("training.asof.sides._ROWS", 2)
    log, asked = case
    compare(log_of(log), asked, table_rows)
