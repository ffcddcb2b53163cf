"""Benchmarks of fan-out: rows before followers, until the last of them has the last row."""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from feeds.client import EngineClient
from feeds.engine import FeedEngine
from feeds.model import ActivityDraft, FeedId
from feeds.results import PostResult
from feeds.store.base import Write
from feeds.store.rocks import RocksStore
from serving.bench_nodes import TARGET, TENANT, follow, leader_store, pipelined, three_nodes
from serving.measure import Doing, Figure, Sizes, rounds

__all__ = ["fan_out_rate", "fanout"]

ROWS_A_ROUND: Final = 50_000
"""About how many rows are on their way at once; a round of posts waits for the one before."""

POSTS_A_ROUND_MAX: Final = 2_000
FOLLOWS_IN_FLIGHT: Final = 1_000
ROWS_A_BATCH: Final = 1_000

_IDLE_POLL_S: Final = 0.003


def fanout(directory: Path, seconds: float, sizes: Sizes) -> Iterator[Doing | Figure]:
    """Rows written on three nodes by posts to a feed with followers, beside RocksDB alone."""
    followers = sizes.followers
    yield Doing(f"three nodes, {followers:,} followers", 0.0)
    rate = fan_out_rate(directory / "fanout", followers, seconds)
    yield Doing("RocksDB alone", 0.8)
    with RocksStore.open(directory / "fanout.alone") as store:
        alone = _rows_alone(store, seconds / 2)
    yield Figure.of_rates(
        "fanout",
        f"rows a second on three nodes, {followers:,} followers a post, to the last follower",
        rate,
        f"rows into one RocksDB, {ROWS_A_BATCH:,} to a batch",
        alone,
        "50,000/s",
        followers=followers,
    )


def fan_out_rate(data: Path, followers: int, seconds: float) -> float:
    """Rows a second before so many followers of each post, on three new nodes in `data`.

    The clock stops when no task of the outbox is left; then the last follower's feed is looked at.
    Raises `RuntimeError` if a row is not there.
    """
    with three_nodes(data) as leader:
        pipelined(
            lambda number: leader.propose(follow(number)),
            count_max=followers,
            in_flight=FOLLOWS_IN_FLIGHT,
        )
        posts, elapsed_s = _post_rounds(leader, data, followers, seconds)
        with leader_store(data) as store:
            _check(FeedEngine(store, leader), store, followers, posts)
    return posts * (followers + 1) / elapsed_s


def _post_rounds(
    leader: EngineClient, data: Path, followers: int, seconds: float
) -> tuple[int, float]:
    """Post in rounds until the time is over: (posts, seconds until their last row)."""
    round_posts = max(1, min(POSTS_A_ROUND_MAX, ROWS_A_ROUND // followers))
    posts = 0
    with leader_store(data) as store:
        engine = FeedEngine(store, leader)
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            first = posts

            def post(number: int, first: int = first) -> "Future[PostResult]":
                draft = ActivityDraft(actor="user:a", verb="post", object=f"n:{first + number}")
                return engine.post(TENANT, TARGET, draft)

            pipelined(post, count_max=round_posts)
            posts += round_posts
            _wait_idle(leader)
        return posts, time.perf_counter() - started


def _wait_idle(leader: EngineClient) -> None:
    """Wait until the leader has applied its whole log, and proposes nothing more."""
    before = -1
    while True:
        status = leader.status()
        if status.last_index == status.applied_index == before:
            return
        before = status.last_index if status.last_index == status.applied_index else -1
        time.sleep(_IDLE_POLL_S)


def _check(engine: FeedEngine, store: RocksStore, followers: int, posts: int) -> None:
    left = len(list(store.scan("outbox", b"", b"\xff", 1)))
    last = FeedId("timeline", f"u{followers - 1}")
    expected = min(posts, 1_000)
    found = len(engine.rows(TENANT, last, expected))
    if left or found != expected:
        raise RuntimeError(f"{last} has {found} rows of {expected}: the fan-out has not ended")


def _rows_alone(store: RocksStore, seconds: float) -> float:
    started, count = time.perf_counter(), 0
    for number in rounds(seconds):
        position = number.to_bytes(16)
        store.write(
            [
                Write("feeds", b"bench\0timeline:u%d\0" % follower + position, b"x" * 8)
                for follower in range(ROWS_A_BATCH)
            ]
        )
        count += ROWS_A_BATCH
    return count / (time.perf_counter() - started)
