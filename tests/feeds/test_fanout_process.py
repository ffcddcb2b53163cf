"""Three nodes, and the leader is killed while posts still go out to thousands of followers."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from feeds.cli_cluster import start_cluster
from feeds.config import FeedsConfig
from feeds.engine import FeedEngine
from feeds.keys import FeedRowKey, read_number
from feeds.model import ActivityDraft, FeedId, TenantId, position_of
from feeds.remote import open_remote
from feeds.testing_cluster import NODES, leader_of, three_nodes, wait_for

WAIT_S = 60.0
DEMO = TenantId("demo")
AUTHOR = FeedId("user", "ann")
FOLLOWERS = 3_000
POSTS = 40
CONFIG = FeedsConfig(retry_s=10.0, fanout_inline_max=10)


@pytest.fixture
def cluster() -> Iterator[Path]:
    with three_nodes() as directory:
        yield directory


def tasks(engine: FeedEngine) -> int:
    """How many fan-outs are unfinished, as this engine sees it."""
    return len(list(engine._view.scan("outbox", b"", b"\xff")))


def rows(engine: FeedEngine) -> dict[FeedRowKey, int]:
    """Every row before a follower, and the log index that it is of."""
    start, stop = FeedRowKey.prefix(DEMO, "timeline:"), b"demo\0timeline;"
    pairs = engine._view.scan("feeds", start.removesuffix(b"\0"), stop)
    return {FeedRowKey.decode(key): read_number(value) for key, value in pairs}


def test_leader_killed_in_mid_fan_out_is_followed_by_one_that_ends_it(cluster: Path) -> None:
    followers = [FeedId("timeline", f"f{number:04}") for number in range(FOLLOWERS)]
    leader = leader_of(cluster)
    survivors = [node for node in NODES if node != leader]
    with ExitStack() as stack:
        one, other = [
            stack.enter_context(open_remote(cluster / f"{node}.sock", CONFIG)) for node in survivors
        ]
        one.create_tenant("demo").result(WAIT_S)
        made = [one.follow(DEMO, follower, AUTHOR) for follower in followers]
        assert [0] * FOLLOWERS == [future.result(WAIT_S).copied for future in made]
        drafts = [ActivityDraft(actor="user:ann", verb="post", object=f"{n}") for n in range(POSTS)]
        futures = [one.post(DEMO, AUTHOR, draft) for draft in drafts]
        posted = [future.result(WAIT_S) for future in futures]
        os.kill(int((cluster / f"{leader}.pid").read_text()), signal.SIGKILL)
        assert 0 < tasks(one)
        wait_for(lambda: tasks(one) == tasks(other) == 0, "the end of every fan-out")
        expected = {
            FeedRowKey(DEMO, str(follower), position_of(post.activity.id), str(AUTHOR)): post.index
            for follower in followers
            for post in posted
        }
        assert expected == rows(one) == rows(other)
        newest = [row.activity_id for row in one.read(DEMO, followers[-1], POSTS).rows]
        assert sorted(newest) == sorted(post.activity.id for post in posted)
        start_cluster(cluster)
        with open_remote(cluster / f"{leader}.sock", CONFIG) as killed:
            wait_for(lambda: tasks(killed) == 0, "the killed node to catch up")
            assert expected == rows(killed)
