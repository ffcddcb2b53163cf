"""A label says what was known of an impression when its windows closed, and never changes."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.counters import DAY_US
from feeds.events import ENGAGEMENT_KINDS, Engagement, Event, Impression
from feeds.model import UserId, activity_id
from training.config import LabelConfig
from training.events.columns import columns_of
from training.sets.labels import OPEN, LabelledImpressions, ahead_of_clock, label_impressions
from training.testing import log_of

T0_US = 1_600_000_000_000_000
SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
YEAR_US = 365 * DAY_US
NOW_US = T0_US + 30 * DAY_US
IDS = tuple(activity_id(T0_US - number, str(number).encode()) for number in range(4))
CONFIG = LabelConfig(windows_s=dict.fromkeys(ENGAGEMENT_KINDS, 3_600), grace_s=600)


def shown(
    at_s: float, user: str = "ann", activity: int = 0, slate: str = "", position: int = 0
) -> Impression:
    return Impression(
        time_us=T0_US + int(at_s * SECOND_US),
        user=UserId(user),
        activity_id=IDS[activity],
        slate_id=slate,
        position=position,
    )


def clicked(
    at_s: float, user: str = "ann", activity: int = 0, slate: str = "", kind: str = "click"
) -> Engagement:
    return Engagement(
        time_us=T0_US + int(at_s * SECOND_US),
        user=UserId(user),
        activity_id=IDS[activity],
        slate_id=slate,
        kind=kind,  # type: ignore[arg-type] - one of the kinds
    )


def later(hours: float = 10) -> Impression:
    """Somebody else is shown something much later: the windows before it are closed."""
    return shown(hours * 3_600, user="zoe", activity=3)


def labelled(
    events: Sequence[Event], config: LabelConfig = CONFIG, now_us: int = NOW_US
) -> LabelledImpressions:
    return label_impressions(columns_of(log_of(events)), config, now_us)


def clicks(events: Sequence[Event], config: LabelConfig = CONFIG) -> list[int]:
    """The click labels by the place of the impression."""
    found = labelled(events, config)
    return found.labels["click"][np.argsort(found.place)].tolist()


def test_a_click_within_the_window_is_one_and_none_is_zero() -> None:
    assert clicks([shown(0), shown(1, activity=1), clicked(60), later()]) == [1, 0]


def test_a_look_counts_from_so_many_seconds_on_and_a_report_as_it_is() -> None:
    def looked(at_s: float, seconds: float, activity: int = 0) -> Engagement:
        told = clicked(at_s, activity=activity, kind="dwell")
        return msgspec.structs.replace(told, value=seconds)

    events = [
        *(shown(place, activity=place) for place in range(3)),
        looked(10, 4.9),
        looked(11, 5.0),
        looked(12, 4.9, activity=1),
        clicked(13, activity=2, kind="report"),
        later(),
    ]
    found = labelled(events, replace(CONFIG, dwell_s_min=5))
    order = np.argsort(found.place)
    assert found.labels["dwell"][order].tolist() == [1, 0, 0]
    assert found.labels["report"][order].tolist() == [0, 0, 1]
    assert (found.counts["engagements"], found.counts["duplicate_engagements"]) == (2, 0)


def test_a_click_after_the_window_does_not_count() -> None:
    assert clicks([shown(0), clicked(3_601), later()]) == [0]


def test_what_is_not_over_is_left_out_and_counted() -> None:
    found = labelled([shown(0), clicked(60), shown(5 * 3_600, activity=1)])
    assert found.place.tolist() == [0]
    assert found.counts["open_windows"] == 1


def test_each_kind_has_its_own_window() -> None:
    config = replace(CONFIG, windows_s={**CONFIG.windows_s, "comment": 7 * 24 * 3_600})
    found = labelled([shown(0), clicked(60, kind="comment"), later()], config)
    assert found.labels["click"].tolist() == [0]
    assert found.labels["comment"].tolist() == [OPEN]
    assert found.counts["open_comment"] == 2


def test_news_that_comes_too_late_changes_no_label() -> None:
    events = [shown(0), shown(3_600 + 601, user="bob"), clicked(60), later()]
    assert clicks(events)[0] == 0
    assert labelled(events).counts["late_engagements"] == 1


def test_news_within_the_grace_counts() -> None:
    assert clicks([shown(0), shown(3_600 + 599, user="bob"), clicked(60), later()])[0] == 1


def test_repeats_count_once() -> None:
    one = shown(0, slate="s")
    click = clicked(9, slate="s")
    found = labelled([one, one, shown(5, slate="s"), click, click, later()])
    assert found.place.tolist() == [0]
    assert found.counts["duplicate_impressions"] == 2
    assert found.counts["duplicate_engagements"] == 1


def test_a_click_goes_to_the_slate_that_it_names() -> None:
    events = [shown(0, slate="a"), shown(10, slate="b"), clicked(20, slate="a"), later()]
    assert clicks(events) == [1, 0]


def test_a_click_without_a_slate_goes_to_the_last_impression_before_it() -> None:
    assert clicks([shown(0, slate="a"), shown(10, slate="b"), clicked(20), later()]) == [0, 1]


def test_a_click_that_came_before_its_impression_counts_if_it_names_the_slate() -> None:
    assert clicks([clicked(5, slate="a"), shown(0, slate="a"), later()]) == [1]


def test_a_click_without_an_impression_teaches_nothing_or_stands_for_one() -> None:
    events = [shown(0), clicked(30, activity=1), later()]
    assert clicks(events) == [0]
    assert labelled(events).counts["engagements_without_impression"] == 1
    found = labelled(events, replace(CONFIG, unshown="as_shown"))
    assert dict(zip(found.place.tolist(), found.labels["click"].tolist(), strict=True)) == {
        0: 0,
        1: 1,
    }


@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_clock_a_year_ahead_closes_no_window_and_makes_nothing_late(place: int) -> None:
    events: list[Event] = [shown(0), clicked(60), shown(120, activity=1), clicked(180, activity=1)]
    expected = clicks([*events, later()])
    wrong = replace_time(shown(0, user="eve", activity=2), T0_US + YEAR_US)
    assert clicks([*events[:place], wrong, *events[place:], later()]) == expected
    assert (
        labelled([*events[:place], wrong, *events[place:], later()]).counts["ahead_of_clock"] == 1
    )


def test_a_wrong_clock_at_the_end_opens_nothing() -> None:
    wrong = replace_time(shown(0, user="eve", activity=2), T0_US + YEAR_US)
    assert labelled([shown(0), wrong]).place.tolist() == []


def replace_time(event: Impression, time_us: int) -> Impression:
    return Impression(time_us=time_us, user=event.user, activity_id=event.activity_id)


def test_a_pause_begins_a_new_request() -> None:
    found = labelled([shown(0), shown(60, activity=1), shown(4_000, activity=2), later()])
    assert found.request.tolist() == [0, 0, 1]
    assert found.request_time_us.tolist() == [T0_US, T0_US + 4_000 * SECOND_US]


def test_a_slate_is_a_request_and_its_rows_lie_by_position() -> None:
    events = [
        shown(0, slate="a", position=1),
        shown(0, slate="b", user="bob"),
        shown(1, slate="a", position=0, activity=1),
        later(),
    ]
    found = labelled(events)
    assert [(r, p) for r, p in zip(found.request.tolist(), found.place.tolist(), strict=True)] == [
        (0, 2),
        (0, 0),
        (1, 1),
    ]


def test_a_request_knows_what_was_known_before_its_first_impression() -> None:
    found = labelled([clicked(0, activity=2), shown(10), shown(10, activity=1), later()])
    assert found.as_of.tolist() == [1]
    assert found.now_us.tolist() == [T0_US + 10 * SECOND_US - 1]


def test_an_impression_that_was_known_late_asks_as_of_when_it_happened() -> None:
    found = labelled([clicked(0), clicked(100, activity=1), clicked(500), shown(50), later()])
    assert found.as_of.tolist() == [1]


def test_nothing_shown_gives_no_rows() -> None:
    assert labelled([]).place.tolist() == []
    assert labelled([clicked(0)]).place.tolist() == []


def test_a_burst_of_late_events_is_not_a_wrong_clock() -> None:
    times = np.array([T0_US] * 60 + [T0_US - 3 * DAY_US] * 40 + [T0_US + 1] * 60)
    assert not ahead_of_clock(times, NOW_US, DAY_US).any()


moments = st.integers(0, 20_000)
impressions = st.builds(
    shown,
    moments,
    st.sampled_from(("ann", "bob")),
    st.integers(0, 2),
    st.sampled_from(("", "a", "b")),
)
engagements = st.builds(
    clicked,
    moments,
    st.sampled_from(("ann", "bob")),
    st.integers(0, 2),
    st.sampled_from(("", "a", "b")),
    st.sampled_from(ENGAGEMENT_KINDS),
)
logs = st.lists(impressions | engagements, max_size=30)


@given(events=logs, more=logs)
@settings(max_examples=150, deadline=None)
def test_a_label_that_is_there_is_never_another_later(
    events: list[Event], more: list[Event]
) -> None:
    early, late = labelled(events), labelled([*events, *more, later(100)])
    known_later = by_place(late)
    for place, known in by_place(early).items():
        for now, then in zip(known, known_later[place], strict=True):
            assert now in (OPEN, then)


def by_place(found: LabelledImpressions) -> dict[int, tuple[int, ...]]:
    labels = np.stack(list(found.labels.values()), axis=1).tolist()
    return dict(zip(found.place.tolist(), map(tuple, labels), strict=True))


@given(events=logs)
@settings(max_examples=100, deadline=None)
def test_no_impression_vanishes(events: list[Event]) -> None:
    found = labelled(events)
    counts = found.counts
    assert counts["impressions"] == (
        len(found.place) + counts["open_windows"] + counts["duplicate_impressions"]
    )
