"""The engine against a dict model, with feeds pushed, pulled, and turning from one to the other."""

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.model import (
    ActivityDraft,
    ActivityId,
    FeedId,
    TenantId,
    identify,
    position_of,
)
from feeds.testing_engine import NOW_US, memory_engine

TENANT = TenantId("demo")
THRESHOLDS = (0, 2, 10**9)
INLINE = (10**9, 1, 0)
"""Followers that a write reaches itself, of each engine: the others have theirs from tasks."""
PLACES = ("user:a", "user:b", "topic:t", "flat:f")
READERS = ("timeline:x", "timeline:y", "timeline:z", "flat:f", "user:a")

times = st.integers(-4, 4).map(lambda n: NOW_US + n * 1_000_000)
places = st.sampled_from(PLACES)
readers = st.sampled_from(READERS)


class FeedsModel:
    """What feeds show, kept in the simplest way: everything is pushed, nothing is bounded."""

    def __init__(self) -> None:
        self.activities: dict[ActivityId, int] = {}
        self.home: dict[str, set[ActivityId]] = {place: set() for place in PLACES}
        self.pushed: dict[str, set[tuple[ActivityId, str]]] = {feed: set() for feed in READERS}
        self.edges: set[tuple[str, str]] = set()

    def post(self, activity: ActivityId, feeds: list[str], content: int) -> None:
        self.activities[activity] = content
        for place in feeds:
            if activity not in self.home[place]:
                self.home[place].add(activity)
                for follower, target in self.edges:
                    if target == place:
                        self.pushed[follower].add((activity, place))

    def remove(self, activity: ActivityId) -> None:
        self.activities.pop(activity, None)
        for rows in self.home.values():
            rows.discard(activity)
        for feed, rows in self.pushed.items():
            self.pushed[feed] = {row for row in rows if row[0] != activity}

    def follow(self, follower: str, target: str, copy_limit: int) -> int:
        if (follower, target) in self.edges:
            return 0
        self.edges.add((follower, target))
        newest = sorted(self.home[target], key=position_of)
        copied = newest[:copy_limit]
        ties = [other for other in newest if copied and _time(other) == _time(copied[-1])]
        chosen = {*copied, *ties}
        self.pushed[follower] |= {(activity, target) for activity in chosen}
        return len(chosen)

    def unfollow(self, follower: str, target: str, *, keep_history: bool) -> bool:
        if (follower, target) not in self.edges:
            return False
        self.edges.discard((follower, target))
        if not keep_history:
            rows = self.pushed[follower]
            self.pushed[follower] = {row for row in rows if row[1] != target}
        return True

    def read(self, feed: str) -> list[tuple[ActivityId, str | None, int]]:
        found: dict[ActivityId, str] = {}
        rows = [(activity, "") for activity in self.home.get(feed, ())]
        for activity, origin in rows + list(self.pushed.get(feed, ())):
            found[activity] = min(found.get(activity, origin), origin)
        return [
            (activity, found[activity] or None, self.activities[activity])
            for activity in sorted(found, key=position_of)
        ]


def _time(activity: ActivityId) -> bytes:
    return position_of(activity)[:8]


def pages(engine: FeedEngine, feed: str, limit: int) -> list[tuple[ActivityId, str | None, int]]:
    """The whole feed, page by page."""
    shown: list[tuple[ActivityId, str | None, int]] = []
    cursor = None
    while True:
        page = engine.read(TENANT, FeedId.parse(feed), limit, cursor)
        for row, body in zip(page.rows, page.bodies, strict=True):
            content = orjson.loads(body)
            assert content["id"] == row.activity_id
            assert content["origin"] == (str(row.origin) if row.origin else None)
            shown.append((row.activity_id, content["origin"], content["n"]))
        assert page.next is None or len(page.rows) == limit
        if page.next is None:
            return shown
        cursor = page.next


class EngineEqualsModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model = FeedsModel()
        self.engines = [
            memory_engine(
                FeedsConfig(
                    pull_followers_min=threshold,
                    unfollow_rows_max=2,
                    unfollow_scan_max=3,
                    fanout_inline_max=inline,
                    fanout_rows_max=1,
                )
            )
            for threshold, inline in zip(THRESHOLDS, INLINE, strict=True)
        ]

    @rule(
        home=places,
        to=st.lists(places, max_size=2, unique=True),
        time_us=times,
        name=st.integers(0, 2),
        content=st.integers(0, 1),
    )
    def post(self, home: str, to: list[str], time_us: int, name: int, content: int) -> None:
        draft = ActivityDraft(
            actor="user:a",
            verb="post",
            object="o",
            foreign_id=f"f:{name}",
            time_us=time_us,
            to=tuple(to),
            custom={"n": content},
        )
        activity = identify(draft, time_us)
        duplicate = activity in self.model.activities
        for engine in self.engines:
            result = engine.post(TENANT, FeedId.parse(home), draft).result()
            assert (activity, duplicate) == (result.activity.id, result.duplicate)
        self.model.post(activity, [home, *to], content)

    @precondition(lambda self: self.model.activities)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        activity = data.draw(st.sampled_from(sorted(self.model.activities)))
        for engine in self.engines:
            assert engine.remove(TENANT, activity).result().removed
        self.model.remove(activity)

    @rule(follower=readers, followed=places, copy_limit=st.sampled_from((0, 1, 2, 100)))
    def follow(self, follower: str, followed: str, copy_limit: int) -> None:
        if follower == followed:
            return
        copied = self.model.follow(follower, followed, copy_limit)
        for engine in self.engines:
            result = engine.follow(
                TENANT, FeedId.parse(follower), FeedId.parse(followed), copy_limit=copy_limit
            )
            assert copied == result.result().copied

    @rule(follower=readers, followed=places, keep_history=st.booleans())
    def unfollow(self, follower: str, followed: str, *, keep_history: bool) -> None:
        removed = self.model.unfollow(follower, followed, keep_history=keep_history)
        for engine in self.engines:
            result = engine.unfollow(
                TENANT, FeedId.parse(follower), FeedId.parse(followed), keep_history=keep_history
            )
            assert removed == result.result().removed

    @rule(feed=st.sampled_from((*READERS, *PLACES)), limit=st.integers(1, 5))
    def read(self, feed: str, limit: int) -> None:
        expected = self.model.read(feed)
        for engine in self.engines:
            assert expected == pages(engine, feed, limit)

    @invariant()
    def first_page_and_edges_are_the_models(self) -> None:
        for engine in self.engines:
            for feed in READERS:
                expected = self.model.read(feed)[:100]
                assert expected == pages(engine, feed, 100)
                rows = engine.rows(TENANT, FeedId.parse(feed), 1_000)
                assert rows == sorted(set(rows))
                assert {position_of(activity) for activity, _, _ in expected} <= set(rows)
                followed = {target for follower, target in self.model.edges if follower == feed}
                assert followed == set(engine.follows(TENANT, FeedId.parse(feed)))

    @invariant()
    def nothing_waits_in_the_outbox(self) -> None:
        for engine in self.engines:
            assert [] == list(engine._view.scan("outbox", b"", b"\xff"))


EngineEqualsModel.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None
)
test_engine_equals_model = EngineEqualsModel.TestCase
