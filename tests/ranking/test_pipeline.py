import itertools
import json
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.counters import DAY_US, HOUR_US, UserRecord
from feeds.model import position_of
from ranking.candidates import Feedback, FeedKind, Query
from ranking.config import RankingConfig
from ranking.config_options import SourcesOptions
from ranking.exploration import EpsilonExplorer, NoExplorer
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.filters import ENGAGED, HIDDEN, OwnFilter, RemovedFilter
from ranking.pipeline import build_filters, build_ranker, build_sources, describe
from ranking.scorers.recency import RecencyScorer
from ranking.selectors import AuthorSpread, TopKSelector
from ranking.slates import Slate
from ranking.sources import ActiveSource, FollowingSource, FreshSource, TrendingSource
from ranking.testing import (
    T0_US,
    all_candidates,
    engaged,
    follows,
    posted,
    query,
    shown,
    table_of,
)

DEFAULT = RankingConfig.default()
KINDS: tuple[FeedKind, ...] = get_args(FeedKind)


def components(config: RankingConfig, kind: FeedKind, stage: str) -> dict[str, dict[str, Any]]:
    stages = {each["name"]: each["components"] for each in describe(config, kind)["stages"]}
    return {each["name"]: each for each in stages[stage]}


def test_the_default_is_the_mix_of_the_first_release() -> None:
    assert build_sources(DEFAULT, "personalized") == (
        FollowingSource(400),
        TrendingSource(100),
        FreshSource(100, name="newest"),
    )
    assert build_sources(DEFAULT, "explore") == (
        ActiveSource(250, outside=True),
        TrendingSource(150, outside=True),
        FreshSource(100, outside=True),
    )
    for kind, explorer in (("personalized", NoExplorer()), ("explore", EpsilonExplorer(0.1))):
        ranker = build_ranker(DEFAULT, kind, RecencyScorer(), model_version="3")
        assert ranker.filters[:4] == (
            RemovedFilter(),
            OwnFilter(),
            HIDDEN,
            ENGAGED,
        )
        assert ranker.selector == TopKSelector(AuthorSpread(0.5, 0.25))
        assert ranker.explorer == explorer
        assert ranker.model_version == "3"


def test_what_is_off_is_not_built_and_what_is_removed_always_is() -> None:
    filters = {name: {"on": False} for name in DEFAULT.explore.filters.named()}
    adjustments = {"author_spread": {"on": False}, "show_less": {"on": False}}
    config = RankingConfig.parse({"explore": {"filters": filters, "adjustments": adjustments}})
    assert build_filters(config, "explore") == (RemovedFilter(),)
    assert build_ranker(config, "explore", RecencyScorer()).selector == TopKSelector(None)


@pytest.mark.parametrize("kind", KINDS)
def test_the_description_is_json_and_tells_the_limits(kind: FeedKind) -> None:
    told = json.loads(json.dumps(describe(DEFAULT, kind), allow_nan=False))
    assert told["kind"] == kind
    assert [stage["name"] for stage in told["stages"]] == [
        "sources",
        "filters",
        "score",
        "adjustments",
        "select",
        "explore",
        "post_filters",
    ]
    assert told["limits"]["candidates_max"] == 500
    assert all(
        {"name", "on"} <= set(each) for stage in told["stages"] for each in stage["components"]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_description_says_what_is_built(kind: FeedKind) -> None:
    sources = components(DEFAULT, kind, "sources")
    assert list(sources) == list(SourcesOptions.model_fields)
    built = {source.name: source.quota for source in build_sources(DEFAULT, kind)}
    assert built == {name: each["quota"] for name, each in sources.items() if each["on"]}
    on = [name for name, each in components(DEFAULT, kind, "filters").items() if each["on"]]
    assert on == [each.name for each in build_filters(DEFAULT, kind) if each.name != "show_less"]


PAGE = 10
POSTS = [
    posted(
        f"p{n}",
        T0_US - n * HOUR_US,
        actor=f"user:{'abcde'[n % 5]}",
        tags=[("gate", "noise", "qubit")[n % 3]],
    )
    for n in range(40)
]
SEEN = [shown(POSTS[n], "x", T0_US) for n in range(20)]


class ByHash:
    """Scores that have nothing to do with time."""

    name = "hash"
    spec = FeatureSpec(("age_h",))

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        scores: npt.NDArray[np.float32] = np.sin(features.values[:, 0] * 7).astype(np.float32)
        return scores


def ranked(document: dict[str, Any], asked: Query) -> Slate:
    config = RankingConfig.parse({"personalized": document})
    table = table_of([*POSTS, *SEEN])
    ranker = build_ranker(config, "personalized", ByHash())
    return ranker.rank(asked, all_candidates(table), table, explain=True)


def multipliers(slate: Slate) -> list[dict[str, float]]:
    assert slate.explanation is not None
    return [dict(each.multipliers) for each in slate.explanation.activities]


def test_pins_stand_in_their_place_and_say_so() -> None:
    pins = [
        {"id": POSTS[30].activity_id, "position": 0},
        {"id": POSTS[31].activity_id, "position": 4},
    ]
    chance = {"policy": "epsilon", "rate": 1.0}
    slate = ranked({"pins": pins, "exploration": chance}, query(T0_US, limit=PAGE))
    assert slate.ranked[0].activity_id == POSTS[30].activity_id
    assert slate.ranked[4].activity_id == POSTS[31].activity_id
    assert [slate.ranked[place].reason for place in (0, 4)] == ["picked for everyone"] * 2
    assert [slate.ranked[place].propensity for place in (0, 4)] == [1, 1]
    assert slate.explanation is not None
    assert [each.placed for each in slate.explanation.activities][:5] == ["pin", *[None] * 3, "pin"]


def test_a_pin_that_the_user_hid_is_not_shown() -> None:
    record = UserRecord.empty()
    hide = engaged(POSTS[30], "me", T0_US, "hide")
    record.add(hide, position_of(POSTS[30].activity_id), POSTS[30].actor, POSTS[30].tags)
    pins = [{"id": POSTS[30].activity_id, "position": 0}]
    slate = ranked({"pins": pins}, query(T0_US, limit=PAGE, record=record))
    assert POSTS[30].activity_id not in {each.activity_id for each in slate.ranked}


def test_caps_hold_in_the_slate() -> None:
    spread = {"author_spread": {"on": False}}
    slate = ranked(
        {"caps": {"page_size": 5, "per_author": 1, "in_row_tag": 1}, "adjustments": spread},
        query(T0_US, limit=PAGE),
    )
    by_id = {post.activity_id: post for post in POSTS}
    shown_posts = [by_id[each.activity_id] for each in slate.ranked]
    for page in (shown_posts[:5], shown_posts[5:]):
        assert len({post.actor for post in page}) == 5
    assert all(one.tags != other.tags for one, other in itertools.pairwise(shown_posts))


def test_every_multiplier_is_in_the_explanation() -> None:
    said = Feedback(less_tags={"gate": T0_US - 84 * DAY_US})
    outside = {"adjustments": {"out_of_network": {"on": True}}}
    asked = query(T0_US, limit=40, follows=follows("user:a"), feedback=said)
    slate = ranked(outside, asked)
    by_id = {post.activity_id: post for post in POSTS}
    assert len(slate.ranked) == 40
    for place, named in zip(slate.ranked, multipliers(slate), strict=True):
        post = by_id[place.activity_id]
        assert named["out_of_network"] == (1 if post.actor == "user:a" else 0.75)
        assert named["show_less"] == pytest.approx(0.6 if "gate" in post.tags else 1)
        assert 0.25 <= named["author_spread"] <= 1


def test_feedback_is_honoured_by_the_very_next_read() -> None:
    said = Feedback(muted_authors=["user:a"], muted_tags=["gate"], less_authors={"user:b": T0_US})
    slate = ranked({}, query(T0_US, limit=40, feedback=said))
    by_id = {post.activity_id: post for post in POSTS}
    shown_posts = [by_id[each.activity_id] for each in slate.ranked]
    assert {post.actor for post in shown_posts} == {"user:c", "user:d", "user:e"}
    assert {post.tags for post in shown_posts} == {("noise",), ("qubit",)}
    assert {each.filter for each in slate.removed} == {"muted_author", "muted_tag", "show_less"}


def test_of_duplicates_the_first_proposed_is_scored_or_the_best_ranked_is_shown() -> None:
    posts = [posted(f"p{n}", T0_US - n * HOUR_US, about=f"o{n % 5}") for n in range(20)]
    about = {post.activity_id: post.object for post in posts}
    table = table_of(posts)

    def shown_by(**part: Any) -> list[str]:
        document = {"adjustments": {"author_spread": {"on": False}}, **part}
        config = RankingConfig.parse({"personalized": document})
        ranker = build_ranker(config, "personalized", ByHash())
        slate = ranker.rank(query(T0_US, limit=20), all_candidates(table), table, explain=True)
        dropped = [each.activity_id for each in slate.removed]
        assert {each.filter for each in slate.removed} <= {"duplicate"}
        assert len(dropped) + len(slate.ranked) == 20
        return [each.activity_id for each in slate.ranked]

    on = {"duplicate": {"on": True}}
    best = {about[one]: one for one in reversed(shown_by())}
    assert set(shown_by(filters=on)) == {post.activity_id for post in posts[:5]}
    assert set(shown_by(post_filters=on)) == set(best.values())
    assert set(best.values()) != {post.activity_id for post in posts[:5]}


def test_what_a_filter_takes_from_the_slate_is_filled_up_and_told() -> None:
    old = {"post_filters": {"age": {"on": True, "days_max": 1}}}
    slate = ranked(old, query(T0_US, limit=PAGE))
    assert len(slate.ranked) == PAGE
    newest = {post.activity_id for post in POSTS[:25]}
    assert {each.activity_id for each in slate.ranked} <= newest
    assert {each.filter for each in slate.removed} == {"age"}


def feeds() -> st.SearchStrategy[dict[str, Any]]:
    """Configs of a feed that turn on whatever moves or removes candidates."""
    on = st.fixed_dictionaries({"on": st.booleans()})
    cap = st.none() | st.integers(1, 3)
    pins = st.lists(st.integers(0, 39), unique=True, max_size=4).map(
        lambda places: [
            {"id": POSTS[place].activity_id, "position": place % 20 * 2 + place // 20}
            for place in places
        ]
    )
    age = st.fixed_dictionaries({"on": st.booleans(), "days_max": st.floats(0.1, 2)})
    return st.fixed_dictionaries(
        {
            "filters": st.fixed_dictionaries({"age": age, "muted_tag": on}),
            "post_filters": st.fixed_dictionaries(
                {"age": age, "muted_author": on, "duplicate": on}
            ),
            "adjustments": st.fixed_dictionaries(
                {"author_spread": on, "out_of_network": on, "new_author": on, "show_less": on}
            ),
            "caps": st.fixed_dictionaries(
                {"page_size": st.integers(1, 10), "per_author": cap, "in_row_tag": cap}
            ),
            "quotas": st.fixed_dictionaries({"outside_min": st.floats(0, 1)}),
            "pins": pins,
            "exploration": st.fixed_dictionaries(
                {
                    "policy": st.sampled_from(["none", "epsilon", "thompson"]),
                    "rate": st.floats(0, 1),
                }
            ),
        }
    )


@given(feeds(), st.integers(1, 45), st.integers(0, 2**32))
@settings(max_examples=60)
def test_every_candidate_is_shown_dropped_with_a_reason_or_in_reserve(
    document: dict[str, Any], limit: int, seed: int
) -> None:
    said = Feedback(muted_authors=["user:a"], muted_tags=["gate"], less_authors={"user:b": T0_US})
    asked = query(T0_US, limit=limit, seed=seed, follows=follows("user:c"), feedback=said)
    slate = ranked(document, asked)
    shown_ids = [each.activity_id for each in slate.ranked]
    removed_ids = [each.activity_id for each in slate.removed]
    everything = {post.activity_id for post in POSTS}
    assert len(set(shown_ids)) == len(shown_ids)
    assert len(set(removed_ids)) == len(removed_ids)
    assert set(shown_ids).isdisjoint(removed_ids)
    assert set(shown_ids) | set(removed_ids) <= everything
    reserve = everything - set(shown_ids) - set(removed_ids)
    assert len(shown_ids) == limit or not reserve
    assert [each.position for each in slate.ranked] == list(range(len(shown_ids)))
    assert all(each.reason and each.filter for each in slate.removed)
    assert slate.ranked == ranked(document, asked).ranked
    assert slate.explanation is not None
    stages = slate.explanation.stages
    assert all(stage.left <= stage.came for stage in stages)
