import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.model import activity_id
from ranking.config import PROBLEMS_MAX, RankingConfig, json_schema, problems
from ranking.config_options import PINS_MAX, SourcesOptions
from ranking.errors import InvalidRankingConfig

DEFAULT = RankingConfig.default()
IDS = [activity_id(1_000_000, name.encode()) for name in "abcdef"]
SOURCES = list(SourcesOptions.model_fields)
shares = st.floats(0, 1)


def feed_documents() -> st.SearchStrategy[dict[str, Any]]:
    """Documents that say something of every part of a feed, or leave it out."""
    pins = st.lists(st.sampled_from(IDS), unique=True).map(
        lambda ids: [{"id": one, "position": place} for place, one in enumerate(ids)]
    )
    cap = st.none() | st.integers(1, 100)
    return st.fixed_dictionaries(
        {},
        optional={
            "sources": st.dictionaries(
                st.sampled_from([name for name in SOURCES if name != "following"]),
                st.fixed_dictionaries({}, optional={"quota": st.integers(1, 500)}),
            ),
            "filters": st.fixed_dictionaries(
                {},
                optional={
                    "own": st.fixed_dictionaries({"on": st.booleans()}),
                    "age": st.fixed_dictionaries({"days_max": st.floats(1, 1000)}),
                },
            ),
            "value": st.fixed_dictionaries({"like": st.floats(0.1, 9), "hide": st.floats(-9, 9)}),
            "adjustments": st.fixed_dictionaries(
                {"author_spread": st.fixed_dictionaries({"decay": shares, "floor": shares})}
            ),
            "caps": st.fixed_dictionaries({"per_author": cap, "in_row_tag": cap}),
            "quotas": st.fixed_dictionaries({"outside_min": shares, "outside_max": st.just(1)}),
            "pins": pins,
            "exploration": st.fixed_dictionaries(
                {"policy": st.sampled_from(["none", "epsilon", "thompson"]), "rate": shares}
            ),
            "fallback": st.sampled_from([None, "recency", {"score": "-now + time"}]),
            "deadline_ms": st.floats(1, 60_000),
            "slate_size": st.integers(len(IDS), 1000),
        },
    )


@given(feed_documents(), feed_documents())
def test_a_config_comes_back_from_its_document_and_from_its_json(
    personalized: dict[str, Any], explore: dict[str, Any]
) -> None:
    config = RankingConfig.parse({"personalized": personalized, "explore": explore})
    document = config.to_document()
    assert config == RankingConfig.parse(document)
    assert config == RankingConfig.parse(json.loads(json.dumps(document, allow_nan=False)))
    assert document == RankingConfig.parse(document).to_document()


def test_an_empty_document_is_the_default() -> None:
    assert RankingConfig.parse({}) == DEFAULT
    assert problems(DEFAULT.to_document()) == []


def test_what_a_document_leaves_out_is_as_by_default_for_that_feed() -> None:
    config = RankingConfig.parse({"explore": {"sources": {"fresh": {"quota": 7}}}})
    sources = config.explore.sources
    assert (sources.fresh.quota, sources.fresh.on, sources.fresh.outside) == (7, True, True)
    assert sources.trending == DEFAULT.explore.sources.trending
    assert config.personalized == DEFAULT.personalized


def test_every_mistake_is_told_at_once_with_what_it_could_mean() -> None:
    told = problems(
        {
            "personalised": {},
            "personalized": {
                "sources": {"folowing": {}, "trending": {"quota": 0}, "fresh": {"on": 1}},
                "value": {"like": math.nan, "hide": -math.inf},
                "pins": [{"id": "x", "position": -1}],
                "fallback": "magic",
                "slate_size": 2.5,
                "deadline_ms": 0,
            },
        }
    )
    assert told == [
        "personalized.sources.trending.quota is 0: input should be greater than or equal to 1",
        "personalized.sources.fresh.on is 1: input should be a valid boolean",
        "personalized.sources.folowing: there is no 'folowing': did you mean following?",
        "personalized.value.like is nan: input should be a finite number",
        "personalized.value.hide is -inf: input should be a finite number",
        "personalized.pins.0.id: 'x' is not an activity id: take it from an earlier reply",
        "personalized.pins.0.position is -1: input should be greater than or equal to 0",
        "personalized.deadline_ms is 0: input should be greater than or equal to 1",
        (
            "personalized.fallback: fallback is 'magic': give \"recency\" or null, which mean "
            'newest first, or an expression such as {"score": "decay_gauss(time) * '
            '(1 + popularity) ^ 0.5"}'
        ),
        "personalized.slate_size is 2.5: input should be a valid integer",
        "personalised: there is no 'personalised': did you mean personalized?",
    ]


def test_the_error_holds_all_problems() -> None:
    document = {"explore": {"deadline_ms": -1, "slate_size": 0}}
    with pytest.raises(InvalidRankingConfig) as caught:
        RankingConfig.parse(document)
    assert list(caught.value.problems) == problems(document)
    assert len(caught.value.problems) == 2
    assert all(problem in str(caught.value) for problem in caught.value.problems)


def test_a_config_that_drops_everything_is_refused_with_what_it_would_have_dropped() -> None:
    off = {name: {"on": False} for name in SOURCES}
    (told,) = problems({"personalized": {"sources": off}})
    assert told.startswith("personalized: no source is on, which drops every candidate")
    assert "following (400)" in told
    only_editorial = {**off, "editorial": {"on": True}}
    assert len(problems({"personalized": {"sources": only_editorial}})) == 1
    promoted = {**off, "editorial": {"on": True, "activities": [IDS[0]]}}
    assert problems({"personalized": {"sources": promoted}}) == []


def test_ten_thousand_pins_are_refused_in_one_sentence() -> None:
    pins = [{"id": IDS[0], "position": place % 900} for place in range(10_000)]
    (told,) = problems({"explore": {"pins": pins}})
    assert f"at most {PINS_MAX} items" in told
    assert len(told) < 300


def test_ten_thousand_unknown_fields_are_told_in_part() -> None:
    told = problems({f"x{number}": 1 for number in range(10_000)})
    assert len(told) == PROBLEMS_MAX + 1
    assert told[-1] == f"and {10_000 - PROBLEMS_MAX} problems more"


def test_pins_must_have_places_of_their_own_inside_the_slate() -> None:
    twice = [{"id": IDS[0], "position": 3}, {"id": IDS[0], "position": 3}]
    assert problems({"explore": {"pins": twice}}) == [
        "explore.pins: two pins have the same id: give each its own",
        "explore.pins: two pins have the same position: give each its own",
    ]
    (told,) = problems({"explore": {"slate_size": 5, "pins": [{"id": IDS[0], "position": 5}]}})
    assert "a slate has 5 places" in told


def test_explore_has_no_sources_of_what_is_followed() -> None:
    told = problems(
        {"explore": {"sources": {"following": {"on": True}, "fresh": {"outside": False}}}}
    )
    assert [one.split(" is on")[0] for one in told] == [
        "explore.sources.following",
        "explore.sources.fresh",
    ]


def test_weights_that_are_all_zero_rank_nothing() -> None:
    value = dict.fromkeys(DEFAULT.personalized.value.weights(), 0)
    (told,) = problems({"personalized": {"value": value}})
    assert "every weight is 0" in told


@pytest.mark.parametrize("document", [[], None, "x", 3, {"explore": 3}, {"explore": {"pins": {}}}])
def test_what_is_no_config_at_all_is_a_sentence(document: Any) -> None:
    (told,) = problems(document)
    assert told


def test_the_schema_describes_every_field_with_its_limits() -> None:
    schema = json_schema()
    parts = schema["$defs"]
    described = [
        field.get("description") or parts[field["$ref"].removeprefix("#/$defs/")]["description"]
        for part in (schema, *parts.values())
        for field in part["properties"].values()
    ]
    assert len(described) > 80
    assert all(described)
    assert parts["ExplorationOptions"]["properties"]["rate"]["maximum"] == 1


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        DEFAULT.explore = DEFAULT.personalized  # type: ignore[misc]
