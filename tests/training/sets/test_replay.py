"""The replay asks what was known then; a second state that saw only the past must agree."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from feeds.events import Engagement, Event, Followed, Posted, Removed
from feeds.model import ActivityDraft, ActivityId, TenantId, UserId, identify
from ranking.features import FEATURES, FeatureSpec
from training.config import RequestConfig
from training.events.log import EventLog
from training.sets.dataset import TrainingSet, collect
from training.sets.replay import Answerable, ReplayState, replay
from training.sets.requests import find_requests
from training.steps import FEATURE_NAMES
from training.testing import community, events_of, log_of

SECOND = 1_000_000
SPEC = FeatureSpec(FEATURE_NAMES)
CONFIG = RequestConfig()


def posted(second: int, name: str, actor: str = "user:ann") -> Posted:
    draft = ActivityDraft(actor=actor, verb="post", object=name, foreign_id=name)
    return Posted(
        time_us=second * SECOND,
        activity_id=identify(draft, second * SECOND),
        actor=actor,
        verb="post",
        object=name,
        feed=actor,
        tags=("t",),
    )


def like(second: int, user: str, what: Posted) -> Engagement:
    return Engagement(
        time_us=second * SECOND, user=UserId(user), activity_id=what.activity_id, kind="like"
    )


def follow(second: int, user: str, target: str) -> Followed:
    return Followed(time_us=second * SECOND, follower=f"timeline:{user}", target=target, since_us=0)


def answers(events: list[Event], config: RequestConfig = CONFIG) -> list[Answerable]:
    log = log_of(events)
    return list(replay(log, find_requests(log.events, config), SPEC, config))


def candidates(answer: Answerable, events: list[Event]) -> list[str]:
    names = dict(enumerate(events, start=1))
    found = [names[index] for index in answer.activities.tolist()]
    return [event.object for event in found if isinstance(event, Posted)]


def test_candidates_are_what_is_followed_then_newest_first() -> None:
    one, two, late = posted(10, "one"), posted(20, "two"), posted(40, "late")
    events: list[Event] = [one, two, follow(25, "bob", "user:ann"), like(30, "bob", one), late]
    (answer,) = answers(events)
    assert candidates(answer, events) == ["two", "one"]
    assert answer.labels.tolist() == [0, 1]


def test_what_is_posted_at_the_very_moment_of_the_touch_is_not_known() -> None:
    one, same = posted(10, "one"), posted(30, "same")
    events: list[Event] = [one, follow(25, "bob", "user:ann"), same, like(30, "bob", same)]
    (answer,) = answers(events)
    assert candidates(answer, events) == ["one"]
    assert not answer.labels.any()


def test_own_removed_and_engaged_activities_are_no_candidates() -> None:
    one, two, gone = posted(10, "one"), posted(11, "two"), posted(12, "gone")
    own = posted(13, "own", actor="user:bob")
    events: list[Event] = [one, two, gone, own, follow(20, "bob", "user:ann")]
    events += [Removed(time_us=21 * SECOND, activity_id=gone.activity_id), like(30, "bob", one)]
    events += [follow(31, "bob", "user:bob"), like(9_000, "bob", two)]
    assert [candidates(answer, events) for answer in answers(events)] == [["two", "one"], ["two"]]


def explored(events: list[Event]) -> list[Answerable]:
    log = log_of(events)
    requests = [replace(request, kind="explore") for request in find_requests(log.events, CONFIG)]
    return list(replay(log, requests, SPEC, CONFIG))


def test_explore_wants_and_proposes_what_is_not_followed() -> None:
    followed, outside = posted(10, "followed"), posted(11, "outside", actor="user:zoe")
    other = posted(12, "other", actor="user:dan")
    events: list[Event] = [followed, outside, other, follow(20, "bob", "user:ann")]
    events += [like(30, "bob", followed), like(31, "bob", outside)]
    (answer,) = explored(events)
    assert candidates(answer, events) == ["other", "outside"]
    assert answer.labels.tolist() == [0, 1]
    assert list(answer.request.labels) == [outside.activity_id]


def test_who_touched_only_what_was_followed_did_not_read_explore() -> None:
    one, soon = posted(10, "one"), posted(32, "soon")
    events: list[Event] = [one, follow(20, "bob", "user:ann"), like(30, "bob", one), soon]
    events.append(like(33, "bob", soon))
    assert explored(events) == []


def test_explore_goes_by_the_follows_of_then() -> None:
    one, two = posted(10, "one"), posted(11, "two")
    topic = msgspec.structs.replace(posted(12, "topic", actor="user:zoe"), to=("topic:t",))
    events: list[Event] = [one, two, topic, like(20, "bob", one), follow(21, "bob", "user:ann")]
    events += [follow(22, "bob", "topic:t"), like(9_000, "bob", two), like(9_001, "bob", topic)]
    (answer,) = explored(events)
    assert list(answer.request.labels) == [one.activity_id]


def test_explore_wants_what_came_later_from_outside_and_cannot_reach_it() -> None:
    one, soon = posted(10, "one", actor="user:zoe"), posted(32, "soon", actor="user:dan")
    events: list[Event] = [one, like(30, "bob", one), soon, like(33, "bob", soon)]
    data = collect(explored(events), FEATURE_NAMES)
    assert (data.wanted.tolist(), data.relevant.tolist()) == ([2], [1])


def test_features_are_as_of_the_request() -> None:
    one = posted(0, "one")
    events: list[Event] = [one, follow(5, "bob", "user:ann"), like(3_600, "eve", one)]
    events += [like(7_200, "bob", one), like(9_000, "dan", one)]
    answer = next(a for a in answers(events) if a.request.user == "bob")
    matrix = answer.features
    assert matrix.column("age_h")[0] == pytest.approx(2.0, abs=1e-6)
    assert matrix.column("hours_since_engagement")[0] == pytest.approx(1.0, abs=1e-6)
    assert matrix.column("engagements_total")[0] == 1
    assert matrix.column("follows_author")[0] == 1


@pytest.fixture(scope="module")
def log() -> EventLog:
    return log_of(events_of(community(seed=1, users=16, days=12)))


def test_what_comes_later_changes_no_earlier_answer(log: EventLog) -> None:
    whole = answers(log.events)
    cut = len(log) // 2
    for early, late in zip(answers(log.events[:cut]), whole, strict=False):
        if early.request.labels == late.request.labels:
            np.testing.assert_array_equal(early.features.values, late.features.values)
            np.testing.assert_array_equal(early.labels, late.labels)


def test_skipping_requests_changes_no_answer(log: EventLog) -> None:
    requests = find_requests(log.events, CONFIG)
    every_third = list(replay(log, requests[::3], SPEC, CONFIG))
    whole = list(replay(log, requests, SPEC, CONFIG))[::3]
    for one, other in zip(every_third, whole, strict=True):
        np.testing.assert_array_equal(one.features.values, other.features.values)


def test_explore_requests_beside_them_change_no_answer(log: EventLog) -> None:
    requests = find_requests(log.events, CONFIG)
    both = [each for r in requests for each in (replace(r, kind="explore"), r)]
    found = list(replay(log, both, SPEC, CONFIG))
    personalized = [answer for answer in found if answer.request.kind == "personalized"]
    for one, other in zip(personalized, replay(log, requests, SPEC, CONFIG), strict=True):
        np.testing.assert_array_equal(one.features.values, other.features.values)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_what_explore_reaches_is_wanted_and_by_no_followed_author(log: EventLog) -> None:
    found = explored(log.events)
    follows_author = list(SPEC.names).index("follows_author")
    assert found
    for answer in found:
        assert not (answer.features.values[:, follows_author] > 0).any()
        assert 0 < (answer.labels > 0).sum() <= len(answer.request.labels)


def test_a_set_counts_what_could_not_be_reached() -> None:
    one, never = posted(10, "one"), posted(11, "never", actor="user:zoe")
    events: list[Event] = [one, never, follow(20, "bob", "user:ann"), like(30, "bob", one)]
    events.append(like(31, "bob", never))
    data = collect(answers(events), FEATURE_NAMES)
    assert (data.wanted.tolist(), data.relevant.tolist(), data.reach) == ([2], [1], 0.5)


@pytest.fixture(scope="module")
def data(log: EventLog) -> TrainingSet:
    return collect(answers(log.events), FEATURE_NAMES)


def test_a_set_is_read_back_as_it_was_written(data: TrainingSet, tmp_path: Path) -> None:
    path = tmp_path / "ranker.npz"
    again = TrainingSet.load(data.save(path))
    assert again.fingerprint == data.fingerprint
    assert again.users == data.users


def test_a_frame_has_a_row_a_candidate(data: TrainingSet) -> None:
    frame = data.to_frame()
    assert len(frame) == len(data.labels) == data.sizes.sum()
    assert list(frame.columns[:5]) == ["request", "user", "time", "activity", "label"]
    assert set(frame.columns[5:]) == set(FEATURES) - {"position"}


def test_a_teaching_set_has_something_to_compare_in_every_request(log: EventLog) -> None:
    teaching = collect(answers(log.events), FEATURE_NAMES, teaching=True)
    assert (teaching.relevant > 0).all()
    assert (teaching.relevant < teaching.sizes).all()


def test_the_fingerprint_changes_with_a_label(data: TrainingSet) -> None:
    labels = data.labels.copy()
    labels[0] = 1 - labels[0]
    other = TrainingSet(
        data.names,
        data.values,
        labels,
        data.activities,
        data.sizes,
        data.wanted,
        data.times_us,
        data.users,
    )
    assert other.fingerprint != data.fingerprint


def test_an_unknown_activity_is_touched_without_harm() -> None:
    ghost = posted(5, "ghost")
    one = posted(10, "one")
    events: list[Event] = [one, follow(20, "bob", "user:ann"), like(30, "bob", ghost)]
    (answer,) = answers(events)
    assert candidates(answer, events) == ["one"]
    assert ActivityId(ghost.activity_id) in answer.request.labels


def test_names_are_counted_alike_whatever_left_the_table() -> None:
    activities = [posted(second, f"note:{second}") for second in range(1, 6)]
    events: list[Event] = [*activities, *(like(10, "bob", activity) for activity in activities)]
    counts = []
    for rows in (2, 100):
        state = ReplayState(TenantId("demo"), rows)
        for index, event in enumerate(events, start=1):
            state.apply(index, event)
        table = state.table
        author, tag = table.names.authors.get("user:ann"), table.names.tags.get("t")
        totals = (table.author_counts.totals[author], table.tag_counts.totals[tag])
        counts.append([total.tolist() for total in totals])
    small, large = counts
    assert small == large
    assert 5 in large[0]
