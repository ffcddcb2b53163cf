import math
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.counters import DAY_US, HOUR_US
from feeds.events import APART_KINDS, ENGAGEMENT_KINDS, EngagementKind, Event, Posted, Removed
from ranking.candidates import Query
from ranking.errors import InvalidFeatureSpec, UnknownFeature
from ranking.features import (
    COUNTS,
    FEATURES,
    FeatureMatrix,
    FeatureParameters,
    FeatureSpec,
    build,
)
from ranking.table import ActivityTable
from ranking.testing import (
    T0_US,
    Recorded,
    all_candidates,
    engaged,
    follows,
    posted,
    query,
    shown,
    table_of,
)

SPEC = FeatureSpec()
NOW_US = T0_US + 3 * DAY_US + 5 * HOUR_US
ANN = posted("ann", T0_US, actor="user:ann", to=["topic:qubit"], tags=["gate", "noise"])
BOB = posted("bob", T0_US + DAY_US, actor="bob", feed="user:bob", length=250)

Step = tuple[int, str, str, EngagementKind, int]


class KnownFactors:
    """Factors that know every candidate: the dot product is its place, the bias its tag count."""

    def dot(
        self, user: str, positions: list[bytes], tags: npt.NDArray[np.int32], tag_names: list[str]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        assert user == "me"
        assert tags.shape == (len(positions), 8)
        assert all(tag_names[tag] for tag in tags[tags >= 0].tolist())
        places = np.arange(len(positions), dtype=np.float32)
        return places, (tags >= 0).sum(axis=1).astype(np.float32)


def features_of(events: list[Event], asked: Query, activity: Posted) -> dict[str, float]:
    """The features of one activity, by name."""
    table = table_of(events)
    candidates = all_candidates(table)
    place = table.ids(candidates.rows).index(activity.activity_id)
    matrix = build(SPEC, asked, candidates, table)
    return dict(zip(matrix.names, matrix.values[place].tolist(), strict=True))


def activities() -> list[Posted]:
    return [
        posted(
            f"a{number}",
            T0_US + number * HOUR_US,
            actor=f"user:{'abc'[number % 3]}",
            to=[f"topic:{number % 2}"],
            tags=[f"tag{place}" for place in range(number)],
            length=number * 100,
        )
        for number in range(6)
    ]


def events_of(steps: list[Step]) -> list[Event]:
    posts = activities()
    events: list[Event] = list(posts)
    for number, what, user, kind, offset in steps:
        activity, time_us = posts[number], T0_US + offset
        if what == "show":
            events.append(shown(activity, user, time_us))
        elif what == "engage":
            events.append(engaged(activity, user, time_us, kind))
        else:
            events.append(Removed(time_us=time_us, activity_id=activity.activity_id))
    return events


def steps_of(*what: str) -> st.SearchStrategy[list[Step]]:
    return st.lists(
        st.tuples(
            st.integers(0, 5),
            st.sampled_from(what),
            st.sampled_from(["me", "a", "b", "c", "d"]),
            st.sampled_from(ENGAGEMENT_KINDS),
            st.integers(0, 50 * DAY_US),
        ),
        max_size=50,
    )


def matrix_of(table: ActivityTable, events: list[Event], recorded: Recorded) -> FeatureMatrix:
    now_us = max((event.time_us for event in events), default=T0_US)
    asked = query(
        now_us, record=recorded.users.get("me"), follows=follows("user:a", "user:b", "topic:1")
    )
    return build(SPEC, asked, all_candidates(table), table, KnownFactors())


@given(steps_of("show", "engage", "engage", "remove"))
@settings(max_examples=80)
def test_features_of_events_and_of_stored_records_are_equal_bit_for_bit(steps: list[Step]) -> None:
    events = events_of(steps)
    recorded = Recorded.of(events)
    fed = matrix_of(table_of(events), events, recorded)
    loaded = matrix_of(recorded.load(ActivityTable(1000)), events, recorded)
    assert fed.values.tobytes() == loaded.values.tobytes()


@given(steps_of("show", "engage"), st.randoms(use_true_random=False))
@settings(max_examples=80)
def test_features_do_not_depend_on_the_order_of_impressions_and_engagements(
    steps: list[Step], random: Random
) -> None:
    events = events_of(steps)
    posts, rest = events[:6], events[6:]
    random.shuffle(rest)
    first = matrix_of(table_of(events), events, Recorded.of(events))
    second = matrix_of(table_of(posts + rest), events, Recorded.of(posts + rest))
    assert first.values.tobytes() == second.values.tobytes()


@given(steps_of("show", "engage"), st.permutations(range(6)), st.integers(1, 6))
@settings(max_examples=40)
def test_a_row_does_not_depend_on_the_rows_beside_it(
    steps: list[Step], order: list[int], count: int
) -> None:
    events = events_of(steps)
    table, record = table_of(events), Recorded.of(events).users.get("me")
    asked = query(T0_US + 60 * DAY_US, record=record, follows=follows("user:a", "topic:1"))
    candidates, places = all_candidates(table), np.array(order[:count])
    whole = build(SPEC, asked, candidates, table)
    part = build(SPEC, asked, candidates.take(places), table)
    assert whole.take(places).values.tobytes() == part.values.tobytes()


@given(st.sets(st.sampled_from(sorted(FEATURES)), min_size=1))
def test_a_feature_is_the_same_whichever_others_are_named(names: set[str]) -> None:
    events = [ANN, BOB, shown(ANN, "me", NOW_US), engaged(ANN, "me", NOW_US)]
    table, record = table_of(events), Recorded.of(events).users["me"]
    asked = query(NOW_US, record=record, follows=follows("user:ann"))
    whole = build(SPEC, asked, all_candidates(table), table)
    part = build(FeatureSpec(tuple(names)), asked, all_candidates(table), table)
    for name in names:
        np.testing.assert_array_equal(whole.column(name), part.column(name))


def test_the_matrix_is_float32_in_rows_and_as_the_spec_says() -> None:
    table = table_of(activities())
    matrix = build(SPEC, query(NOW_US), all_candidates(table), table)
    assert matrix.names == SPEC.names
    assert matrix.values.dtype == np.float32
    assert matrix.values.flags.c_contiguous
    assert matrix.values.shape == (6, len(SPEC.names))
    assert len(matrix) == 6


def test_no_candidates_give_an_empty_matrix() -> None:
    table = ActivityTable(10)
    matrix = build(SPEC, query(NOW_US), all_candidates(table), table, KnownFactors())
    assert matrix.values.shape == (0, len(SPEC.names))


def test_what_is_not_known_is_missing_and_what_was_not_done_is_zero() -> None:
    values = features_of([BOB], query(NOW_US), BOB)
    missing = {name for name, value in values.items() if math.isnan(value)}
    assert missing == {
        "hours_since_engagement",
        "tag_engagements_7d",
        "tag_engagement_rate",
        "user_author_share",
        "user_author_hours",
        "user_tag_share",
        "user_tag_rate",
        "user_tag_hours",
        "tag_overlap",
        "follow_age_h",
        "factor_dot",
        "factor_bias",
    }
    zero = {name for name, value in values.items() if value == 0}
    assert {"engagements_total", "engagements_1h", "follows_author", "user_impressions"} <= zero


def test_recency_is_in_hours() -> None:
    values = features_of([ANN, engaged(ANN, "x", T0_US + DAY_US)], query(NOW_US), ANN)
    assert values["age_h"] == 77
    assert values["hours_since_engagement"] == 53
    assert values["hours_since_active"] == 53


def test_an_activity_from_the_future_has_age_zero() -> None:
    assert features_of([BOB], query(T0_US), BOB)["age_h"] == 0


def test_popularity_counts_and_decays() -> None:
    noon_us = T0_US + DAY_US // 2
    events: list[Event] = [
        ANN,
        shown(ANN, "x", noon_us),
        shown(ANN, "y", noon_us),
        engaged(ANN, "x", noon_us, "like"),
        engaged(ANN, "x", noon_us, "comment"),
        engaged(ANN, "y", noon_us, "hide"),
    ]
    values = features_of(events, query(noon_us + DAY_US), ANN)
    assert values["engagements_total"] == 2
    assert values["engagements_1d"] == 1
    assert values["engagements_last_24h"] == 0
    assert values["engagements_7d"] == pytest.approx(2 * 2 ** (-1 / 7))
    assert values["likes_7d"] == values["comments_7d"] == pytest.approx(2 ** (-1 / 7))
    assert values["bookmarks_7d"] == 0
    assert values["hides_total"] == 1
    assert values["impressions_total"] == 2
    assert values["engagement_rate"] == pytest.approx((20 * 0.05 + 2) / (20 + 2))
    assert values["author_engagements_7d"] == values["engagements_7d"]
    assert values["author_engagement_rate"] == values["engagement_rate"]
    assert values["tag_engagements_7d"] == values["engagements_7d"]
    assert values["tag_engagement_rate"] == pytest.approx((20 * 0.05 + 4) / (20 + 4))


def test_the_last_24_hours_are_counted_by_the_hour() -> None:
    events: list[Event] = [ANN, engaged(ANN, "x", NOW_US - 23 * HOUR_US)]
    assert features_of(events, query(NOW_US), ANN)["engagements_last_24h"] == 1
    assert features_of(events, query(NOW_US + HOUR_US), ANN)["engagements_last_24h"] == 0


def test_affinity_is_the_users_own_history() -> None:
    other = posted("other", actor="user:ann", tags=["noise"])
    events: list[Event] = [
        ANN,
        BOB,
        other,
        shown(ANN, "me", T0_US),
        shown(ANN, "me", T0_US),
        engaged(other, "me", T0_US + DAY_US),
        engaged(BOB, "me", T0_US + DAY_US),
    ]
    values = features_of(
        events, query(T0_US + 2 * DAY_US, record=Recorded.of(events).users["me"]), ANN
    )
    assert values["user_author_engagements"] == 1
    assert values["user_author_share"] == 0.5
    assert values["user_author_rate"] == pytest.approx((20 * 0.05 + 1) / (20 + 2))
    assert values["user_author_hours"] == 24
    assert values["user_tag_engagements"] == 1
    assert values["user_tag_share"] == 0.5
    assert values["user_tag_rate"] == pytest.approx((20 * 0.05 + 1) / (20 + 4))
    assert values["user_tag_hours"] == 24
    assert values["tag_overlap"] == 0.5
    assert values["user_impressions"] == 2
    assert values["user_engagements"] == 2


@pytest.mark.parametrize("actor", ["ann", "user:ann", "SU:ann"])
def test_an_author_is_followed_however_the_app_writes_actors(actor: str) -> None:
    activity = posted("a", actor=actor, feed="flat:x")
    followed = query(T0_US + DAY_US, follows=follows("user:ann", "topic:other"))
    values = features_of([activity], followed, activity)
    assert values["follows_author"] == 1
    assert values["feeds_followed"] == 0
    assert values["follow_age_h"] == 24


def test_followed_feeds_are_counted() -> None:
    asked = query(NOW_US, follows=follows("topic:qubit", "user:ann", "topic:other"))
    assert features_of([ANN], asked, ANN)["feeds_followed"] == 2


def test_followees_who_engaged_are_social_proof() -> None:
    events: list[Event] = [
        ANN,
        *(engaged(ANN, user, T0_US) for user in ("bob", "cid", "dan", "bob")),
        engaged(ANN, "eve", T0_US, "hide"),
    ]
    asked = query(NOW_US, follows=follows("user:bob", "user:dan", "user:eve", "topic:cid"))
    assert features_of(events, asked, ANN)["followees_engaged"] == 2


def test_content_and_context() -> None:
    values = features_of([ANN, BOB], query(NOW_US), ANN)
    assert values["tag_count"] == 2
    assert values["feed_count"] == 2
    assert values["length_bytes"] == 100
    assert values["hour_utc"] == 5
    assert values["weekday"] == 3
    assert values["position"] == 0


def test_training_gives_the_place_of_the_impression() -> None:
    table = table_of([ANN, BOB])
    matrix = build(
        FeatureSpec(("position",)),
        query(NOW_US),
        all_candidates(table),
        table,
        shown_at=np.array([3, -1]),
    )
    assert matrix.values[0, 0] == 3
    assert np.isnan(matrix.values[1, 0])


def test_factors_are_asked_once_for_all_candidates() -> None:
    table = table_of([ANN, BOB])
    spec = FeatureSpec(("factor_dot", "factor_bias"))
    matrix = build(spec, query(NOW_US), all_candidates(table), table, KnownFactors())
    assert matrix.values.tolist() == [[0, 0], [1, 2]]


def test_every_feature_says_what_it_is() -> None:
    for name, feature in FEATURES.items():
        assert feature.name == name
        assert feature.unit
        assert feature.description.endswith(".")


def test_a_spec_comes_back_from_json_and_keeps_its_fingerprint() -> None:
    spec = FeatureSpec(("age_h", "likes_7d"), parameters=FeatureParameters(rate_prior=0.1))
    again = FeatureSpec.from_json(spec.to_json())
    assert again == spec
    assert again.fingerprint == spec.fingerprint
    assert len(spec.fingerprint) == 64


@pytest.mark.parametrize(
    "other",
    [
        FeatureSpec(("likes_7d", "age_h")),
        FeatureSpec(("age_h",)),
        FeatureSpec(("age_h", "likes_7d"), parameters=FeatureParameters(rate_weight=21)),
    ],
)
def test_another_spec_has_another_fingerprint(other: FeatureSpec) -> None:
    assert other.fingerprint != FeatureSpec(("age_h", "likes_7d")).fingerprint


def test_an_unknown_feature_suggests_the_near_ones() -> None:
    with pytest.raises(UnknownFeature, match="'age_hours': did you mean age_h"):
        FeatureSpec(("age_hours",))
    with pytest.raises(UnknownFeature, match="lists them all"):
        FeatureSpec(("zzzzzzzzzz",))
    with pytest.raises(UnknownFeature, match="add it to the feature spec"):
        FeatureMatrix(("age_h",), np.zeros((1, 1), np.float32)).column("likes_7d")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"names": []}', "names no feature"),
        (b'{"names": ["age_h", "age_h"]}', "age_h more than once"),
        (b'{"names": ["age_h"], "version": 99}', "train the model again"),
        (b'{"names": ["age_h"], "parameters": {"rate_prior": 2}}', "rate_prior is 2"),
        (b'{"names": ["age_h"], "parameters": {"rate_weight": 0}}', "rate_weight is 0"),
        (b'{"names": ["age_h"], "parameters": {"rate_weight": 1e999}}', "not a feature spec"),
        (b'{"names": ["agee_h"]}', "did you mean age_h"),
        (b'{"names": "age_h"}', "not a feature spec"),
        (b'{"name": ["age_h"]}', "not a feature spec"),
        (b"\xff", "not a feature spec"),
    ],
)
def test_a_spec_that_cannot_be_used_is_refused_with_what_to_change(
    text: bytes, problem: str
) -> None:
    with pytest.raises(InvalidFeatureSpec, match=problem):
        FeatureSpec.from_json(text)


def test_a_prior_that_is_no_number_is_refused() -> None:
    with pytest.raises(InvalidFeatureSpec, match="rate_prior is nan"):
        FeatureSpec(parameters=FeatureParameters(rate_prior=math.nan))
    with pytest.raises(InvalidFeatureSpec, match="rate_weight is inf"):
        FeatureSpec(parameters=FeatureParameters(rate_weight=math.inf))


def test_counts_of_each_kind_add_up_to_all_engagements() -> None:
    kinds: list[EngagementKind] = [kind for kind in ENGAGEMENT_KINDS if kind != "hide"]
    engaging = [kind not in APART_KINDS for kind in kinds]
    events: list[Event] = [ANN]
    for times, kind in enumerate(kinds, start=1):
        events += [engaged(ANN, "bob", T0_US + times, kind)] * times
    spec = FeatureSpec((*COUNTS, "engagements_total"))
    applied, loaded = table_of(events), Recorded.of(events).load(ActivityTable(1000))
    for table in (applied, loaded):
        values = build(spec, query(NOW_US), all_candidates(table), table)
        expected = [float(kinds.index(name.removesuffix("s_total")) + 1) for name in COUNTS]
        assert values.values[0].tolist() == [*expected, float(np.dot(expected, engaging))]


def test_default_spec_leaves_counts_out() -> None:
    assert not set(SPEC.names) & set(COUNTS)
