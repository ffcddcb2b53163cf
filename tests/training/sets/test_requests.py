import msgspec
from hypothesis import given
from hypothesis import strategies as st

from feeds.events import Engagement, EngagementKind, Event, Impression
from feeds.model import ActivityId, UserId
from training.config import RequestConfig
from training.sets.requests import Request, find_requests, thin_out
from training.sets.splits import Split

SECOND = 1_000_000
KINDS: tuple[EngagementKind, ...] = ("click", "like", "hide")


def touch(second: int, user: str, activity: str, kind: EngagementKind = "like") -> Engagement:
    return Engagement(
        time_us=second * SECOND, user=UserId(user), activity_id=ActivityId(activity), kind=kind
    )


def told(request: Request) -> tuple[str, int, int, list[str]]:
    seconds = request.time_us // SECOND
    return (request.user, seconds, request.earlier_touches, list(request.labels))


def test_first_touches_of_an_hour_make_one_request() -> None:
    events: list[Event] = [
        touch(0, "ann", "a"),
        touch(5, "bob", "a"),
        touch(9, "ann", "a", "click"),  # touched before
        touch(3600, "ann", "b"),
        touch(3601, "ann", "c"),
    ]
    expected = [("ann", 0, 0, ["a", "b"]), ("bob", 5, 0, ["a"]), ("ann", 3601, 2, ["c"])]
    assert expected == [told(r) for r in find_requests(events, RequestConfig())]


def test_a_request_has_at_most_ten_touches() -> None:
    events: list[Event] = [touch(n, "ann", f"a{n}") for n in range(12)]
    assert [len(r.labels) for r in find_requests(events, RequestConfig())] == [10, 2]


def test_a_request_knows_nothing_of_its_own_moment() -> None:
    events: list[Event] = [
        touch(1, "ann", "a"),
        Impression(time_us=2 * SECOND, user=UserId("bob"), activity_id=ActivityId("b")),
        touch(2, "bob", "b"),
    ]
    request = find_requests(events, RequestConfig())[1]
    assert request.place == 1
    assert request.now_us == 2 * SECOND - 1


def shown(second: int, user: str, activity: str, slate: str = "") -> Impression:
    return Impression(
        time_us=second * SECOND,
        user=UserId(user),
        activity_id=ActivityId(activity),
        slate_id=slate,
    )


def test_a_request_stands_before_the_impressions_that_its_touch_came_from() -> None:
    events: list[Event] = [
        shown(1, "ann", "a", "old"),
        shown(10, "ann", "a", "s1"),
        shown(11, "ann", "b", "s1"),
        touch(12, "bob", "x"),
        msgspec.structs.replace(touch(20, "ann", "b"), slate_id="s1"),
        msgspec.structs.replace(touch(30, "ann", "a"), slate_id="s1"),
    ]
    requests = find_requests(events, RequestConfig())
    assert [told(r) for r in requests] == [("ann", 10, 0, ["b", "a"]), ("bob", 12, 0, ["x"])]
    assert [r.place for r in requests] == [1, 3]


def test_without_a_slates_id_a_view_begins_with_its_first_impression() -> None:
    events: list[Event] = [shown(0, "ann", "a"), shown(3_700, "ann", "b"), shown(3_710, "ann", "c")]
    events.append(touch(3_720, "ann", "c"))
    assert [(r.place, r.time_us // SECOND) for r in find_requests(events, RequestConfig())] == [
        (1, 3_700)
    ]


def test_what_was_shown_before_the_last_request_ended_begins_no_other() -> None:
    events: list[Event] = [shown(1, "ann", "a"), touch(2, "ann", "a"), touch(3, "ann", "b")]
    requests = find_requests(events, RequestConfig(touches_max=1))
    assert [(r.place, list(r.labels)) for r in requests] == [(0, ["a"]), (2, ["b"])]


def test_a_request_begins_in_the_part_of_its_touch() -> None:
    events: list[Event] = [shown(1, "ann", "a"), touch(3, "ann", "a")]
    (request,) = find_requests(events, RequestConfig(), boundaries=(2 * SECOND,))
    assert request.time_us == 3 * SECOND


def test_a_hide_is_neither_touch_nor_relevance() -> None:
    events: list[Event] = [touch(1, "ann", "a", "hide"), touch(2, "ann", "a")]
    assert [told(r) for r in find_requests(events, RequestConfig())] == [("ann", 2, 0, ["a"])]


def test_no_request_reaches_across_a_boundary() -> None:
    events: list[Event] = [touch(1, "ann", "a"), touch(2, "ann", "b"), touch(3, "ann", "c")]
    requests = find_requests(events, RequestConfig(), boundaries=(2 * SECOND,))
    assert [list(r.labels) for r in requests] == [["a"], ["b", "c"]]


def test_a_request_can_need_earlier_touches() -> None:
    events: list[Event] = [touch(5000 * n, "ann", f"a{n}") for n in range(4)]
    requests = find_requests(events, RequestConfig(earlier_touches_min=3))
    assert [list(r.labels) for r in requests] == [["a3"]]


def test_labels_are_graded_by_kind() -> None:
    config = RequestConfig(labels={"click": 1, "like": 3})
    events: list[Event] = [
        touch(1, "ann", "a", "click"),
        touch(2, "ann", "b"),
        touch(3, "ann", "a"),
    ]
    assert [dict(r.labels) for r in find_requests(events, config)] == [{"a": 1, "b": 3}]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9000),
            st.sampled_from("ab"),
            st.sampled_from("xyz"),
            st.sampled_from(KINDS),
        )
    )
)
def test_every_first_touch_is_in_exactly_one_request(
    touches: list[tuple[int, str, str, EngagementKind]],
) -> None:
    events: list[Event] = [touch(*one) for one in sorted(touches, key=lambda one: one[0])]
    found = [(r.user, a) for r in find_requests(events, RequestConfig()) for a in r.labels]
    wanted = {(user, activity) for _, user, activity, kind in touches if kind != "hide"}
    assert sorted(wanted) == sorted(found)


def test_thinning_keeps_order_and_limits_and_repeats() -> None:
    requests = [Request(UserId("ann"), second * SECOND, second, 0) for second in range(100)]
    split = Split(25 * SECOND, 50 * SECOND, 75 * SECOND)
    kept = thin_out(requests, split, {"ranker": 10, "test": 100}, seed=1)
    assert {name: len(part) for name, part in kept.items()} == {
        "factors": 0,
        "ranker": 10,
        "validation": 0,
        "test": 25,
    }
    assert sorted(r.place for r in kept["ranker"]) == [r.place for r in kept["ranker"]]
    assert kept == thin_out(requests, split, {"ranker": 10, "test": 100}, seed=1)
