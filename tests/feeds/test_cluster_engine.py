"""Engines beside three nodes: whatever is killed, what was acknowledged is there, and once."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

import pytest

from feeds.cli_cluster import start_cluster
from feeds.engine import FeedEngine
from feeds.events import Impression, Posted
from feeds.model import ActivityDraft, FeedId, TenantId, UserId
from feeds.remote import open_remote
from feeds.testing_cluster import NODES, leader_of, three_nodes, wait_for

WAIT_S = 60.0
DEMO = TenantId("demo")


@pytest.fixture
def cluster() -> Iterator[Path]:
    with three_nodes() as directory:
        yield directory


class Poster(Thread):
    """Posts one activity after the other at a node and records that it was seen; without keys."""

    def __init__(self, engine: FeedEngine, name: str) -> None:
        super().__init__()
        self.engine = engine
        self.author = FeedId("user", name)
        self.posted: list[str] = []
        self.failures: list[Exception] = []
        self.ending = Event()

    def run(self) -> None:
        while not self.ending.is_set():
            try:
                self.post()
            except Exception as error:  # noqa: BLE001 - the test tells it
                self.failures.append(error)
                return

    def post(self) -> None:
        draft = ActivityDraft(actor=str(self.author), verb="post", object=f"{len(self.posted)}")
        posted = self.engine.post(DEMO, self.author, draft).result(WAIT_S)
        self.posted.append(posted.activity.id)
        seen = Impression(
            time_us=posted.activity.time_us,
            user=UserId("bob"),
            activity_id=posted.activity.id,
            feed=str(self.author),
        )
        answer = self.engine.record(DEMO, [seen]).result(WAIT_S)
        assert (1, False) == (answer.recorded, answer.duplicate)


def test_what_is_acknowledged_at_any_node_is_there_once_though_leaders_are_killed(
    cluster: Path,
) -> None:
    with ExitStack() as stack:
        engines = [stack.enter_context(open_remote(cluster / f"{node}.sock")) for node in NODES]
        engines[0].create_tenant("demo").result(WAIT_S)
        for engine in engines:
            wait_for(lambda engine=engine: DEMO in engine.tenants(), "the tenant")
        posters = [Poster(engine, node) for engine, node in zip(engines, NODES, strict=True)]
        for poster in posters:
            poster.start()
        for _ in range(2):
            before = [len(poster.posted) for poster in posters]
            leader = leader_of(cluster)
            os.kill(int((cluster / f"{leader}.pid").read_text()), signal.SIGKILL)
            survivors = [place for place, node in enumerate(NODES) if node != leader]
            wait_for(
                lambda s=survivors, b=before: all(len(posters[n].posted) > b[n] + 5 for n in s),
                "writes after the leader was killed",
            )
            start_cluster(cluster)
            now = [len(poster.posted) for poster in posters]
            wait_for(
                lambda n=now: all(len(one.posted) > b for one, b in zip(posters, n, strict=True)),
                "writes at every node",
            )
        for poster in posters:
            poster.ending.set()
        for poster in posters:
            poster.join(WAIT_S)
        assert [] == [failure for poster in posters for failure in poster.failures]
    for node in NODES:
        with open_remote(cluster / f"{node}.sock") as engine:
            events = [event for _, _, event in engine.events(DEMO, 0, 50_000)]
            posts = [event.activity_id for event in events if isinstance(event, Posted)]
            seen = [event.activity_id for event in events if isinstance(event, Impression)]
            expected = sorted(one for poster in posters for one in poster.posted)
            assert expected == sorted(posts)
            assert expected == sorted(seen)
            for poster in posters:
                rows = engine.rows(DEMO, poster.author, min(len(poster.posted), 1_000))
                assert len(rows) == min(len(poster.posted), 1_000)
