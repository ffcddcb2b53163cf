"""Tables and follows beside a real node, while others write and the node goes and comes back."""

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from feeds.cli_cluster import init_cluster
from feeds.config import FeedsConfig
from feeds.counters import HOUR_US
from feeds.engine import FeedEngine
from feeds.events import Engagement, Impression
from feeds.model import ActivityDraft, ActivityId, FeedId, TenantId, UserId, identify
from feeds.node import EngineNode
from feeds.node_config import NodeConfig
from feeds.remote import open_remote
from feeds.testing_engine import NOW_US
from feeds.testing_ports import free_ports
from ranking.table import ActivityTable
from serving.activity_table import ActivityTables
from serving.follows import HeldFollows
from serving.table_loading import load_table
from serving.telemetry import Metrics
from serving.testing import wait_until

ACME = TenantId("acme")
USERS = ("ann", "bob", "eve")
CAPACITY = 1_000
WAIT_S = 30.0


@pytest.fixture
def config() -> Iterator[NodeConfig]:
    """A cluster of one that does not run yet."""
    with tempfile.TemporaryDirectory(prefix="hw") as directory:  # a socket's path is short
        (path,) = init_cluster(Path(directory), "test", free_ports(1), nodes=1, plain=True)
        yield NodeConfig.load(path)


def opened(stack: ExitStack, config: NodeConfig) -> FeedEngine:
    limits = FeedsConfig(retry_s=10.0)
    return stack.enter_context(open_remote(config.socket, limits, clock=lambda: NOW_US))


def tables_on(engine: FeedEngine) -> ActivityTables:
    return ActivityTables(engine, Metrics(), bytes_max=1, capacity=CAPACITY, backlog_max=100_000)


class Writer:
    """Writes of every kind, without end, many on their way at once."""

    def __init__(self, engine: FeedEngine) -> None:
        self._engine = engine
        self._ids: dict[int, ActivityId] = {}
        self._stop = threading.Event()
        self.written = 0
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        on_their_way: list[Future[Any]] = []
        for number in range(1_000_000):
            on_their_way.append(self._next(number))
            if len(on_their_way) >= 32:
                for done in on_their_way:
                    done.result(WAIT_S)
                self.written += len(on_their_way)
                on_their_way = []
                if self._stop.is_set():
                    return

    def _next(self, number: int) -> "Future[Any]":
        place, user = number % 40, UserId(USERS[number % 3])
        hours = number % 50
        if place not in self._ids or number % 11 == 5:
            draft = ActivityDraft(
                actor=f"user:{user}",
                verb="post",
                object=f"a{place}",
                foreign_id=f"a{place}",
                time_us=NOW_US - place * HOUR_US,
                custom={"tags": ["x", f"t{number % 5}"]},
            )
            self._ids[place] = identify(draft, draft.time_us or 0)
            return self._engine.post(ACME, FeedId("user", user), draft)
        activity, time_us = self._ids[place], NOW_US - hours * HOUR_US
        if number % 13 == 7:
            return self._engine.remove(ACME, activity)
        if number % 17 == 3:
            return self._engine.follow(
                ACME, FeedId("timeline", f"u{number % 7}"), FeedId("user", USERS[number % 2])
            )
        if number % 17 == 4:
            return self._engine.unfollow(
                ACME, FeedId("timeline", f"u{number % 7}"), FeedId("user", USERS[number % 2])
            )
        if number % 2:
            shown = Impression(time_us=time_us, user=user, activity_id=activity)
            return self._engine.record(ACME, [shown])
        liked = Engagement(time_us=time_us, user=user, activity_id=activity, kind="like")
        return self._engine.record(ACME, [liked])


def contents(table: ActivityTable) -> dict[str, Any]:
    """What the table counts of each activity, author and tag."""
    rows = table.alive_rows()
    names = table.names
    held: dict[str, Any] = {
        activity: (totals.tobytes(), int(index))
        for activity, totals, index in zip(
            table.ids(rows), table.counts.totals[rows], table.index[rows], strict=True
        )
    }
    for interner, counts in (
        (names.authors, table.author_counts),
        (names.tags, table.tag_counts),
    ):
        for name in interner.names:
            if name and interner.get(name) >= 0:
                held[name] = counts.totals[interner.get(name)].tobytes()
    return held


def test_tables_loaded_amid_writes_end_up_as_the_store(config: NodeConfig) -> None:
    with EngineNode.running(config), ExitStack() as stack:
        writer, reader = opened(stack, config), opened(stack, config)
        writer.create_tenant(ACME).result(WAIT_S)
        wait_until(lambda: reader.tenants() == [ACME], "the reader to see the tenant")
        followed: list[ActivityTables] = []

        async def load_again_and_again() -> None:
            with Writer(writer) as writing:
                while writing.written < 2_000:
                    if len(followed) < 15:
                        followed.append(tables_on(reader))
                    for tables in followed:
                        await tables.get(ACME)
            await see_all(writer, reader)
            expected = contents(load_table(reader, ACME, CAPACITY))
            assert len(expected) > 20
            for tables in followed:
                assert contents(await tables.get(ACME)) == expected

        asyncio.run(load_again_and_again())
        assert len(followed) > 2


def test_tables_and_follows_outlive_restarts_of_the_node(config: NodeConfig) -> None:
    with ExitStack() as stack:
        running = stack.enter_context(ExitStack())
        running.enter_context(EngineNode.running(config))
        writer, reader = opened(stack, config), opened(stack, config)
        writer.create_tenant(ACME).result(WAIT_S)
        wait_until(lambda: reader.tenants() == [ACME], "the reader to see the tenant")
        tables, follows = tables_on(reader), HeldFollows(reader, 1_000)
        users = [FeedId("timeline", f"u{number}") for number in range(7)]

        async def follow() -> None:
            with Writer(writer) as writing:
                for _ in range(3):
                    await tables.get(ACME)
                    for user in users:
                        follows.of(ACME, user)
                    seen = writing.written
                    wait_until(lambda: writing.written > seen + 300, "writes")  # noqa: B023
                    running.close()
                    running.enter_context(EngineNode.running(config))
            await see_all(writer, reader)
            assert contents(await tables.get(ACME)) == contents(load_table(reader, ACME, CAPACITY))
            for user in users:
                assert follows.of(ACME, user) == reader.follows(ACME, user)

        asyncio.run(follow())


async def see_all(writer: FeedEngine, reader: FeedEngine) -> None:
    """Until the reader has seen what the writer wrote, and its listeners were told."""
    last = writer.follow(ACME, FeedId("timeline", "last"), FeedId("user", "ann")).result(WAIT_S)
    await asyncio.to_thread(
        wait_until, lambda: reader.applied_index() >= last.index, "the reader to see all"
    )
    reader.follow(ACME, FeedId("timeline", "told"), FeedId("user", "ann")).result(WAIT_S)
