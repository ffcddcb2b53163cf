from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.counters import DAY_US
from feeds.events import Posted
from feeds.model import UserId, position_of
from ranking.candidates import Query
from ranking.config import RankingConfig
from ranking.config_options import SourcesOptions
from ranking.personal_sources import (
    EditorialSource,
    FactorsSource,
    SecondDegreeSource,
    SimilarSource,
    SimilarVectorsSource,
    TopicsSource,
)
from ranking.pipeline import build_sources
from ranking.scorers.factorization import Embeddings, FactorTable
from ranking.sources import CANDIDATES_MAX, CandidateSource, latest_active, propose
from ranking.table import ActivityTable
from ranking.testing import T0_US, Recorded, engaged, follows, posted, query, table_of

NOW_US = T0_US + 20 * DAY_US

A, B, C, D = (
    posted(name, NOW_US - place * DAY_US, actor=f"user:{name}", tags=tags)
    for place, (name, tags) in enumerate(
        [("a", ["gate"]), ("b", ["gate", "noise"]), ("c", ["noise"]), ("d", [])]
    )
)


def proposed(source: CandidateSource, asked: Query, table: ActivityTable) -> list[str]:
    """The letters of what is proposed."""
    letters = {each.activity_id: each.object for each in (A, B, C, D)}
    return [letters[one] for one in table.ids(source.propose(asked, table))]


def vectors(**by_letter: Sequence[float]) -> FactorTable:
    """Factors of the user `me`, given as such, and of activities by letter."""
    given = {each.object: each for each in (A, B, C, D)}
    users = {"me": by_letter.pop("me", (1, 0))}
    activities = {position_of(given[name].activity_id): v for name, v in by_letter.items()}

    def embeddings(names: list, rows: list) -> Embeddings:
        return Embeddings(
            names, np.array(rows, np.float32).reshape(-1, 2), np.zeros(len(names), np.float32)
        )

    return FactorTable(
        embeddings(list(users), list(users.values())),
        embeddings(list(activities), list(activities.values())),
        embeddings([], []),
    )


def test_editorial_is_in_the_order_of_the_app_and_leaves_out_what_is_gone() -> None:
    table = table_of([A, B, C])
    ids = [position_of(each.activity_id) for each in (C, D, A)]
    assert proposed(EditorialSource(ids), query(NOW_US), table) == ["c", "a"]


def test_second_degree_is_what_most_of_the_followed_engaged_with() -> None:
    table = table_of(
        [
            *(A, B, C, D),
            engaged(A, "eve", NOW_US),
            engaged(B, "eve", NOW_US),
            engaged(B, "fay", NOW_US),
            engaged(C, "zoe", NOW_US),
            engaged(D, "eve", NOW_US - 15 * DAY_US),
        ]
    )
    asked = query(NOW_US, follows=follows("user:eve", "user:fay", "topic:x"))
    assert proposed(SecondDegreeSource(), asked, table) == ["b", "a"]
    assert proposed(SecondDegreeSource(days=16), asked, table) == ["b", "a", "d"]
    assert proposed(SecondDegreeSource(), query(NOW_US), table) == []


def test_what_lies_outside_alone_can_be_asked_of_every_source() -> None:
    table = table_of([A, B, engaged(A, "eve", NOW_US), engaged(B, "eve", NOW_US)])
    asked = query(NOW_US, follows=follows("user:eve", "user:a"))
    assert proposed(SecondDegreeSource(), asked, table) == ["a", "b"]
    assert proposed(SecondDegreeSource(outside=True), asked, table) == ["b"]


def test_topics_are_worth_the_engagements_with_them_decayed() -> None:
    events = [
        *(A, B, C, D),
        *(engaged(A, "me", NOW_US) for _ in range(3)),
        engaged(C, "me", NOW_US),
    ]
    record = Recorded.of(events).users["me"]
    table = table_of(events)
    assert proposed(TopicsSource(), query(NOW_US, record=record), table) == ["b", "a", "c"]
    # A month later the old half as much, and of nothing that is old itself.
    later = query(NOW_US + 16 * DAY_US, record=record)
    assert proposed(TopicsSource(), later, table) == []
    assert proposed(TopicsSource(days=60), later, table) == ["b", "a", "c"]
    assert proposed(TopicsSource(), query(NOW_US), table) == []


def test_a_tag_that_was_only_shown_is_no_topic() -> None:
    hide = [A, engaged(A, "me", NOW_US, "hide")]
    record = Recorded.of(hide).users["me"]
    assert proposed(TopicsSource(), query(NOW_US, record=record), table_of(hide)) == []


def test_similar_is_what_the_same_users_engaged_with() -> None:
    events = [
        *(A, B, C, D),
        engaged(A, "me", NOW_US),
        engaged(A, "eve", NOW_US),
        engaged(A, "fay", NOW_US),
        engaged(B, "eve", NOW_US),
        engaged(B, "fay", NOW_US),
        engaged(C, "eve", NOW_US),
        engaged(C, "x", NOW_US),
        engaged(D, "y", NOW_US),
    ]
    record = Recorded.of(events).users["me"]
    table = table_of(events)
    assert proposed(SimilarSource(), query(NOW_US, record=record), table) == ["b", "c"]
    assert proposed(SimilarSource(), query(NOW_US), table) == []


def test_what_the_user_alone_engaged_with_makes_nothing_similar() -> None:
    events = [A, B, engaged(A, "me", NOW_US), engaged(B, "me", NOW_US)]
    record = Recorded.of(events).users["me"]
    assert proposed(SimilarSource(seeds=1), query(NOW_US, record=record), table_of(events)) == []


def test_similar_by_vectors_points_where_the_last_engagements_point() -> None:
    events = [A, B, C, D, engaged(A, "me", NOW_US)]
    asked = query(NOW_US, record=Recorded.of(events).users["me"])
    table = table_of(events)
    factors = vectors(a=(2, 0), b=(1, 1), c=(5, 0.1), d=(-1, 0))
    assert proposed(SimilarVectorsSource(factors), asked, table) == ["c", "b"]
    assert proposed(SimilarVectorsSource(vectors(b=(1, 1))), asked, table) == []
    assert proposed(SimilarVectorsSource(factors), query(NOW_US), table) == []


def test_factors_propose_the_nearest_and_nothing_to_a_stranger() -> None:
    table = table_of([A, B, C, D])
    factors = vectors(me=(1, 0), a=(1, 9), b=(3, 0), c=(-2, 0))
    assert proposed(FactorsSource(factors), query(NOW_US), table) == ["b", "a", "c"]
    assert proposed(FactorsSource(factors, scanned=2), query(NOW_US), table) == ["b", "a"]
    assert proposed(FactorsSource(factors), query(NOW_US, user="stranger"), table) == []


def test_the_latest_active_are_bounded_and_do_not_depend_on_rows() -> None:
    activities = [posted(f"p{n}", T0_US + n // 10) for n in range(100)]
    forth, back = table_of(activities), table_of(activities[::-1])
    told = [sorted(table.positions(latest_active(0, table, 25))) for table in (forth, back)]
    assert told[0] == told[1]
    assert len(told[0]) == 25
    assert told[0] == sorted(forth.positions(forth.alive_rows()))[:25]


users = st.sampled_from(["eve", "fay", "gus", "me"])
activities = st.integers(0, 9)
POSTS = [posted(f"p{n}", T0_US + n, tags=["xyz"[n % 3], "uv"[n % 2]]) for n in range(10)]


def engagements() -> st.SearchStrategy[list[tuple[int, str]]]:
    return st.lists(st.tuples(activities, users), max_size=30)


def by_definition(worth: dict[Posted, float]) -> list[str]:
    """Those of a worth, the highest first, the newest of equals."""
    liked = [post for post in worth if worth[post] > 0]
    ordered = sorted(liked, key=lambda post: (-worth[post], -post.time_us))
    return [post.activity_id for post in ordered]


@given(engagements(), st.sets(users))
@settings(max_examples=60)
def test_second_degree_counts_followed_engagers(
    drawn: list[tuple[int, str]], followed: set[str]
) -> None:
    table = table_of([*POSTS, *(engaged(POSTS[n], user, T0_US + 50) for n, user in drawn)])
    asked = query(T0_US + 60, follows=follows(*(f"user:{user}" for user in followed)))
    by_post = {post: {user for n, user in drawn if POSTS[n] is post} for post in POSTS}
    worth = {post: float(len(by_post[post] & followed)) for post in POSTS}
    assert list(table.ids(SecondDegreeSource().propose(asked, table))) == by_definition(worth)


@given(engagements(), st.integers(1, 10))
@settings(max_examples=60)
def test_similar_adds_up_who_engaged_with_the_seeds(
    drawn: list[tuple[int, str]], seeds: int
) -> None:
    events = [*POSTS, *(engaged(POSTS[n], user, T0_US + 50) for n, user in drawn)]
    record = Recorded.of(events).users.get("me")
    asked = query(T0_US + 60, record=record)
    table = table_of(events)
    mine = list(dict.fromkeys(n for n, user in drawn if user == "me"))[-seeds:]
    by_post = [{user for n, user in drawn if n == number} for number in range(len(POSTS))]
    weights = Counter(user for n in mine for user in by_post[n] if user != "me")
    worth = {
        post: sum(weights[user] for user in by_post[n]) / max(1, len(by_post[n])) ** 0.5
        for n, post in enumerate(POSTS)
        if n not in mine
    }
    found = SimilarSource(seeds=seeds).propose(asked, table)
    values = {post.activity_id: value for post, value in worth.items()}
    assert set(table.ids(found)) == set(by_definition(worth))
    ordered = [values[one] for one in table.ids(found)]
    assert ordered == pytest.approx(sorted(ordered, reverse=True))


class FixedFactors:
    """The same product for everything, and vectors."""

    def dot(
        self,
        user: UserId,  # noqa: ARG002 - as every factorization
        positions: Sequence[bytes],
        tags: npt.NDArray[np.int32],  # noqa: ARG002
        tag_names: Sequence[str],  # noqa: ARG002
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        return np.ones(len(positions), np.float32), np.zeros(len(positions), np.float32)

    def activity_vectors(self, positions: Sequence[bytes]) -> npt.NDArray[np.float32]:
        return np.ones((len(positions), 2), np.float32)


EVERY = {name: {"on": True} for name in SourcesOptions.model_fields}


@given(engagements(), st.sampled_from(["personalized", "explore"]), st.booleans())
@settings(max_examples=30)
def test_every_source_keeps_the_contract(
    drawn: list[tuple[int, str]], kind: str, factored: bool
) -> None:
    feed = {"sources": {**EVERY, "similar": {"on": True, "by": "factors"}}}
    if kind == "explore":
        feed["sources"] |= {"following": {"on": False}, "newest": {"on": False}}
    feed["sources"]["editorial"] = {"on": True, "activities": [POSTS[3].activity_id]}
    config = RankingConfig.parse({kind: feed})
    events = [*POSTS, *(engaged(POSTS[n], user, T0_US + 50) for n, user in drawn)]
    table = table_of(events)
    record = Recorded.of(events).users.get("me")
    asked = query(T0_US + 60, record=record, follows=follows("user:eve"))
    sources = build_sources(config, kind, FixedFactors() if factored else None)  # type: ignore[arg-type]
    assert ("factors" in [source.name for source in sources]) == factored
    for source in sources:
        rows = source.propose(asked, table)
        assert rows.dtype == np.int32
        assert len(rows) <= CANDIDATES_MAX
        assert len(set(rows.tolist())) == len(rows)
        assert table.alive[rows].all()
        assert source.propose(asked, table).tolist() == rows.tolist()
    assert len(propose(sources, asked, table)) <= len(POSTS)
    for source in sources:
        assert len(source.propose(asked, ActivityTable(5))) == 0


def test_every_pin_is_a_candidate_whatever_the_quota() -> None:
    pins = [{"id": post.activity_id, "position": n} for n, post in enumerate(POSTS[:4])]
    feed = {"pins": pins, "sources": {"editorial": {"quota": 1}}}
    (editorial, *_) = build_sources(RankingConfig.parse({"personalized": feed}), "personalized")
    candidates = propose([editorial], query(T0_US), table_of(POSTS))
    assert len(candidates) == 4
