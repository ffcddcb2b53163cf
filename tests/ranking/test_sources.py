from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.counters import DAY_US, HOUR_US
from feeds.events import Posted, Removed
from feeds.model import FeedId, Follow
from ranking.buckets import ENGAGEMENT
from ranking.candidates import Query
from ranking.config import RankingConfig
from ranking.pipeline import build_sources
from ranking.sources import (
    CANDIDATES_MAX,
    ActiveSource,
    CandidateSource,
    FollowingSource,
    FreshSource,
    TrendingSource,
    propose,
)
from ranking.table import ActivityTable
from ranking.testing import T0_US, engaged, follows, posted, query, table_of

DEFAULT = RankingConfig.default()

NOW_US = T0_US + 20 * DAY_US


@dataclass(frozen=True)
class Fixed:
    """A source that always proposes the same rows."""

    rows: tuple[int, ...]
    quota: int
    name: str = "fixed"

    def propose(
        self,
        query: Query,  # noqa: ARG002 - a source's signature
        table: ActivityTable,  # noqa: ARG002
    ) -> npt.NDArray[np.int32]:
        return np.array(self.rows, dtype=np.int32)


def proposed(source: CandidateSource, asked: Query, table: ActivityTable) -> list[str]:
    return list(table.ids(source.propose(asked, table)))


def ids(*activities: Posted) -> list[str]:
    return [activity.activity_id for activity in activities]


def follow(target: str, index: int, since_us: int) -> dict[str, Follow]:
    return {target: Follow(FeedId("timeline", "me"), FeedId.parse(target), NOW_US, index, since_us)}


def test_following_proposes_what_belongs_to_the_follower_newest_first() -> None:
    copied = posted("copied", T0_US + 2, feed="topic:x")
    too_old = posted("too old", T0_US, feed="topic:x")
    elsewhere = posted("elsewhere", T0_US + 3, feed="topic:y")
    targeted = posted("targeted", T0_US + 4, feed="topic:y", to=["topic:x"])
    late = posted("late", T0_US + 1, feed="topic:x")
    table = table_of([copied, too_old, elsewhere, targeted, late])
    asked = query(NOW_US, follows=follow("topic:x", index=4, since_us=T0_US + 2))
    assert proposed(FollowingSource(), asked, table) == ids(targeted, copied, late)


def test_who_follows_nothing_is_proposed_nothing_by_following() -> None:
    assert proposed(FollowingSource(), query(NOW_US), table_of([posted("a")])) == []


def test_active_is_posted_or_engaged_with_lately() -> None:
    old, revived, new = (posted(name, T0_US + day * DAY_US) for day, name in enumerate("abc"))
    table = table_of([old, revived, new, engaged(revived, "x", NOW_US - HOUR_US)])
    asked = query(T0_US + 16 * DAY_US)
    revived_later = table_of([old, revived, new, engaged(revived, "x", T0_US + 10 * DAY_US)])
    assert proposed(ActiveSource(), asked, revived_later) == ids(revived, new)
    assert proposed(ActiveSource(days=1), query(NOW_US), table) == ids(revived)


def test_a_hide_does_not_make_an_activity_active_or_popular() -> None:
    old = posted("old")
    table = table_of([old, engaged(old, "x", NOW_US, "hide")])
    assert proposed(ActiveSource(days=1), query(NOW_US), table) == []
    assert proposed(TrendingSource(), query(NOW_US), table) == []


def test_trending_has_the_most_engagements_decayed() -> None:
    once_popular, popular, quiet = (posted(name) for name in "abc")
    table = table_of(
        [
            once_popular,
            popular,
            quiet,
            *(engaged(once_popular, f"u{user}", T0_US) for user in range(6)),
            *(engaged(popular, f"u{user}", NOW_US) for user in range(3)),
        ]
    )
    assert proposed(TrendingSource(), query(NOW_US), table) == ids(popular, once_popular)
    assert proposed(TrendingSource(half_life_days=300), query(NOW_US), table) == (
        ids(once_popular, popular)
    )


def test_removed_activities_are_proposed_by_nobody() -> None:
    gone, here = posted("gone", feed="topic:x"), posted("here", feed="topic:x")
    table = table_of(
        [
            gone,
            here,
            engaged(gone, "x", T0_US),
            engaged(here, "x", T0_US),
            Removed(time_us=T0_US, activity_id=gone.activity_id),
        ]
    )
    asked = query(T0_US, follows=follows("topic:x"))
    for source in (FollowingSource(), ActiveSource(), TrendingSource(), FreshSource()):
        assert proposed(source, asked, table) == ids(here)


def test_explore_lies_outside_of_followed_feeds_and_authors() -> None:
    by_author = posted("a", T0_US, actor="user:ann", feed="flat:x")
    in_feed = posted("b", T0_US + 1, actor="user:bob", to=["topic:followed"])
    new = posted("c", T0_US + 2, actor="user:bob", to=["topic:other"])
    table = table_of([by_author, in_feed, new, engaged(in_feed, "x", T0_US)])
    asked = query(T0_US + 5, kind="explore", follows=follows("user:ann", "topic:followed"))
    candidates = propose(build_sources(DEFAULT, "explore"), asked, table)
    assert table.ids(candidates.rows) == ids(new)


def test_personalized_is_filled_up_with_what_is_popular() -> None:
    followed = posted("a", feed="topic:x")
    popular = posted("b", feed="topic:y")
    quiet = posted("c", feed="topic:y")
    table = table_of(
        [followed, popular, quiet, engaged(popular, "x", T0_US), engaged(followed, "x", T0_US)]
    )
    candidates = propose(
        build_sources(DEFAULT, "personalized"), query(T0_US, follows=follows("topic:x")), table
    )
    assert table.ids(candidates.rows) == ids(followed, popular)
    assert [candidates.sources[source] for source in candidates.source] == ["following", "trending"]


def test_a_source_gives_no_more_than_its_quota_of_what_is_new() -> None:
    table = table_of(posted(f"a{number}") for number in range(10))
    sources = (
        Fixed((0, 1, 2), 2, "first"),
        Fixed((1, 0, 3, 4, 5), 2, "second"),
        Fixed((9, -1), 5, "third"),
    )
    candidates = propose(sources, query(), table)
    assert candidates.rows.tolist() == [0, 1, 3, 4, 9]
    assert candidates.source.tolist() == [0, 0, 1, 1, 2]
    assert propose(sources, query(), table, limit=3).rows.tolist() == [0, 1, 3]


def test_an_empty_table_proposes_nothing() -> None:
    table = ActivityTable(10)
    asked = query(NOW_US, follows=follows("topic:x", "user:ann"))
    for kind in ("personalized", "explore"):
        assert len(propose(build_sources(DEFAULT, kind), asked, table)) == 0


def test_a_large_table_proposes_the_first_ones_alone() -> None:
    activities = [
        posted(f"a{number}", T0_US + number // 3, feed=f"topic:{number % 7}")
        for number in range(3000)
    ]
    table = table_of(activities, capacity=5000)
    newest = sorted(table.positions(table.alive_rows()))
    source = FreshSource()
    rows = source.propose(query(NOW_US), table)
    assert table.positions(rows) == newest[:CANDIDATES_MAX]
    outside = FreshSource(outside=True)
    followed = query(NOW_US, follows=follows(*(f"topic:{number}" for number in range(6))))
    rest = [each for each in activities if each.feed == "topic:6"]
    assert set(proposed(outside, followed, table)) == set(ids(*rest))


feeds = st.sampled_from(["topic:a", "topic:b", "topic:c", "user:d"])


@given(
    st.lists(st.tuples(st.integers(0, 5), feeds, st.lists(feeds, max_size=2)), max_size=12),
    st.dictionaries(feeds, st.tuples(st.integers(0, 12), st.integers(0, 5)), max_size=3),
)
def test_following_keeps_the_rule_of_follows(
    posts: list[tuple[int, str, list[str]]], edges: dict[str, tuple[int, int]]
) -> None:
    activities = [
        posted(f"a{number}", T0_US + offset, feed=feed, to=to)
        for number, (offset, feed, to) in enumerate(posts)
    ]
    table = table_of(activities)
    edge = {
        target: follow(target, index, T0_US + since)[target]
        for target, (index, since) in edges.items()
    }
    expected = {
        activity.activity_id
        for index, activity in enumerate(activities, start=1)
        for feed in (activity.feed, *activity.to)
        if feed in edge and (index > edge[feed].index or activity.time_us >= edge[feed].since_us)
    }
    rows = FollowingSource().propose(query(NOW_US, follows=edge), table)
    assert set(table.ids(rows)) == expected
    assert table.positions(rows) == sorted(table.positions(rows))


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=15)
def test_trending_weighs_no_more_than_it_must_and_misses_nothing(seed: int, outside: bool) -> None:
    draws = np.random.default_rng(seed)
    table = ActivityTable(6000)
    activities = [posted(f"a{n}", T0_US + n, feed=f"topic:{n % 5}") for n in range(4000)]
    for index, activity in enumerate(activities):
        table.apply(index, activity)
    for place, offset in zip(
        (draws.pareto(1, 6000) * 50).astype(int) % 4000,
        draws.integers(0, 40 * DAY_US, 6000).tolist(),
        strict=True,
    ):
        table.apply(9, engaged(activities[place], "x", T0_US + offset))
    asked = query(T0_US + 40 * DAY_US, follows=follows("topic:1"))

    ring, rows = table.counts.day, table.newest_first(table.alive_rows())
    weights = ring.decays(asked.now_us, [7 * DAY_US])
    values = ring.weigh(rows, ENGAGEMENT, weights)[:, 0]
    followed = table.feeds[rows, 0] == table.names.feeds.get("topic:1")
    wanted = (values > 0) & ~(followed & outside)
    expected = rows[wanted][np.argsort(-values[wanted], kind="stable")][:CANDIDATES_MAX]
    assert TrendingSource(outside=outside).propose(asked, table).tolist() == expected.tolist()


def test_who_can_add_nothing_is_not_asked() -> None:
    table = table_of([posted(f"a{number}", T0_US + number) for number in range(5)])

    class Refusing(Fixed):
        def propose(self, query: Query, table: ActivityTable) -> npt.NDArray[np.int32]:
            raise AssertionError(f"{query.user} needs no more than {len(table)}")

    sources = [Fixed((3, 1), 2), Refusing((0,), 5, "full")]
    candidates = propose(sources, query(), table, limit=2)
    assert (candidates.rows.tolist(), candidates.sources) == ([3, 1], ("fixed", "full"))
    with pytest.raises(AssertionError, match="needs no more"):
        propose(sources, query(), table, limit=3)
