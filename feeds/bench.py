"""Measuring the engine: a replay through it with fdatasync on, and pages out of it.

The workload is seeded, so two runs measure the same work. Times are wall time of one process.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from feeds import actions
from feeds.actions import Action
from feeds.engine import FeedEngine
from feeds.importer import replay as replay_actions
from feeds.model import ActivityDraft, ActivityId, FeedId, TenantId, identify

__all__ = ["PageBench", "ReplayBench", "page", "replay", "workload"]

_START_US = 1_500_000_000_000_000
_TENANT = TenantId("bench")
_TOPICS = tuple(f"topic:t{number}" for number in range(20))
_EVENTS_PER_USER = 40
_EVENTS_PER_POST = 30
_EVENTS_PER_FOLLOW = 25


@dataclass(frozen=True, slots=True)
class ReplayBench:
    """How fast an action log goes through the engine; commands share an fdatasync as they come."""

    actions: int
    commands: int
    seconds: float
    actions_per_s: float


@dataclass(frozen=True, slots=True)
class PageBench:
    """How long one read takes, in microseconds."""

    rows: int
    reads: int
    p50_us: float
    p99_us: float


def workload(events: int, users: int = 900, seed: int = 1) -> Iterator[Action]:
    """Posts into two topics each, follows of topics, and engagements, as a community makes them.

    The numbers are those of MovieLens: a user engages about 40 times in a row, with anything.
    """
    rng = random.Random(seed)  # noqa: S311 - a workload that can be made again
    posted: list[ActivityId] = []
    for number in range(events):
        time_us = _START_US + number * 1_000_000
        if number % _EVENTS_PER_POST == 0:
            post = _post(len(posted), time_us, rng)
            posted.append(post[0])
            yield post[1]
        if number % _EVENTS_PER_FOLLOW == 0:
            yield actions.Follow(
                time_us=time_us,
                follower=f"timeline:u{rng.randrange(users)}",
                target=rng.choice(_TOPICS),
            )
        yield actions.Engage(
            time_us=time_us,
            user=f"u{number // _EVENTS_PER_USER % users}",
            activity_id=rng.choice(posted),
            kind="like",
        )


def _post(number: int, time_us: int, rng: random.Random) -> tuple[ActivityId, actions.Post]:
    topics = tuple(rng.sample(_TOPICS, 2))
    draft = ActivityDraft(
        actor=f"user:a{number % 200}",
        verb="post",
        object=f"movie:{number}",
        foreign_id=f"movie:{number}",
        to=topics,
        custom={"title": "x" * 40, "tags": list(topics)},
    )
    post = actions.Post(
        time_us=time_us,
        feed=draft.actor,
        actor=draft.actor,
        verb=draft.verb,
        object=draft.object,
        foreign_id=draft.foreign_id,
        to=draft.to,
        custom=draft.custom,
    )
    return identify(draft, time_us), post


def replay(directory: Path, events: int = 50_000, seed: int = 1) -> ReplayBench:
    """Replay the workload into a new data directory, with the log synced."""
    log = list(workload(events, seed=seed))
    with FeedEngine.open(directory) as engine:
        engine.create_tenant(_TENANT).result()
        report = replay_actions(engine, _TENANT, log)
    return ReplayBench(report.actions, report.last_index, report.seconds, report.actions_per_s)


def page(
    directory: Path, rows: int = 100, activities: int = 2_000, reads: int = 1_000
) -> PageBench:
    """Read the newest positions of one long feed in a new data directory."""
    feed = FeedId("timeline", "reader")
    with FeedEngine.open(directory) as engine:
        engine.create_tenant(_TENANT).result()
        engine.follow(_TENANT, feed, FeedId("topic", "t0")).result()
        for number in range(activities):
            draft = ActivityDraft(
                actor="user:a",
                verb="post",
                object=f"movie:{number}",
                time_us=_START_US + number * 1_000_000,
            )
            done = engine.post(_TENANT, FeedId("topic", "t0"), draft)
        done.result()
        return _timed(rows, reads, lambda: engine.rows(_TENANT, feed, rows))


def _timed(rows: int, reads: int, read: Callable[[], object]) -> PageBench:
    times = []
    for _ in range(reads):
        started = time.perf_counter_ns()
        read()
        times.append((time.perf_counter_ns() - started) / 1_000)
    times.sort()
    return PageBench(rows, reads, times[reads // 2], times[reads * 99 // 100])
