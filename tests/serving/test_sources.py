from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.model import ActivityDraft, FeedId, Position, TenantId, UserId, position_of
from ranking.candidates import Query
from ranking.sources import FollowingSource
from ranking.table import ActivityTable
from ranking.testing import query as query_of
from serving.sources import EngineFollowingSource, PositionsSource, SparedSource, own_table
from serving.table_loading import load_table

ACME = TenantId("acme")
NOW_US = 1_600_000_000_000_000
BOB = FeedId("timeline", "bob")
TARGETS = ("user:ann", "user:eve", "topic:x")

operations = st.lists(
    st.one_of(
        st.tuples(
            st.just("post"),
            st.integers(0, 30),
            st.sampled_from(TARGETS),
            st.sets(st.sampled_from(TARGETS)),
        ),
        st.tuples(st.just("follow"), st.sampled_from(TARGETS), st.integers(0, 4)),
        st.tuples(st.just("unfollow"), st.sampled_from(TARGETS)),
    ),
    max_size=40,
)


def query(engine: FeedEngine, user: str = "bob") -> Query:
    return Query(
        tenant=ACME,
        user=UserId(user),
        kind="personalized",
        now_us=NOW_US,
        limit=10,
        request_id="r",
        seed=1,
        record=engine.user_record(ACME, UserId(user)),
        follows=engine.follows(ACME, FeedId("timeline", user)),
    )


def draft_of(name: str, ago_s: int, feed: str, to: set[str]) -> ActivityDraft:
    return ActivityDraft(
        actor="user:ann",
        verb="post",
        object=name,
        time_us=NOW_US - ago_s * 1_000_000,
        to=tuple(sorted(to - {feed})),
    )


def post(engine: FeedEngine, name: str, ago_s: int, feed: str, to: set[str]) -> Position:
    draft = draft_of(name, ago_s, feed, to)
    activity = engine.post(ACME, FeedId.parse(feed), draft).result().activity
    return position_of(activity.id)


def perform(engine: FeedEngine, operation: tuple[Any, ...], number: int) -> Future[Any]:
    """Start the operation; later ones are applied after it."""
    match operation:
        case ("post", ago_s, feed, to):
            return engine.post(ACME, FeedId.parse(feed), draft_of(f"a{number}", ago_s, feed, to))
        case ("follow", target, copies):
            return engine.follow(ACME, BOB, FeedId.parse(target), copy_limit=copies)
        case (_, target):
            return engine.unfollow(ACME, BOB, FeedId.parse(target))
    raise AssertionError(operation)


@pytest.mark.parametrize("pull_followers_min", [0, 10**9])
@settings(max_examples=25, deadline=None)
@given(operations=operations)
def test_the_engine_and_the_table_know_the_same_followed_rows(
    pull_followers_min: int, operations: list[tuple[Any, ...]]
) -> None:
    config = FeedsConfig(pull_followers_min=pull_followers_min)
    with (
        TemporaryDirectory() as directory,
        FeedEngine.open(Path(directory), config, clock=lambda: NOW_US) as engine,
    ):
        engine.create_tenant(ACME).result()
        for future in [perform(engine, each, number) for number, each in enumerate(operations)]:
            future.result()
        table = load_table(engine, ACME, 1_000)
        asked = query(engine)

        by_engine = EngineFollowingSource(engine, "timeline").propose(asked, table)
        by_table = FollowingSource().propose(asked, table)

        assert table.positions(by_engine) == table.positions(by_table)


def test_what_is_in_the_home_feed_itself_is_followed_too(tmp_path: Path) -> None:
    with FeedEngine.open(tmp_path, clock=lambda: NOW_US) as engine:
        engine.create_tenant(ACME).result()
        position = post(engine, "mention", 0, "user:ann", {"timeline:bob"})
        table = load_table(engine, ACME, 1_000)

        rows = EngineFollowingSource(engine, "timeline").propose(query(engine), table)

        assert table.positions(rows) == [position]


def test_an_own_table_holds_what_was_asked_for(tmp_path: Path) -> None:
    with FeedEngine.open(tmp_path, clock=lambda: NOW_US) as engine:
        engine.create_tenant(ACME).result()
        posted = [post(engine, f"a{n}", n, "user:ann", set()) for n in range(5)]
        missing = Position(b"\x01" * 16)

        table = own_table(engine, ACME, [posted[4], missing], recent=2)

        assert set(table.positions(table.alive_rows())) == {posted[0], posted[1], posted[4]}


class BrokenSource:
    """A source that always fails."""

    name = "broken"
    quota = 5

    def propose(self, query: Query, table: ActivityTable) -> Any:  # noqa: ARG002 - fails anyway
        """Fail."""
        raise ZeroDivisionError


def test_a_failing_source_is_left_out_and_told() -> None:
    failed: list[str] = []
    source = SparedSource(BrokenSource(), failed.append, quota=3)

    rows = source.propose(query_of(), ActivityTable(10))

    assert (rows.dtype, len(rows), failed) == (np.int32, 0, ["broken"])
    assert (source.name, source.quota) == ("broken", 3)


def test_positions_that_are_not_in_the_table_are_left_out() -> None:
    source = PositionsSource("caller", 5, [Position(b"\x01" * 16)])

    assert len(source.propose(query_of(), ActivityTable(10))) == 0
