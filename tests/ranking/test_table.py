import gc
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.counters import DAY_US, HOUR_US
from feeds.events import ENGAGEMENT_KINDS, EngagementKind, Event, Followed, Removed
from feeds.model import position_of
from ranking.buckets import ENGAGEMENT
from ranking.interning import Interner
from ranking.table import ActivityTable
from ranking.testing import T0_US, Recorded, engaged, posted, shown, table_of


def names_of(interner: Interner, numbers: Iterable[int]) -> list[str]:
    return [interner.names[number] for number in numbers if number >= 0]


def content(table: ActivityTable) -> dict[str, tuple[object, ...]]:
    """Everything the table holds, by name instead of number."""
    held = {}
    for row in table.alive_rows().tolist():
        held[table._ids[row]] = (
            int(table.time_us[row]),
            int(table.index[row]),
            table.names.authors.names[table.author[row]],
            table.names.users.names[table.author_user[row]],
            names_of(table.names.tags, table.tags[row].tolist()),
            names_of(table.names.feeds, table.feeds[row].tolist()),
            names_of(table.names.users, table.engagers[row].tolist()),
            int(table.length[row]),
            int(table.object[row]),
            table.counts.totals[row].tolist(),
            table.author_counts.totals[table.author[row]].tolist(),
        )
    return held


def test_a_posted_activity_is_a_row_with_its_names() -> None:
    activity = posted(
        "a", actor="user:ann", feed="user:ann", to=["topic:qubit"], tags=["gate", "noise", "gate"]
    )
    table = table_of([activity])
    (row,) = table.rows([position_of(activity.activity_id)]).tolist()

    assert table.time_us[row] == T0_US
    assert table.index[row] == 1
    assert table.length[row] == 100
    assert table.names.authors.names[table.author[row]] == "user:ann"
    assert table.names.users.names[table.author_user[row]] == "ann"
    assert names_of(table.names.tags, table.tags[row]) == ["gate", "noise"]
    assert names_of(table.names.feeds, table.feeds[row]) == ["user:ann", "topic:qubit"]
    assert table.ids(table.alive_rows()) == [activity.activity_id]
    assert table.position(row) == position_of(activity.activity_id)
    assert table.positions(table.alive_rows()) == [position_of(activity.activity_id)]


def test_an_activity_that_is_not_there_has_row_minus_one() -> None:
    table = table_of([posted("a")])
    assert table.rows([position_of(posted("b").activity_id)]).tolist() == [-1]
    assert table.rows([]).tolist() == []


def test_posting_again_adds_the_feeds_that_are_new_and_keeps_the_place() -> None:
    table = table_of([posted("a", feed="topic:x"), posted("a", feed="topic:y")])
    assert len(table) == 1
    assert table.index[0] == 1
    assert names_of(table.names.feeds, table.feeds[0]) == ["topic:x", "topic:y"]


def test_events_count_for_the_activity_its_author_and_its_tags() -> None:
    first = posted("a", tags=["gate"])
    second = posted("b", tags=["gate", "noise"])
    later = T0_US + HOUR_US
    table = table_of(
        [first, second, shown(first, "me", later), engaged(second, "me", later, "comment")]
    )
    gate, noise = table.names.tags.numbers(["gate", "noise"]).tolist()

    assert table.counts.totals[:2, ENGAGEMENT].tolist() == [0, 1]
    assert table.author_counts.totals[table.author[0]].tolist() == [1, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert table.tag_counts.totals[gate].tolist() == [1, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert table.tag_counts.totals[noise].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 1]


def test_engagers_are_the_latest_sixteen_distinct_users_without_those_who_hid() -> None:
    activity = posted("a")
    users = [f"u{number}" for number in range(17)]
    events = [engaged(activity, user, T0_US) for user in users]
    table = table_of(
        [activity, *events, engaged(activity, "u5", T0_US), engaged(activity, "x", T0_US, "hide")]
    )
    expected = [user for user in users[1:] if user != "u5"] + ["u5"]
    assert names_of(table.names.users, table.engagers[0]) == expected
    assert table.names.users.get("u0") == -1


def test_a_removed_activity_leaves_and_its_later_events_move_nothing() -> None:
    activity = posted("a", tags=["gate"])
    removed = Removed(time_us=T0_US, activity_id=activity.activity_id)
    table = table_of(
        [activity, engaged(activity, "me", T0_US), removed, engaged(activity, "me", T0_US)]
    )
    assert len(table) == 0
    assert table.alive_rows().tolist() == []
    assert table.tag_counts.totals[table.names.tags.get("gate"), ENGAGEMENT] == 1


def test_a_row_that_is_used_again_starts_from_nothing() -> None:
    activity = posted("a", tags=["gate"], to=["topic:x"])
    removed = Removed(time_us=T0_US, activity_id=activity.activity_id)
    other = posted("b", actor="user:bob")
    table = table_of([activity, engaged(activity, "me", T0_US), removed, other])

    assert table.alive_rows().tolist() == [0]
    assert not table.counts.totals[0].any()
    assert names_of(table.names.feeds, table.feeds[0]) == ["user:bob"]
    assert names_of(table.names.tags, table.tags[0]) == []
    assert names_of(table.names.users, table.engagers[0]) == []


def test_the_oldest_by_log_index_leaves_a_full_table() -> None:
    activities = [posted(f"a{number}", T0_US - number) for number in range(5)]
    table = table_of(activities, capacity=3)
    assert set(table.ids(table.alive_rows())) == {each.activity_id for each in activities[2:]}
    assert table.rows([position_of(activities[0].activity_id)]).tolist() == [-1]


def test_an_activity_posted_again_after_its_removal_is_not_the_oldest() -> None:
    first, second, third = (posted(name) for name in "abc")
    removed = Removed(time_us=T0_US, activity_id=first.activity_id)
    table = table_of([first, second, removed, first, third], capacity=2)
    assert set(table.ids(table.alive_rows())) == {first.activity_id, third.activity_id}


def test_follows_are_not_the_tables() -> None:
    table = table_of(
        [Followed(time_us=T0_US, follower="timeline:me", target="user:ann", since_us=0)]
    )
    assert len(table) == 0


def test_a_table_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="needs room"):
        ActivityTable(0)


def test_names_are_bounded_by_what_is_alive() -> None:
    table = ActivityTable(10)
    for number in range(500):
        activity = posted(
            f"a{number}",
            T0_US + number,
            actor=f"user:{number}",
            to=[f"topic:{number}"],
            tags=[f"tag-{number}-{place}" for place in range(8)],
        )
        table.apply(number, activity)
        table.apply(number, engaged(activity, f"reader-{number}", T0_US + number))
    assert len(table) == 10
    assert len(table.names.authors) == 20
    assert len(table.names.feeds) == 20
    assert len(table.names.users) == 20
    assert len(table.names.tags) == 20
    assert table.names.tags.size <= 20


def test_the_counts_of_an_author_survive_a_pause() -> None:
    first, last = posted("a"), posted("d")
    others = [posted(name, actor="user:bob") for name in "bc"]
    table = table_of([first, engaged(first, "me", T0_US), *others, last], capacity=2)
    (row,) = table.rows([position_of(last.activity_id)])
    assert table.author_counts.totals[table.author[row], ENGAGEMENT] == 1


Step = tuple[int, str, str, EngagementKind, int]

activity_events = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["post", "remove", "show", "engage", "engage"]),
        st.sampled_from(["ann", "bob", "cid"]),
        st.sampled_from(ENGAGEMENT_KINDS),
        st.integers(0, 40 * DAY_US),
    ),
    max_size=60,
)


def events_of(steps: list[Step]) -> Iterator[Event]:
    activities = [
        posted(
            f"a{number}",
            T0_US + number * HOUR_US,
            actor=f"user:{number % 3}",
            to=[f"topic:{number % 2}"],
            tags=[f"tag{place}" for place in range(number)],
        )
        for number in range(6)
    ]
    for number, what, user, kind, offset in steps:
        activity = activities[number]
        if what == "post":
            yield activity
        elif what == "remove":
            yield Removed(time_us=T0_US, activity_id=activity.activity_id)
        elif what == "show":
            yield shown(activity, user, T0_US + offset)
        else:
            yield engaged(activity, user, T0_US + offset, kind)


@given(activity_events)
@settings(max_examples=60)
def test_a_table_loaded_from_records_holds_what_one_fed_by_events_holds(
    steps: list[Step],
) -> None:
    events = list(events_of(steps))
    fed = table_of(events)
    loaded = Recorded.of(events).load(ActivityTable(1000))
    assert content(fed) == content(loaded)


@given(activity_events, st.integers(1, 4))
@settings(max_examples=60)
def test_loading_holds_the_newest_in_any_order(steps: list[Step], capacity: int) -> None:
    recorded = Recorded.of(events_of(steps))
    newest_first = recorded.load(ActivityTable(capacity))
    oldest_first = ActivityTable(capacity)
    for index, activity, record in sorted(recorded.activities.values(), key=lambda entry: entry[0]):
        oldest_first.load(index, activity, record)
    for author, record in recorded.authors.items():
        oldest_first.load_author(author, record)
    assert content(newest_first) == content(oldest_first)
    assert len(newest_first) == min(capacity, len(recorded.activities))


def test_memory_is_what_the_table_takes() -> None:
    tracemalloc.start()
    try:
        for count, room in ((0, 0.3), (100, 0.1), (1_000, 0.05)):
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            table = ActivityTable(2_000)
            for number in range(count):
                event = posted(
                    f"note-{number}",
                    actor=f"user:author-{number % 70}",
                    feed=f"user:author-{number % 70}",
                    tags=[f"tag-{number % 90}", "news"],
                )
                table.apply(number, event)
                table.apply(number, engaged(event, f"reader-{number % 200}", T0_US))
                del event
            gc.collect()
            taken = tracemalloc.get_traced_memory()[0] - before
            assert table.memory_bytes == pytest.approx(taken, rel=room)
            del table
    finally:
        tracemalloc.stop()


def test_names_that_are_forgotten_take_nothing() -> None:
    names = Interner(10)
    number = names.acquire("x" * 10_000)
    held = names.memory_bytes
    names.release(number)
    assert held - names.memory_bytes > 9_000
